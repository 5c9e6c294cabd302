"""The whole path as an ordinary user: built, trained and owned without root. The build happens under
other conditions than root's (user, time zone, locale, umask, host name, TMPDIR, one CPU), and must
give the same bits."""

import json
import os
import pathlib
import pwd
import shutil
import subprocess

import support

NAME = "envkit-tester"


OTHERWISE = ["unshare", "--uts", "sh", "-c", "hostname elsewhere; umask 077; exec \"$@\"", "-",
             "taskset", "-c", str(min(os.sched_getaffinity(0)))]


def as_user(command, cwd, before=(), **env):
    keep = {name: value for name, value in os.environ.items()
            if name.endswith(("_BUNDLE", "_CERT", "_proxy", "_PROXY", "_CERT_FILE", "_CERT_DIR"))
            or name in ("PATH", "LANG", "UV_DEFAULT_INDEX", "PIP_INDEX_URL")}
    user = pwd.getpwnam(NAME)
    return subprocess.run(
        [*before, "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
         "--inh-caps=-all", *command],
        cwd=cwd, env={**keep, "HOME": user.pw_dir, "USER": NAME, **env}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


if os.getuid() != 0:
    support.skip("root runs this test as another user; an ordinary user has already run the others")
try:
    pwd.getpwnam(NAME)
except KeyError:
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", NAME], check=True)
user = pwd.getpwnam(NAME)
home = pathlib.Path(user.pw_dir)

# The program and its recipes where that user can read them; its own store; the downloads that the
# other tests made already, so that the network is not asked twice.
place = home / "envkit"
shutil.rmtree(place, ignore_errors=True)
(place / "bin").mkdir(parents=True)
shutil.copy(support.ENVKIT, place / "bin" / "envkit")
for folder in ("images", "runtime", "toolkit"):
    shutil.copytree(support.SOURCE / folder, place / "share" / "envkit" / folder)
project = support.new_project(place / "project")
store = home / "store"
if not (store / "downloads").exists() and (support.STORE / "downloads").exists():
    shutil.copytree(support.STORE / "downloads", store / "downloads")
for folder in ("layers", "keys", "images", "plans", "roots"):
    shutil.rmtree(store / folder, ignore_errors=True)  # of an earlier run: all is built now
subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", place, store], check=True)

program = str(place / "bin" / "envkit")
env = {"ENVKIT_STORE": str(store)}

# Root's image and the user's image of the same lock are the same bits.
(home / "tmp").mkdir(exist_ok=True)
os.chown(home / "tmp", user.pw_uid, user.pw_gid)
done = as_user([program, "build", "--profile", "train", "--variant", "cpu", "--json"], project,
               before=OTHERWISE, TZ="Pacific/Kiritimati", LC_ALL="tr_TR.UTF-8",
               TMPDIR=str(home / "tmp"), **env)
print(done.stdout[-6000:])
support.check(done.returncode == 0, f"exit code {done.returncode}")
theirs = json.loads(done.stdout[done.stdout.index("{"):done.stdout.rindex("}") + 1])
mine = json.loads(support.envkit("build", "--profile", "train", "--variant", "cpu", "--json",
                                 project=support.new_project(), quiet=True).stdout)
for ours, other in zip(mine["diff_ids"], theirs["diff_ids"]):
    print(f"diff_id  root {ours}\n         user {other}")
print(f"config   root {mine['config_digest']}\n         user {theirs['config_digest']}")
support.check(mine["diff_ids"] == theirs["diff_ids"], "the layers differ")
support.check(mine["config_digest"] == theirs["config_digest"], "the config digests differ")

done = as_user([program, "run", "train", "--engine", "oci", "--variant", "cpu", "--", "--set", "epochs=1"],
               project, **env)
print(done.stdout[-6000:])
support.check(done.returncode == 0, f"exit code {done.returncode}")
accuracy = support.summary(project)["metrics"]["test_accuracy"]
support.check(accuracy >= 0.985, f"test accuracy {accuracy}")
for path in (project / ".envkit").rglob("*"):
    support.check(path.lstat().st_uid == user.pw_uid, f"{path} belongs to {path.lstat().st_uid}")
done = as_user([program, "run", "--engine", "oci", "--variant", "cpu", "--", "sh", "-c",
                "id -u; id -g; touch made-inside"], project, **env)
print(done.stdout)
support.check(f"{user.pw_uid}\n{user.pw_gid}" in done.stdout, "another uid or gid inside")
support.check((project / "made-inside").stat().st_uid == user.pw_uid, "made-inside is not the user's")

"""The whole path as an ordinary user: built, trained and owned without root."""

import os
import pathlib
import pwd
import shutil
import subprocess

import support

NAME = "envkit-tester"


def as_user(command, cwd, **env):
    keep = {name: value for name, value in os.environ.items()
            if name.endswith(("_BUNDLE", "_CERT", "_proxy", "_PROXY", "_CERT_FILE", "_CERT_DIR"))
            or name in ("PATH", "LANG", "UV_DEFAULT_INDEX", "PIP_INDEX_URL")}
    user = pwd.getpwnam(NAME)
    return subprocess.run(
        ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
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
subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", place, store], check=True)

program = str(place / "bin" / "envkit")
env = {"ENVKIT_STORE": str(store)}
done = as_user([program, "run", "train", "--engine", "oci", "--variant", "cpu"], project, **env)
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

# Root's image and the user's image of the same lock are the same bits.
mine = support.envkit("build", "--variant", "cpu", "--json", project=support.new_project()).stdout
theirs = as_user([program, "build", "--variant", "cpu", "--json"], project, **env).stdout
import json  # noqa: E402
mine = json.loads(mine)
theirs = json.loads(theirs[theirs.index("{"):theirs.rindex("}") + 1])
support.check(mine["diff_ids"] == theirs["diff_ids"], f"{mine['diff_ids']}\n{theirs['diff_ids']}")
support.check(mine["config_digest"] == theirs["config_digest"], "the config digests differ")

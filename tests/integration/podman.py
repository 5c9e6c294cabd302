"""The podman engine, with root and without: the same image, the user's own number and files, an end by signal
that leaves nothing. Podman's images lie in a place of the test's own."""

import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import time

import support

if not shutil.which("podman"):
    support.skip("podman is not installed")
NAME = "envkit-tester"


class Person:
    def __init__(self, place, uid, store):
        self.uid = uid
        self.program = support.ENVKIT
        self.place = place
        place.mkdir()
        self.project = support.new_project(place / "project")
        (place / "containers.conf").write_text(
            # Without CAP_SYS_RESOURCE podman's own higher limits are refused.
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n')  # crun 1.8 refuses hybrid cgroups
        (place / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/images"\nrunroot = "{place}/run"\n'
            f'rootless_storage_path = "{place}/images"\n')
        (place / "runtime").mkdir(mode=0o700)
        self.env = {**os.environ, "HOME": str(place), "XDG_RUNTIME_DIR": str(place / "runtime"),
                    "XDG_STATE_HOME": str(place / "state"), "ENVKIT_STORE": str(store),
                    "CONTAINERS_CONF": str(place / "containers.conf"),
                    "CONTAINERS_STORAGE_CONF": str(place / "storage.conf")}
        self.before = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                       "--inh-caps=-all"] if uid else []
        if uid:
            subprocess.run(["chown", "-R", f"{uid}:{uid}", place], check=True)

    def run(self, *command, expect=0):
        print("+", *command, flush=True)
        done = subprocess.run([*self.before, *map(str, command)], cwd=self.project, env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              timeout=900)
        if expect is not None and done.returncode != expect:
            print(done.stdout[-3000:], done.stderr[-3000:])
        support.check(expect is None or done.returncode == expect,
                      f"exit code {done.returncode}, expected {expect}")
        return done

    def envkit(self, *arguments, **more):
        return self.run(self.program, *arguments, **more)

    def containers(self):
        return self.run("podman", "ps", "-a", "--quiet").stdout.split()

    def start(self, *arguments):
        return subprocess.Popen([*self.before, self.program, *arguments], cwd=self.project, env=self.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def works(person):
    here = ("--engine", "podman", "--variant", "cpu")
    done = person.envkit("run", *here, "--", "sh", "-c", "id -u; pwd; echo $OMP_NUM_THREADS; touch made; exit 7",
                         expect=7)
    support.check(done.stdout.split()[:2] == [str(person.uid), "/workspace"], done.stdout)
    support.check((person.project / "made").stat().st_uid == person.uid, "made by somebody else")
    started = time.monotonic()
    person.envkit("run", *here, "--", "true")
    print(f"true in {time.monotonic() - started:.2f} s")
    person.envkit("run", "train", *here, "--", "--set", "max_steps=30")
    record = support.summary(person.project)
    support.check(record["engine"] == "podman" and record["exit_code"] == 0, record)
    for file in person.project.rglob("*"):
        support.check(file.lstat().st_uid == person.uid, f"{file} belongs to another user")
    support.check(person.containers() == [], "a container is left")
    # Looked at, entered and stopped by name; then a kill that leaves nothing.
    job = person.start("run", "train", *here, "--", "--set", "epochs=200")
    try:
        end = time.monotonic() + 60
        while True:
            listed = json.loads(person.envkit("ps", "--json").stdout)["containers"]
            mine = [one for one in listed if one["engine"] == "podman"]
            if mine:
                break
            support.check(time.monotonic() < end, f"not listed: {listed}")
            time.sleep(0.2)
        support.check(mine[0]["job"] == "train" and mine[0]["project"] == str(person.project), mine)
        done = person.envkit("exec", "train", "--", "id", "-u")
        support.check(done.stdout.strip() == str(person.uid), done.stdout)
        while not list(person.project.glob(".envkit/runs/latest/metrics.jsonl")):
            time.sleep(0.1)
        person.envkit("stop", "train")
        support.check(job.wait(60) == 75, f"exit code {job.returncode}")
    finally:
        job.kill()
    job = person.start("run", *here, "--", "sleep", "1000")
    end = time.monotonic() + 30
    while not person.containers() and time.monotonic() < end:
        time.sleep(0.2)
    job.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while person.containers() and time.monotonic() < end:
        time.sleep(0.2)
    support.check(person.containers() == [], "a container is left after kill -9")


place = support.new_directory("envkit-podman-")
place.chmod(0o755)
try:
    me = Person(place / "me", os.getuid(), support.STORE)
    works(me)
    done = me.envkit("verify", "--engine", "podman", "--variant", "cpu", "--json", expect=None)
    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    support.check(checks["engine.image"]["verdict"] == "pass", checks["engine.image"])
    if os.getuid() == 0:
        # Somebody without root, with a store of their own.
        try:
            pwd.getpwnam(NAME)
        except KeyError:
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", NAME], check=True)
        account = pwd.getpwnam(NAME)
        store = pathlib.Path(account.pw_dir) / "store"
        user = Person(place / "user", account.pw_uid, store)
        user.program = str(place / "bin/envkit")
        (place / "bin").mkdir()
        shutil.copy(support.ENVKIT, user.program)
        for folder in ("images", "runtime", "toolkit"):
            shutil.copytree(support.SOURCE / folder, place / "share/envkit" / folder)
        image = place / "image.tar"
        me.envkit("image", "save", "--variant", "cpu", "-o", image)
        image.chmod(0o644)
        store.mkdir(exist_ok=True)
        os.chown(store, account.pw_uid, account.pw_gid)
        user.envkit("image", "load", image)
        works(user)
finally:
    # podman without root keeps a process that holds its namespaces, and with them mounts.
    subprocess.run(f"pkill -u {NAME} -x podman; sleep 1; umount -l {place}/*/images/overlay {place}/*/run 2>/dev/null; rm -rf {place}", shell=True)

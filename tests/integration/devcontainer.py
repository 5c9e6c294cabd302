"""`envkit render devcontainer` brought up by @devcontainers/cli on docker, and the Feature in somebody else's
image. As root and as an ordinary user, who gets their own number in the container."""

import json
import os
import pathlib
import pwd
import shutil
import subprocess

import support

VERSION = "0.89.0"
NAME = "envkit-tester"


def ensure_cli():
    place = support.CACHE / "envkit-tests" / "devcontainer"
    program = place / "node_modules/.bin/devcontainer"
    if not program.exists():
        if not shutil.which("npm"):
            support.skip("npm is not installed")
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "install", "--no-fund", "--no-audit", f"@devcontainers/cli@{VERSION}"],
                              cwd=place, capture_output=True, text=True)
        if done.returncode != 0:
            support.skip(f"@devcontainers/cli is not to be had: {done.stderr[-300:]}")


place = support.new_directory("envkit-devcontainer-")
place.chmod(0o755)
ensure_cli()
shutil.copytree(support.CACHE / "envkit-tests/devcontainer", place / "cli", symlinks=True)
CLI = place / "cli/node_modules/.bin/devcontainer"  # where anybody may read it


class Person:
    def __init__(self, name, uid, docker, program=support.ENVKIT, store=support.STORE):
        self.uid = uid
        self.program = program
        self.home = place / name
        self.project = support.new_project(self.home / "project")
        self.before = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                       "--inh-caps=-all"] if uid else []
        tools = self.home / "bin"
        tools.mkdir()
        (tools / "envkit").symlink_to(program)  # initializeCommand calls it by name
        self.env = {**os.environ, **docker, "HOME": str(self.home), "ENVKIT_STORE": str(store),
                    "XDG_STATE_HOME": str(self.home / "state"), "DOCKER_CONFIG": str(self.home / "docker"),
                    "PATH": f"{tools}:{os.environ['PATH']}"}
        if uid:
            subprocess.run(["chown", "-R", f"{uid}:{uid}", self.home], check=True)

    def run(self, *command):
        print("+", *command, flush=True)
        done = subprocess.run([*self.before, *map(str, command)], cwd=self.project, env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              timeout=1200)
        if done.returncode != 0:
            print(done.stdout[-4000:], done.stderr[-6000:])
        support.check(done.returncode == 0, f"exit code {done.returncode}")
        return done.stdout

    def devcontainer(self, verb, *arguments):
        return self.run(CLI, verb, "--workspace-folder", self.project, *arguments)


def brought_up(person):
    person.run(person.program, "render", "devcontainer", "--variant", "cpu", "-o", ".devcontainer")
    said = person.devcontainer("up", "--buildkit", "never")
    outcome = json.loads(said.splitlines()[-1])
    support.check(outcome["outcome"] == "success" and outcome["remoteWorkspaceFolder"] == "/workspace",
                  outcome)
    try:
        lines = person.devcontainer(
            "exec", "sh", "-c", "id -un; id -u; pwd; python3 -c 'import torch, torchvision, accelerate; "
            "print(torch.__version__)'; touch made; command -v envkit-launch; "
            "envkit-launch --processes 2 python3 -c 'import os; print(\"rank\", os.environ[\"RANK\"])'"
        ).splitlines()
        support.check(lines[:3] == ["envkit" if person.uid else "root", str(person.uid), "/workspace"],
                      lines)
        support.check(lines[3].startswith("2.") and lines[4] == "/opt/envkit/bin/envkit-launch", lines)
        support.check(sorted(line[-6:] for line in lines[5:] if "rank" in line) == ["rank 0", "rank 1"],
                      lines)
        support.check((person.project / "made").stat().st_uid == person.uid, "made by somebody else")
        state = json.loads(person.run("docker", "inspect", outcome["containerId"]))[0]
        host = state["HostConfig"]
        support.check(not host["Privileged"] and host["CapDrop"] == ["ALL"] and
                      "no-new-privileges" in host["SecurityOpt"], host)
        again = json.loads(person.devcontainer("up", "--buildkit", "never").splitlines()[-1])
        support.check(again["containerId"] == outcome["containerId"], "a second container was made")
    finally:
        person.run("docker", "rm", "-f", outcome["containerId"])


def feature_of_others(person):
    """The Feature in an image that is not ours."""
    folder = person.project / ".devcontainer"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(support.SOURCE / "devcontainer/envkit", folder / "envkit")
    shutil.copy(pathlib.Path(support.ENVKIT).parent / "envkit-launch", folder / "envkit")
    (folder / "devcontainer.json").write_text(json.dumps({
        "image": BASE, "features": {"./envkit": {}}, "remoteUser": "root",
        "runArgs": ["--network=host"]}))
    outcome = json.loads(person.devcontainer("up", "--buildkit", "never").splitlines()[-1])
    try:
        said = person.devcontainer("exec", "sh", "-c", "command -v envkit-launch && envkit-launch --processes 2 "
                                   "sh -c 'echo rank $RANK'")
        support.check("/opt/envkit/bin/envkit-launch" in said and "rank 0" in said and "rank 1" in said,
                      said)
    finally:
        person.run("docker", "rm", "-f", outcome["containerId"])


BASE = "somebody/else:1"
with support.dockerd() as docker:
    root = Person("root", 0, docker)
    brought_up(root)
    # An image that knows nothing of envkit: Debian alone, as mmdebstrap makes it.
    tree = place / "debian.tar"
    subprocess.run(["mmdebstrap", "--variant=minbase", "--mode=root", "trixie", tree], check=True,
                   capture_output=True)
    root.run("docker", "import", tree, BASE)
    feature_of_others(root)
    # Somebody without root, with a store of their own, who may ask docker.
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", NAME], check=True)
    account = pwd.getpwnam(NAME)
    socket = docker["DOCKER_HOST"].removeprefix("unix://")
    pathlib.Path(socket).parent.chmod(0o755)
    os.chown(socket, account.pw_uid, account.pw_gid)  # as the group docker is for
    (place / "bin").mkdir()
    shutil.copy(support.ENVKIT, place / "bin/envkit")
    for folder in ("images", "runtime", "toolkit"):
        shutil.copytree(support.SOURCE / folder, place / "share/envkit" / folder)
    image = place / "image.tar"
    root.run(support.ENVKIT, "image", "save", "--profile", "dev", "--variant", "cpu", "-o", image)
    image.chmod(0o644)
    store = pathlib.Path(account.pw_dir) / "store"
    store.mkdir(exist_ok=True)
    os.chown(store, account.pw_uid, account.pw_gid)
    user = Person("user", account.pw_uid, docker, place / "bin/envkit", store)
    user.run(user.program, "image", "load", image)
    brought_up(user)
shutil.rmtree(place)

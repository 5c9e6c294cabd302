"""`envkit render compose -o`: docker compose starts JupyterLab, TensorBoard and ssh from what it writes, they
let in by token and key alone, and the training job runs in it. With docker-compose 1.29 or `docker compose`,
whichever is there."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import support

COMPOSE = ["docker", "compose"]
if subprocess.run([*COMPOSE, "version"], capture_output=True).returncode != 0:
    COMPOSE = ["docker-compose"]
    if not shutil.which("docker-compose"):
        support.skip("neither docker compose nor docker-compose is installed")


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


place = support.new_directory("envkit-compose-")
project = support.new_project(place / "project")
with support.dockerd() as docker:
    env = {**docker, "HOME": str(place), "XDG_STATE_HOME": str(place / "state")}

    def compose(*arguments, expect=0):
        print("+", *COMPOSE, *arguments, flush=True)
        done = subprocess.run([*COMPOSE, *arguments], cwd=project, env={**os.environ, **env}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, timeout=600)
        support.check(expect is None or done.returncode == expect, done.stdout[-4000:])
        return done.stdout

    for profile in ("train", "dev"):
        support.envkit("run", "--engine", "docker", "--profile", profile, "--variant", "cpu", "--",
                       "true", project=project, env=env)
    said = support.envkit("render", "compose", "--variant", "cpu", "-o", "compose.yaml", project=project,
                          env=env).stdout
    ways = dict(line.split(None, 1) for line in said.splitlines() if " " in line)
    compose("--profile", "dev", "up", "-d")
    try:
        names = [line for line in subprocess.run(
            ["docker", "ps", "--format", "{{.Names}}"], env={**os.environ, **env}, text=True,
            capture_output=True).stdout.split()]
        support.check(len(names) == 3, names)
        end = time.monotonic() + 120
        while True:
            states = json.loads(subprocess.run(["docker", "inspect", *names], text=True,
                                               env={**os.environ, **env}, capture_output=True).stdout)
            health = {state["Name"]: state["State"].get("Health", {}).get("Status")
                      for state in states}
            if set(health.values()) == {"healthy"}:
                break
            if time.monotonic() > end:
                print(compose("logs", "--no-color", expect=None)[-6000:])
            support.check(time.monotonic() < end, f"not healthy: {health}")
            time.sleep(0.5)
        # In by the printed links and the printed command; not without.
        support.check(status(ways["jupyter"]) == 200, ways["jupyter"])
        root = ways["jupyter"].split("/lab?")[0]
        token = ways["jupyter"].split("token=")[1]
        support.check(status(f"{root}/api/contents") == 403, "no token is needed")
        support.check(status(f"{root}/api/contents?token={token}") == 200, "the token is not taken")
        support.check(status(ways["tensorboard"]) == 200, ways["tensorboard"])
        secret = re.search("[0-9a-f]{48}", ways["tensorboard"]).group()
        support.check(status("/".join(ways["tensorboard"].split("/")[:3]) + "/") == 404,
                      "TensorBoard needs no token")
        ssh = [*shlex.split(ways["ssh"]), "-o", "BatchMode=yes"]
        done = subprocess.run([*ssh, "id -u; python3 -c 'import torch; print(torch.__version__)'; "
                               "touch /workspace/made"], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, stdin=subprocess.DEVNULL)
        support.check(done.returncode == 0 and done.stdout.splitlines()[0] == str(os.getuid()),
                      done.stdout + done.stderr)
        support.check((project / "made").stat().st_uid == os.getuid(), "made by somebody else")
        keyless = [word for word in ssh if not word.endswith("id_ed25519")]
        keyless.remove("-i")
        done = subprocess.run([*keyless, "-o", "IdentityAgent=none", "-o", "IdentitiesOnly=yes", "true"],
                              text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                              env={**os.environ, "HOME": str(place)})
        support.check(done.returncode == 255 and "Permission denied (publickey)" in done.stderr,
                      done.stderr)
        text = json.dumps(states) + compose("config") + (project / "compose.yaml").read_text()
        support.check(token not in text and secret not in text and "PRIVATE KEY" not in text,
                      "a secret is to be seen")
        for state in states:
            host = state["HostConfig"]
            support.check(not host["Privileged"] and not host["PortBindings"] and
                          host["CapDrop"] == ["ALL"] and
                          [word.split(":")[0] for word in host["SecurityOpt"]] == ["no-new-privileges"],
                          host)
        for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            port = str(int(address.split(":")[1], 16))
            if state == "0A" and f":{port}/" in said:
                support.check(address.startswith("0100007F"), f"listens on {address}")
        # A second `render` keeps the links, a second `up` leaves all as it is.
        again = support.envkit("render", "compose", "--variant", "cpu", "-o", "compose.yaml",
                               project=project, env=env, quiet=True).stdout
        support.check(again == said, again)
        compose("--profile", "dev", "up", "-d")
        support.check(status(ways["jupyter"]) == 200, "the link has changed")
    finally:
        compose("--profile", "dev", "down", "-v", expect=None)
    # The job, with arguments of its own.
    compose("--profile", "train", "run", "--rm", "train", "--set", "max_steps=20")
    run = project / ".envkit/runs/compose-train"
    support.check(20 in support.metrics(run, "step") or (run / "summary.json").exists(),
                  sorted(str(path.relative_to(project)) for path in project.rglob("*"))[:40])
    for file in project.rglob("*"):
        support.check(file.lstat().st_uid == os.getuid(), f"{file} belongs to another user")
shutil.rmtree(place)

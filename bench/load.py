#!/usr/bin/env python3
"""From an image in the store to a container of it in docker: `envkit run --engine docker` beside
`docker load` and `skopeo copy`, interleaved.

    bench/load.py [--profile python] [--variant cpu] [--runs N]

Twice for each: into a docker that has nothing, and, after a small file of the image has changed, into
one that has the old image. What the peers send is written beforehand (a docker-archive for docker
load, an OCI layout for skopeo) and not timed; envkit sends from its store, and hashes what it sends. Each way has a dockerd of its own, each
run another one and the ways in another order, and ends when `true` has run in a container. Needs root, docker.io and skopeo, and
three times the image's size of disk for each run.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

top = pathlib.Path(__file__).resolve().parent.parent
options = argparse.ArgumentParser()
options.add_argument("--profile", default="python")
options.add_argument("--variant", default="cpu")
options.add_argument("--runs", type=int, default=3)
arguments = options.parse_args()
program = os.environ.get("ENVKIT") or str(top / "envkitw")
image = ["--profile", arguments.profile, "--variant", arguments.variant]
home = pathlib.Path.home()
data = pathlib.Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "envkit"
data.mkdir(parents=True, exist_ok=True)
work = pathlib.Path(tempfile.mkdtemp(prefix="envkit-bench-", dir=data))


def call(*command, env=None, **more):
    done = subprocess.run(list(map(str, command)), cwd=top, env={**os.environ, **(env or {})}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


class Image:
    """One state of the image: what envkit makes from SHARE."""

    def __init__(self, name, share):
        self.env = {"ENVKIT_SHARE": str(share)}
        self.archive, self.layout = work / f"{name}.tar", work / name
        self.tag = f"bench:{name}"
        # With the project's data, which the peers do not have to fetch either.
        call(program, "run", "--engine", "oci", *image, "--", "true", env=self.env)
        call(program, "image", "save", *image, "--format", "docker-archive", "-o", self.archive, env=self.env)
        call(program, "image", "save", *image, "--compression", "gzip", "-o", self.layout, env=self.env)

    def envkit(self, docker):
        call(program, "run", "--engine", "docker", *image, "--", "true", env={**self.env, **docker})

    def docker_load(self, docker):
        words = call("docker", "load", "-i", self.archive, env=docker)  # "Loaded image: NAME"
        self.start(words.split(": ", 1)[1].split()[0], docker)

    def skopeo_copy(self, docker):
        call("skopeo", "--insecure-policy", "copy", "-q", f"oci:{self.layout}", f"docker-daemon:{self.tag}",
             "--dest-daemon-host", docker["DOCKER_HOST"])
        self.start(self.tag, docker)

    def start(self, name, docker):
        call("docker", "run", "--rm", "--network=host", "--entrypoint", "true", name, env=docker)


class Docker:
    def __init__(self, root):
        root.mkdir()
        self.root = root
        self.env = {"DOCKER_HOST": f"unix://{root}/socket"}
        with open(root / "log", "w") as log:
            self.daemon = subprocess.Popen(
                [shutil.which("dockerd") or "/usr/sbin/dockerd", "--data-root", root / "data", "--exec-root",
                 root / "exec", "-H", self.env["DOCKER_HOST"], "--pidfile", root / "pid", "--iptables=false",
                 "--bridge=none"], stdout=log, stderr=log)
        for _ in range(300):
            if subprocess.run(["docker", "info"], env={**os.environ, **self.env},
                              capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        self.stop()
        sys.exit("dockerd does not answer: " + (root / "log").read_text()[-2000:])

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait(60)
        subprocess.run(f"umount -l {self.root}/exec/netns/* {self.root}/data/overlay2 {self.root}/data",
                       shell=True, stderr=subprocess.DEVNULL)


def seconds(way, docker):
    subprocess.run(["sync"])
    started = time.monotonic()
    way(docker.env)
    return time.monotonic() - started


ways = {"envkit run": Image.envkit, "docker load": Image.docker_load, "skopeo copy": Image.skopeo_copy}
bounds = {"nothing is there": 0.8, "one file has changed": 2}
times = {case: {name: [] for name in ways} for case in bounds}
try:
    share = work / "share"
    for name in ("images", "runtime", "toolkit"):
        shutil.copytree(top / name, share / name)
    old = Image("old", top)
    (share / "images/rootfs/etc").mkdir(exist_ok=True)
    (share / "images/rootfs/etc/changed").write_text("changed\n")
    new = Image("new", share)
    for run in range(arguments.runs):
        order = list(ways)[run % 3:] + list(ways)[:run % 3]
        for name, way in ((name, ways[name]) for name in order):
            docker = Docker(work / f"{name.replace(' ', '-')}-{run}")
            try:
                for case, state in zip(times, (old, new)):
                    times[case][name].append(seconds(lambda env: way(state, env), docker))
                    print(f"run {run + 1}: {case:22} {name:12} {times[case][name][-1]:6.2f} s", flush=True)
            finally:
                docker.stop()
finally:
    shutil.rmtree(work, ignore_errors=True)
failed = False
for case, bound in bounds.items():
    for name in list(ways)[1:]:
        ratio = statistics.median(a / b for a, b in zip(times[case][name], times[case]["envkit run"]))
        print(f"{case}: {name} / envkit, pair by pair: {ratio:.2f} (bound {bound})")
        failed |= ratio < bound
sys.exit(1 if failed else 0)

"""What the integration tests share: a project of their own, the store, the built program."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(os.environ["ENVKIT_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ENVKIT_BUILD_DIR"])
ENVKIT = os.environ["ENVKIT"]

# One store for all tests, kept between runs: it may be deleted at any time.
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
STORE = pathlib.Path(os.environ.get("ENVKIT_TEST_STORE") or CACHE / "envkit-tests" / "store")


def skip(why):
    """Ends the test as skipped (ctest's SKIP_RETURN_CODE)."""
    print(f"skipped: {why}")
    sys.exit(77)


def check(condition, message):
    if not condition:
        print(f"FAILED: {message}")
        sys.exit(1)


def new_directory(prefix="envkit-test-"):
    return pathlib.Path(tempfile.mkdtemp(prefix=prefix))


def new_project(directory=None):
    """A copy of the repository's own example: its project file, lock and training configuration."""
    directory = directory or new_directory()
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("envkit.toml", "envkit.lock", "train.toml"):
        shutil.copy(SOURCE / name, directory / name)
    return directory


def environment(store=STORE, **more):
    env = dict(os.environ)
    env["ENVKIT_STORE"] = str(store)
    for name, value in more.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return env


def envkit(*arguments, project, store=STORE, env=None, timeout=1500, expect=0, quiet=False):
    """Runs envkit in PROJECT; checks the exit code; returns the finished process (text)."""
    command = [ENVKIT, *map(str, arguments)]
    print("+", "envkit", *arguments, flush=True)
    done = subprocess.run(command, cwd=project, env=environment(store, **(env or {})), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                          timeout=timeout)
    if not quiet or done.returncode != expect:
        print(done.stdout[-6000:], end="")
        print(done.stderr[-6000:], end="", flush=True)
    if expect is not None:
        check(done.returncode == expect, f"exit code {done.returncode}, expected {expect}")
    return done


def latest_run(project):
    return (pathlib.Path(project) / ".envkit" / "runs" / "latest").resolve()


def summary(project):
    return json.loads((latest_run(project) / "summary.json").read_text())


def metrics(run, key):
    """{step: value} of one scalar of metrics.jsonl."""
    values = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if key in entry:
            values[entry["step"]] = entry[key]
    return values


def new_example(name):
    """A copy of examples/NAME, with the repository's lock where it has none: the same inputs."""
    directory = new_directory() / name
    shutil.copytree(SOURCE / "examples" / name, directory, ignore=shutil.ignore_patterns(".envkit"))
    if not (directory / "envkit.lock").exists():
        shutil.copy(SOURCE / "envkit.lock", directory / "envkit.lock")
    return directory


@contextlib.contextmanager
def dockerd():
    """A dockerd of its own; gives the environment in which docker speaks to it."""
    if os.getuid() != 0:
        skip("starting a dockerd needs root")
    program = shutil.which("dockerd") or "/usr/sbin/dockerd"
    if not os.path.exists(program):
        skip("dockerd is not installed")
    root = new_directory("envkit-docker-")
    env = {"DOCKER_HOST": f"unix://{root}/docker.sock"}
    with open(root / "dockerd.log", "w") as log:
        daemon = subprocess.Popen(
            [program, "--data-root", root / "data", "--exec-root", root / "exec", "-H",
             env["DOCKER_HOST"], "--pidfile", root / "pid", "--iptables=false", "--bridge=none"],
            stdout=log, stderr=log)
    try:
        while subprocess.run(["docker", "info"], env={**os.environ, **env},
                             capture_output=True).returncode != 0:
            if daemon.poll() is not None:
                print((root / "dockerd.log").read_text()[-3000:])
                skip("dockerd cannot run here")
            time.sleep(0.1)
        yield env
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
        subprocess.run(f"umount -l {root}/exec/netns/default {root}/data/overlay2 {root}/data "
                       f"2>/dev/null; rm -rf {root}",
                       shell=True)

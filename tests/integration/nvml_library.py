"""NVIDIA's real libnvidia-ml.so.1 on a machine without its driver: probed without a crash, and reported
as what it is. The package comes from Debian's non-free, into the user's cache."""

import json
import os
import pathlib
import platform
import shutil
import subprocess

import support

CACHE = support.CACHE / "envkit-tests" / "libnvidia-ml"
SOURCES = pathlib.Path("/etc/apt")


def fetch():
    """libnvidia-ml1 with apt, from the mirrors that this machine has, with non-free switched on."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            support.skip(f"{tool} is not installed")
    state = support.new_directory("envkit-apt-")
    for name in ("lists/partial", "cache/archives/partial", "sources.d"):
        (state / name).mkdir(parents=True)
    for path in [SOURCES / "sources.list", *(SOURCES / "sources.list.d").glob("*.sources"),
                 *(SOURCES / "sources.list.d").glob("*.list")]:
        if not path.is_file():
            continue
        lines = []
        for line in path.read_text().splitlines():
            if line.startswith("Components:"):
                line = "Components: non-free"
            elif line.startswith("deb ") and " main" in line:
                line = line[: line.index(" main")] + " non-free"
            lines.append(line)
        (state / "sources.d" / path.name).write_text("\n".join(lines) + "\n")
    options = ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache",
               "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={state}/sources.d",
               "-o", "APT::Sandbox::User=root"]
    for command in (["update"], ["download", "libnvidia-ml1"]):
        done = subprocess.run(["apt-get", *options, *command], cwd=state, capture_output=True, text=True)
        if done.returncode != 0:
            support.skip(f"apt-get {command[0]}: {done.stderr.strip()[-300:]}")
    (package,) = state.glob("*.deb")
    unpacked = CACHE.with_suffix(".new")
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    unpacked.rename(CACHE)
    shutil.rmtree(state)


if list(pathlib.Path("/dev").glob("nvidia[0-9]*")):
    support.skip("this machine has a driver")
if platform.machine() != "x86_64":
    support.skip("only the package for x86-64 is tried")
if not CACHE.exists():
    fetch()
libraries = sorted(CACHE.rglob("libnvidia-ml.so.1"))
support.check(libraries, f"no libnvidia-ml.so.1 below {CACHE}")
project = support.new_directory()
done = subprocess.run([support.ENVKIT, "doctor", "--save", "facts.json"], cwd=project, text=True,
                      env={**os.environ, "LD_LIBRARY_PATH": str(libraries[0].parent)}, capture_output=True,
                      timeout=60)
print(done.stdout)
support.check(done.returncode == 0, done.stderr)
nvml = json.loads((project / "facts.json").read_text())["nvml"]
print({name: nvml[name] for name in ("present", "library", "init", "nvml_version", "unknown", "step")})
support.check(nvml["present"] and nvml["unknown"] == "" and nvml["step"] == "", "the probe did not end")
support.check(nvml["init"]["value"] == 9, "NVML without a driver answers 9")
support.check(nvml["gpus"] == [], "there are no GPUs")
support.check("libnvidia-ml   installed, with nothing to do" in " ".join(done.stdout.split("\n"))
              or "installed, with nothing to do" in done.stdout, "the report does not name it")

"""kill -9 at random moments of download, build and training: the next run completes, and no
checkpoint is ever unreadable. `kill.py N` does N kills; the seed is printed and can be given."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

import support

kills = int(sys.argv[1])
seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
print(f"seed {seed}", flush=True)
rng = random.Random(seed)
project = support.new_project()
store = support.new_directory("envkit-kill-store-")


def readable(model):
    """A safetensors file is whole: its header parses and its size is exactly what the header says."""
    data = model.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    return len(data) == 8 + length + end


def processes_left():
    """Processes of this project: by their environment on the host, by their mounts in a container."""
    left = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/mountinfo") as mounts:
                if str(store).encode() in environ.read() or str(project) in mounts.read():
                    left.append((pid, open(f"/proc/{pid}/cmdline").read().replace("\0", " ")))
        except OSError:
            pass
    return left


def forget_builds():
    """All but the downloads, so that the next run builds."""
    for folder in ("layers", "keys", "images", "plans", "roots", "data"):
        shutil.rmtree(store / folder, ignore_errors=True)


arguments = [support.ENVKIT, "run", "train", "--engine", "oci", "--variant", "cpu", "--", "--set",
             "max_steps=150", "--set", "checkpoint_every=10"]
if (support.STORE / "downloads").exists() and kills <= 3:
    # A short run need not fetch half a gigabyte for each kill: most of the downloads are there.
    shutil.copytree(support.STORE / "downloads", store / "downloads")
    for path in sorted((store / "downloads").glob("*"))[::7]:
        shutil.rmtree(path)

for number in range(kills):
    phase = ["download", "build", "training"][number % 3]
    if phase == "download":
        names = sorted((store / "downloads").glob("*")) if store.exists() else []
        for path in rng.sample(names, len(names) // 3):
            shutil.rmtree(path)
        forget_builds()
        delay = rng.uniform(0, 8)
    elif phase == "build":
        forget_builds()
        delay = rng.uniform(0, 100)
    else:
        delay = rng.uniform(0, 8)
    child = subprocess.Popen(arguments, cwd=project, env=support.environment(store), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    time.sleep(delay)
    ended = child.poll() is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 10
    while processes_left() and time.monotonic() < deadline:
        time.sleep(0.05)
    support.check(not processes_left(), f"still running: {processes_left()}")
    print(f"kill {number + 1}: {phase}, after {delay:.1f} s{' (it had ended)' if ended else ''}", flush=True)
    for model in project.glob(".envkit/runs/*/checkpoints/*/model.safetensors"):
        support.check(readable(model), f"{model} is damaged")
    resume = ["--resume"] if phase == "training" else []
    support.envkit(*arguments[1:], *resume, project=project, store=store, quiet=True)
    support.check(support.summary(project)["exit_code"] == 0, "the next run did not complete")

stale = list((store / "tmp").glob("*"))
support.check(not stale, f"left in the store's tmp: {stale}")
shutil.rmtree(store, ignore_errors=True)
shutil.rmtree(project, ignore_errors=True)

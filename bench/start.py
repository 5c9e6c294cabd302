#!/usr/bin/env python3
"""Start-up, side by side: `envkit run -- true` and `docker run … true` on the same image, interleaved.

    bench/start.py [RUNS]     needs: an image that is built, and a docker daemon that answers (else the
                              peer is left out). Prints medians and the ratio; fails when ours is slower.
Also: from the command to the first training step of `run train`, read from the run's own record.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

top = pathlib.Path(__file__).resolve().parent.parent
wrapper = str(top / "envkitw")
runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9


def seconds(command):
    started = time.monotonic()
    done = subprocess.run(command, cwd=top, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return time.monotonic() - started


def row(name, values):
    print(f"{name:34} min {min(values) * 1e3:6.0f}  median {statistics.median(values) * 1e3:6.0f}  "
          f"max {max(values) * 1e3:6.0f} ms")


ours = [wrapper, "run", "--engine", "oci", "--variant", "cpu", "--", "true"]
docker = subprocess.run(["docker", "info"], capture_output=True).returncode == 0
peer = None
if docker:
    seconds([wrapper, "run", "--engine", "docker", "--variant", "cpu", "--", "true"])  # loads the image
    plan = json.loads(subprocess.run(
        [wrapper, "run", "--engine", "docker", "--variant", "cpu", "--dry-run", "--json", "--", "true"],
        cwd=top, capture_output=True, text=True, check=True).stdout)
    peer = ["docker", "run", "--rm", "--network", "host", "--entrypoint", "true",
            "sha256:" + plan["image"]["config_digest"]]
seconds(ours)
mine, theirs = [], []
for _ in range(runs):
    mine.append(seconds(ours))
    if peer:
        theirs.append(seconds(peer))
row("./envkitw run -- true (oci)", mine)
if peer:
    row("docker run IMAGE true", theirs)
    ratio = statistics.median(a / b for a, b in zip(mine, theirs))
    print(f"ratio, pair by pair: {ratio:.2f}")

first = []
for _ in range(max(3, runs // 2)):
    started = time.time()
    seconds([wrapper, "run", "train", "--engine", "oci", "--variant", "cpu", "--", "--set", "max_steps=5"])
    record = (top / ".envkit/runs/latest").resolve() / "metrics.jsonl"
    first.append(json.loads(record.read_text().splitlines()[0])["time"] - started)
row("command → first training step", first)
sys.exit(1 if peer and ratio > 1 else 0)

#!/usr/bin/env python3
"""The launcher beside torchrun and accelerate launch: two ranks that do nothing, and a failure's teardown.

    bench/launch.py [RUNS]     interleaved; prints medians and ratios
    bench/launch.py 5 64       also: that many ranks of a program, from the start to the end

The peers come from the virtual environment of tests/integration/launch_compat.py, and are left out where
that is missing. Fails when a no-op is less than 100 times as fast as theirs, or a teardown takes over 50 ms
while the peers of the failed rank obey SIGTERM.
"""

import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

top = pathlib.Path(__file__).resolve().parent.parent
build = pathlib.Path(os.environ.get("ENVKIT_BUILD_DIR", top / "build/test")) / "bin"
cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
venv = cache / "envkit-tests/launch-venv/bin"
runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
many = int(sys.argv[2]) if len(sys.argv) > 2 else 64
environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def seconds(command, expect=0):
    with tempfile.TemporaryDirectory() as directory:
        started = time.monotonic()
        done = subprocess.run(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
        took = time.monotonic() - started
    if done.returncode != expect:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return took, done.stderr


def row(name, values):
    print(f"{name:44} min {min(values) * 1e3:8.1f}  median {statistics.median(values) * 1e3:8.1f}  "
          f"max {max(values) * 1e3:8.1f} ms")


ours = [build / "envkit-launch", "--processes", "2", "--no-python", "true"]
commands = {"envkit-launch": ours, "envkit launch": [build / "envkit", "launch", *ours[1:]]}
if (venv / "torchrun").exists():
    commands["torchrun"] = [venv / "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "true"]
    commands["accelerate launch"] = [venv / "accelerate", "launch", "--multi_gpu", "--num_processes", "2",
                                     "--main_process_port", "0", "--no_python", "true"]
for command in commands.values():
    seconds(command)  # once for the page cache
taken = {name: [] for name in commands}
for _ in range(runs):
    for name, command in commands.items():
        taken[name].append(seconds(command)[0])
print("no-op, 2 ranks")
for name, values in taken.items():
    row("  " + name, values)
slow = False
for peer in ("torchrun", "accelerate launch"):
    if peer in taken:
        ratio = statistics.median(theirs / mine for mine, theirs in zip(taken["envkit-launch"], taken[peer]))
        print(f"  {peer} takes {ratio:.0f} times as long, pair by pair")
        slow |= ratio < 100

teardown = []
for _ in range(runs):
    report = seconds([build / "envkit-launch", "--processes", "4", "--", build / "rank_program", "2:exit=7",
                      "sleep=1000"], expect=7)[1]
    found = re.search(r"stopped in ([0-9.]+) (ms|s)", report)
    teardown.append(float(found[1]) / (1e3 if found[2] == "ms" else 1))
print("a rank of 4 fails")
row("  until its peers are gone", teardown)

starts = [seconds([build / "envkit-launch", "--processes", str(many), "--no-python", "true"])[0]
          for _ in range(max(3, runs // 2))]
row(f"no-op, {many} ranks", starts)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Each rank says 50 lines, one each 64 ms: 1,000 lines a second from 64 of them.
steps = [word for i in range(50) for word in (f"print=a line of this rank {i}", "sleep=0.064")]
with tempfile.TemporaryDirectory() as directory:
    job = subprocess.Popen([build / "envkit-launch", "--processes", "64", "--", build / "rank_program", *steps],
                           cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    time.sleep(1)
    supervisor = int(open(f"/proc/{job.pid}/task/{job.pid}/children").read().split()[0])
    before, started = cpu_seconds(supervisor), time.monotonic()
    time.sleep(2)
    share = (cpu_seconds(supervisor) - before) / (time.monotonic() - started)
    job.communicate()
print(f"64 ranks with 1,000 lines a second in all: the launcher uses {share * 100:.1f} % of a core")
sys.exit(1 if slow or statistics.median(teardown) > 0.05 else 0)

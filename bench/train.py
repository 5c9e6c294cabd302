#!/usr/bin/env python3
"""envkit-train beside Python's DDP and Hugging Face's Accelerate: the same torch, model, data and threads.

    bench/train.py [ROUNDS] [RANKS]     interleaved; medians and ratios of a step, of a whole job, of memory

The peers, and the torch that the runtime is compiled against, come from the virtual environment of
tests/integration/launch_compat.py. ENVKIT_RUNTIME_BUILD names a Release build of runtime/ against it; where
it is missing, build/bench is made. Fails below the thresholds of THRESHOLDS.
"""

import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

top = pathlib.Path(__file__).resolve().parent.parent
cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
venv = cache / "envkit-tests/launch-venv"
build = pathlib.Path(os.environ.get("ENVKIT_RUNTIME_BUILD", top / "build/bench"))
launcher = pathlib.Path(os.environ.get("ENVKIT_BUILD_DIR", top / "build/test")) / "bin/envkit-launch"
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
ranks = int(sys.argv[2]) if len(sys.argv) > 2 else 2
# How many times as fast as the faster peer: a step, and a whole job.
THRESHOLDS = {"mlp": (2.5, 8), "cnn": (1.5, None), "gpt": (0.97, None)}
STEPS = {"mlp": 300, "cnn": 80, "gpt": 30}

if not (venv / "bin/torchrun").exists():
    sys.exit(f"there is no {venv}; tests/integration/launch_compat.py makes it")
if not (build / "envkit-train").exists():
    site = next((venv / "lib").glob("python3*/site-packages"))
    subprocess.run(["cmake", "-S", top / "runtime", "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                    f"-DENVKIT_SITE_PACKAGES={site}"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build], check=True, stdout=subprocess.DEVNULL)

work = pathlib.Path(tempfile.mkdtemp(prefix="envkit-bench-train-"))
data = work / "data"
data.mkdir()
generator = random.Random(1)
for part, count in (("train", 12800), ("t10k", 100)):
    (data / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28)
                                                     + generator.randbytes(count * 784))
    (data / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count)
                                                     + bytes(i * 7 % 10 for i in range(count)))
for part, count in (("train", 300_000), ("val", 2_000)):
    (data / f"{part}.bin").write_bytes(b"".join(struct.pack("<H", generator.randrange(512)) for _ in range(count)))
environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def timed(command, **variables):
    began = time.monotonic()
    child = subprocess.Popen(list(map(str, command)), env={**environment, **variables}, cwd=work,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command}: exit code {child.returncode}\n{errors.decode()[-3000:]}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def ours(model, number):
    run = work / f"run-{model}-{number}"
    run.mkdir()
    settings = [f"data.dir={data}", f"model.kind={model}", "epochs=1000", f"max_steps={STEPS[model]}",
                "checkpoint_every=0", f"log_every={STEPS[model] // 4}", "data.evaluation_samples=16"]
    if model == "gpt":
        settings += ["data.kind=tokens", "global_batch=8", "model.vocabulary=512", "model.context=128",
                     "model.layers=4", "model.heads=4", "model.width=128"]
    command = [launcher, "--processes", ranks, "--no-python", build / "envkit-train", "--config", "/dev/null"]
    for setting in settings:
        command += ["--set", setting]
    wall, memory = timed(command, ENVKIT_RUN_DIR=str(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["train/samples_per_second"] for line in lines if "train/samples_per_second" in line]
    batch = 8 if model == "gpt" else 128
    return batch / statistics.median(speeds[2:]), wall, memory  # without the first step and the first quarter


def peer(kind, model, number):
    out = work / f"{kind}-{model}-{number}"
    script = [top / "bench/train_peer.py", kind, model, data, out, STEPS[model]]
    # Accelerate's own launcher starts one rank on CPUs, or wants GPUs.
    command = [venv / "bin/torchrun", "--standalone", "--nproc-per-node", ranks, *script]
    wall, memory = timed(command)
    return json.loads(out.read_text())["step"], wall, memory


failed = []
print(f"{ranks} ranks, one thread each, {rounds} rounds, interleaved; medians")
for model, (step_threshold, job_threshold) in THRESHOLDS.items():
    taken = {"envkit": [], "DDP": [], "Accelerate": []}
    for number in range(rounds):
        taken["envkit"].append(ours(model, number))
        taken["DDP"].append(peer("ddp", model, number))
        taken["Accelerate"].append(peer("accelerate", model, number))
    middle = {name: [statistics.median(column) for column in zip(*values)] for name, values in taken.items()}
    for name, (step, wall, memory) in middle.items():
        steps = [value[0] * 1e3 for value in taken[name]]
        print(f"{model:4} {name:11} step {step * 1e3:7.2f} ms ({min(steps):.2f} to {max(steps):.2f})   "
              f"job of {STEPS[model]} steps {wall:6.2f} s   peak {memory:5.0f} MB a rank")
    peers = [middle["DDP"], middle["Accelerate"]]
    ratios = [min(peer[i] for peer in peers) / middle["envkit"][i] for i in range(3)]
    print(f"{model:4} {'times':11} step {ratios[0]:7.2f}    job {ratios[1]:.2f}    memory {ratios[2]:.2f}", flush=True)
    if ratios[0] < step_threshold:
        failed.append(f"{model}: a step is {ratios[0]:.2f} times as fast, not {step_threshold}")
    if job_threshold and ratios[1] < job_threshold:
        failed.append(f"{model}: a job is {ratios[1]:.2f} times as fast, not {job_threshold}")
    if ratios[2] < 1:
        failed.append(f"{model}: needs more memory than the peers")
sys.exit("\n".join(failed) if failed else 0)

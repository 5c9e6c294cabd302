#!/usr/bin/env python3
"""envkit-train beside Python's DDP and Hugging Face's Accelerate: the same torch, model, data and threads.

    bench/train.py [ROUNDS] [PART...]     PART: mlp cnn gpt start; 5 rounds of all parts take 5 minutes idle

mlp, cnn, gpt: 2 ranks, one thread each, interleaved: the median of a step, of the whole job (command to saved
model), of the largest rank's memory. start: 8 ranks, one step. All three must come to the same loss. The peers,
and the torch that the runtime is compiled against, come from the virtual environment of
tests/integration/launch_compat.py. ENVKIT_RUNTIME_BUILD names a Release build of runtime/ against it; where it is
missing, build/bench is made. Fails below the thresholds of PARTS.
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
# model, ranks, steps, and how many times as fast as the faster peer a step and a whole job must be
PARTS = {"mlp": ("mlp", 2, 100, 2.5, 8), "cnn": ("cnn", 2, 60, 1.5, None), "gpt": ("gpt", 2, 30, 0.97, None),
         "start": ("mlp", 8, 1, None, 8)}
# Batches are not in the same order, weights not the same random ones: losses agree so far, relative.
# The loss of a first step is the random weights' alone.
SAME_LOSS = {"mlp": 0.15, "cnn": 0.05, "gpt": 0.03, "start": 0.6}

arguments = sys.argv[1:]
rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 5
parts = arguments or list(PARTS)
if not (venv / "bin/torchrun").exists():
    sys.exit(f"there is no {venv}; tests/integration/launch_compat.py makes it")
if not (build / "envkit-train").exists():
    site = next((venv / "lib").glob("python3*/site-packages"))
    subprocess.run(["cmake", "-S", top / "runtime", "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_UNITY_BUILD=ON",
                    f"-DENVKIT_SITE_PACKAGES={site}"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build, "envkit-train"], check=True, stdout=subprocess.DEVNULL)

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


def timed(command, again=0, **variables):
    began = time.time()
    child = subprocess.Popen(list(map(str, command)), env={**environment, **variables}, cwd=work,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0 and again:
        print(f"  {command[-5]}: exit code {child.returncode}; once more", flush=True)
        return timed(command, again - 1, **variables)
    if child.returncode != 0:
        sys.exit(f"{command}: exit code {child.returncode}\n{errors.decode()[-3000:]}")
    return began, time.time(), usage.ru_maxrss / 1024


def ours(part, number):
    model, ranks, steps = PARTS[part][:3]
    run = work / f"run-{part}-{number}"
    run.mkdir()
    every = max(1, steps // 10)
    settings = [f"data.dir={data}", f"model.kind={model}", "epochs=1000", f"max_steps={steps}", "checkpoint_every=0",
                f"log_every={every}", "data.evaluation_samples=16", "schedule.name=constant",
                "schedule.warmup_steps=0"]
    if model == "gpt":
        settings += ["data.kind=tokens", "global_batch=8", "model.vocabulary=512", "model.context=128",
                     "model.layers=4", "model.heads=4", "model.width=128"]
    command = [launcher, "--processes", ranks, "--no-python", build / "envkit-train", "--config", "/dev/null"]
    for setting in settings:
        command += ["--set", setting]
    began, ended, memory = timed(command, ENVKIT_RUN_DIR=str(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps_logged = [line for line in lines if "train/samples_per_second" in line]
    batch = 8 if model == "gpt" else 128
    later = steps_logged[len(steps_logged) // 4:]
    shares = {name: statistics.median(line.get(f"time/{name}", 0) for line in later)
              for name in ("data", "forward", "backward", "communication", "optimizer")}
    return {"step": statistics.median(batch / line["train/samples_per_second"] for line in later),
            "job": ended - began, "memory": memory, "loss": statistics.mean(line["train/loss"] for line in later),
            "start": steps_logged[0]["time"] - began, "end": ended - steps_logged[-1]["time"], "shares": shares}


def peer(kind, part, number):
    model, ranks, steps = PARTS[part][:3]
    out = work / f"{kind}-{part}-{number}"
    # Accelerate's own launcher starts one rank on CPUs, or wants GPUs.
    # torch's own Gloo aborts in one run of fifty.
    began, ended, memory = timed([venv / "bin/torchrun", "--standalone", "--nproc-per-node", ranks,
                                  top / "bench/train_peer.py", kind, model, data, out, steps], again=2)
    told = json.loads(out.read_text())
    return {"step": told["step"], "job": ended - began, "memory": memory, "loss": told["loss"],
            "start": told["first"] - began, "end": ended - told["last"]}


def one_part(part):
    model, ranks, steps, step_threshold, job_threshold = PARTS[part]
    taken = {"envkit": [], "DDP": [], "Accelerate": []}
    for number in range(rounds if steps > 1 else max(3, rounds // 2)):
        taken["envkit"].append(ours(part, number))
        taken["DDP"].append(peer("ddp", part, number))
        taken["Accelerate"].append(peer("accelerate", part, number))
    middle = {name: {key: statistics.median(value[key] for value in values)
                     for key in ("step", "job", "memory", "loss", "start", "end")} for name, values in taken.items()}
    print(f"{part}: {ranks} ranks, {steps} step{'s' * (steps > 1)} of {model}")
    for name, values in middle.items():
        every = [value["step"] * 1e3 for value in taken[name]]
        print(f"  {name:11} step {values['step'] * 1e3:7.2f} ms ({min(every):.2f} to {max(every):.2f})   job "
              f"{values['job']:6.2f} s (to the first step {values['start']:.2f}, after the last {values['end']:.2f})   "
              f"peak {values['memory']:5.0f} MB a rank   loss {values['loss']:.3f}")
    shares = {name: statistics.median(value["shares"][name] for value in taken["envkit"])
              for name in taken["envkit"][0]["shares"]}
    print("  a step of envkit's: " + ", ".join(f"{name} {share * 100:.0f} %" for name, share in shares.items()))
    # Round by round: what disturbs a round disturbs all three.
    ratio = {key: statistics.median(min(taken["DDP"][i][key], taken["Accelerate"][i][key]) / one[key]
                                    for i, one in enumerate(taken["envkit"])) for key in ("step", "job", "memory")}
    print(f"  {'times':11} step {ratio['step']:7.2f}   job {ratio['job']:.2f}   memory {ratio['memory']:.2f}", flush=True)
    failed = []
    if step_threshold and ratio["step"] < step_threshold:
        failed.append(f"{part}: a step is {ratio['step']:.2f} times as fast, not {step_threshold}")
    if job_threshold and ratio["job"] < job_threshold:
        failed.append(f"{part}: a job is {ratio['job']:.2f} times as fast, not {job_threshold}")
    if ratio["memory"] < 1:
        failed.append(f"{part}: needs more memory than the peers")
    for name in ("DDP", "Accelerate"):
        if abs(middle["envkit"]["loss"] / middle[name]["loss"] - 1) > SAME_LOSS[part]:
            failed.append(f"{part}: the loss is not {name}'s: they do not do the same")
    return failed


failed = [line for part in parts for line in one_part(part)]
sys.exit("\n".join(failed) if failed else 0)

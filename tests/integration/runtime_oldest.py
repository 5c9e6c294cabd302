#!/usr/bin/env python3
"""runtime/ against the oldest torch that it supports: it compiles with warnings as errors, and two ranks train.
`runtime_oldest.py VERSION` takes another.

The newest is what every image build compiles it against. Torch comes from the package index, by name, into the
user's cache (900 MB).
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ["ENVKIT_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ENVKIT_BUILD_DIR"])
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
TORCH = sys.argv[1] if len(sys.argv) > 1 else "2.8.0"
site = CACHE / f"envkit-tests/torch-{TORCH}"

if not (site / "done").exists():
    shutil.rmtree(site, ignore_errors=True)
    # Of CUDA, libtorch_cpu loads these two libraries and no other.
    cuda = ["nvidia-cuda-runtime-cu12", "nvidia-cuda-cupti-cu12"]
    if tuple(map(int, TORCH.split(".")[:2])) >= (2, 11):
        cuda = ["nvidia-cuda-runtime<14", "nvidia-cuda-cupti<14"]
    # Headers and libraries alone: the machine's own Python may be too new for this torch.
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, "--python-version",
                    "3.12", "--only-binary", ":all:", f"torch=={TORCH}", *cuda], check=True)
    (site / "done").touch()
build = BUILD / f"runtime-{TORCH}"
subprocess.run(["cmake", "-S", SOURCE / "runtime", "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                "-DCMAKE_UNITY_BUILD=ON", f"-DENVKIT_SITE_PACKAGES={site}"], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["ninja", "-C", build, "-j2", "envkit-train", "envkit-probe", "envkit-launch"], check=True)
print("ok compiled against torch", TORCH, flush=True)

with tempfile.TemporaryDirectory(prefix="envkit-oldest-") as scratch:
    work = pathlib.Path(scratch)
    for part, count in (("train", 640), ("t10k", 64)):
        pixels = b"".join(bytes((i % 10 * 25 + j) % 256 for j in range(784)) for i in range(count))
        (work / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, count, 28, 28) + pixels)
        (work / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count)
                                                         + bytes(i % 10 for i in range(count)))
    for name, settings in {"DDP": [], "bf16": ["distributed.comm_hook=bf16"], "ZeRO": ["distributed.zero_stage=3"],
                           "CNN": ["model.kind=cnn", "epochs=4"]}.items():
        command = [build / "envkit-launch", "--processes", "2", "--no-python", build / "envkit-train", "--config",
                   "/dev/null"]
        for setting in [f"data.dir={work}", "model.kind=mlp", "epochs=20", "global_batch=64", *settings]:
            command += ["--set", setting]
        run = work / name
        run.mkdir()
        subprocess.run(command, check=True, cwd=work,
                       env={**os.environ, "ENVKIT_RUN_DIR": str(run), "CUDA_VISIBLE_DEVICES": ""})
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["train/loss"] for line in lines if "train/loss" in line]
        if not losses[-1] < 0.1 * losses[0]:
            sys.exit(f"FAILED {name}: the loss goes from {losses[0]} to {losses[-1]}")
        print(f"ok {name}: the loss goes from {losses[0]:.3f} to {losses[-1]:.4f}", flush=True)

"""GPU leases and health checks of the real launcher, on a machine that looks as if it had two GPUs: device nodes
in a /dev of its own, /proc/driver/nvidia, and a stand-in for NVML, all in a mount namespace."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import support

BIN = support.BUILD / "bin"
if os.geteuid() != 0 or not os.path.isdir("/proc/driver"):
    support.skip("mounts need root, and /proc/driver")
if os.environ.get("ENVKIT_INSIDE") != "1":
    done = subprocess.run(["unshare", "-m", sys.executable, "-B", __file__], env={**os.environ, "ENVKIT_INSIDE": "1"})
    sys.exit(done.returncode)

work = pathlib.Path(tempfile.mkdtemp(prefix="envkit-leases-"))


def mount(*words):
    if subprocess.run(["mount", *map(str, words)], capture_output=True).returncode != 0:
        support.skip("no mounts here")


mount("--make-rprivate", "/")
device_nodes = work / "dev"
device_nodes.mkdir()
mount("-t", "tmpfs", "none", device_nodes)
for name in ("null", "zero", "full", "random", "urandom"):
    (device_nodes / name).touch()
    mount("--bind", f"/dev/{name}", device_nodes / name)
(device_nodes / "shm").mkdir()
mount("--bind", "/dev/shm", device_nodes / "shm")
for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
    (device_nodes / name).touch()
mount("--move", device_nodes, "/dev")
for index in (0, 1):
    gpu = work / f"driver/nvidia/gpus/0000:1{index}:00.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text(f"Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-{index}\nDevice Minor: \t {index}\n")
(work / "driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue\n")
mount("--bind", work / "driver", "/proc/driver")
(work / "locks").mkdir()


def start(*flags, steps=("print=up", "sleep=1000"), nvml="eight", **more):
    env = {**os.environ, "LD_LIBRARY_PATH": str(support.BUILD / "mock_nvml/whole"), "MOCK_NVML": nvml,
           "ENVKIT_LOCK_DIR": str(work / "locks"), **more}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.Popen([BIN / "envkit-launch", "--log-dir", tempfile.mkdtemp(dir=work), *flags, "--",
                             BIN / "rank_program", *steps], env=env, stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(job, expect):
    out, err = job.communicate(timeout=60)
    support.check(job.returncode == expect, f"exit code {job.returncode}, not {expect}: {out}{err}")
    return out, err


first = start("--processes", "2")
first.stdout.readline()
_, err = end(start("--gpu-ids", "1"), 3)
pattern = (r"error: GPU 1 trains already: \S*rank_program \(launcher pid " + str(first.pid)
           + r", since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)\n"
           r"  Wait for it or end it, choose other GPUs \(--gpu-ids\), or let both have it: --share\n")
support.check(re.fullmatch(pattern, err), err)
end(start("--cpu", "--processes", "2", steps=["exit=0"]), 0)  # the CPU is nobody's
end(start("--share", steps=["exit=0"]), 0)
end(start("--gpu-ids", "1", steps=["exit=0"], ENVKIT_LEASED="1"), 0)  # as a rank of the first would find it

# Kill -9 on the launcher: its supervisor ends the ranks, and then the GPUs are free.
first.send_signal(signal.SIGKILL)
first.wait()
limit = time.monotonic() + 10
while True:
    again = start(steps=["env"])
    out, err = again.communicate()
    if again.returncode == 0 or time.monotonic() > limit:
        break
    time.sleep(0.05)
support.check(again.returncode == 0, err)
support.check('"ENVKIT_LEASED":"1"' in out, "the ranks know that their GPUs are leased")

# Jobs on other GPUs do not meet.
one = start("--gpu-ids", "0")
other = start("--gpu-ids", "1")
one.stdout.readline(), other.stdout.readline()
for job in (one, other):
    job.send_signal(signal.SIGTERM)
    end(job, 143)

# Health.
_, err = end(start(nvml="prohibited", steps=["exit=0"]), 3)
support.check(err == "error: GPU 0 (0000:10:00.0) takes no programs: its compute mode is Prohibited\n"
              "  Use the others (--gpu-ids), or see what is wrong: envkit doctor\n", err)
end(start("--gpu-ids", "1", nvml="prohibited", steps=["exit=0"]), 0)
_, err = end(start(nvml="busy", steps=["exit=0"]), 0)
support.check("GPU 1 (0000:11:00.0) is in use by a process that is not visible from here (pid 4000000), 1 GiB" in err,
              err)
started = time.monotonic()
_, err = end(start(nvml="hang", steps=["exit=0"]), 0)
support.check("has not answered for 2.0 s" in err and time.monotonic() - started < 5, err)
print("ok")

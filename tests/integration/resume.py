"""kill -9 of any rank at random moments, with checkpoints in the background, of one file and of shards: the last
durable checkpoint loads, and the curve is, bit for bit, the one of a run that nobody killed.
`resume.py N [SEED]` does N kills; the seed is printed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import support

kills = int(sys.argv[1])
seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
print(f"seed {seed}", flush=True)
rng = random.Random(seed)
STEPS = 60


def command(stage, *more):
    settings = [f"max_steps={STEPS}", "checkpoint_every=5", "log_every=1", "data.evaluation_samples=200",
                f"distributed.zero_stage={stage}"]
    return ["run", "train", "--engine", "oci", "--variant", "cpu", "--processes", "2", "--",
            *(word for setting in settings for word in ("--set", setting)), *more]


def losses(project):
    """Of all runs of the project, oldest first: what a later one says counts, and must be what an earlier said."""
    curve = {}
    for run in sorted(project.glob(".envkit/runs/2*-train*")):
        if (run / "metrics.jsonl").exists():
            for step, loss in support.metrics(run, "train/loss").items():
                support.check(curve.get(step, loss) == loss, f"{run.name}, step {step}: {loss}, before {curve.get(step)}")
                curve[step] = loss
    return curve


def ranks(project):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as line, open(f"/proc/{pid}/mountinfo") as mounts:
                if line.read().startswith("envkit-train") and str(project) in mounts.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


for stage in (0, 2):
    project = support.new_project()
    support.envkit(*command(stage), project=project, quiet=True)
    whole = losses(project)
    support.check(sorted(whole) == list(range(1, STEPS + 1)), f"steps {sorted(whole)}")
    shutil.rmtree(project, ignore_errors=True)

    project = support.new_project()
    killed = finished = 0
    while not finished:
        more = ["--resume"] if killed or losses(project) else []
        child = subprocess.Popen([support.ENVKIT, *command(stage, *more)], cwd=project, env=support.environment(),
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if killed < (kills + 1) // 2:
            deadline = time.monotonic() + 60
            while not ranks(project) and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 3))
            if victims := ranks(project):
                try:
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
        errors = child.communicate()[1]
        if child.returncode == 0:
            finished = 1
            if killed < (kills + 1) // 2:  # it was faster than the kill: once more, from the start
                support.check(losses(project) == whole, "the curve is another one")
                shutil.rmtree(project / ".envkit")
                finished = 0
        else:
            support.check("137" in errors or "SIGKILL" in errors or "signal 9" in errors, errors[-2000:])
    support.check(losses(project) == whole, f"ZeRO stage {stage}: the curve is another one")
    print(f"ZeRO stage {stage}: {killed} kills, {len(list(project.glob('.envkit/runs/2*')))} runs, the same curve", flush=True)
    shutil.rmtree(project, ignore_errors=True)

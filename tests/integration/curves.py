"""One rank and two ranks with the same global batch: the same loss curve within float tolerance."""

import os
import subprocess

import support

# Every rank on one CPU. How many threads share a sum changes its last bits, and training multiplies
# them: one rank with two threads leaves one rank with one thread by 12 % within 52 steps, with no
# second rank in sight. With the threads alike, only the sums between the ranks remain.
cpus = sorted(os.sched_getaffinity(0))[:2]
curves = {}
for processes in (1, 2):
    project = support.new_project()
    where = ",".join(map(str, cpus[:processes]))
    done = subprocess.run(
        ["taskset", "-c", where, support.ENVKIT, "run", "train", "--engine", "oci", "--variant",
         "cpu", "--processes", str(processes), "--", "--set", "max_steps=60", "--set",
         "log_every=1"],
        cwd=project, env=support.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True)
    support.check(done.returncode == 0, done.stderr[-3000:])
    curves[processes] = support.metrics(support.latest_run(project), "train/loss")
    support.check(support.summary(project)["world_size"] == processes, "wrong number of ranks")

one, two = curves[1], curves[2]
support.check(sorted(one) == sorted(two) == list(range(1, 61)), f"steps {sorted(one)} {sorted(two)}")
difference = {step: abs(one[step] - two[step]) / one[step] for step in one}
print("largest relative difference by decades of steps:",
      [f"{max(difference[s] for s in range(at, at + 10)):.1e}" for at in range(1, 61, 10)])
for step, value in difference.items():
    bound = 1e-6 if step <= 10 else 1e-4 if step <= 20 else 1e-1
    support.check(value < bound, f"step {step}: {one[step]} and {two[step]}")
mean = {n: sum(curves[n][step] for step in range(41, 61)) / 20 for n in curves}
support.check(abs(mean[1] - mean[2]) < 0.02 * mean[1], f"the mean of the last 20 steps: {mean}")

"""One rank and two ranks with the same global batch: the same loss curve within float tolerance."""

import support

curves = {}
for processes in (1, 2):
    project = support.new_project()
    support.envkit("run", "train", "--engine", "oci", "--variant", "cpu", "--processes", processes,
                   "--", "--set", "max_steps=60", "--set", "log_every=1",
                   "--set", "optimizer.learning_rate=0.0002", project=project)
    curves[processes] = support.metrics(support.latest_run(project), "train/loss")
    support.check(support.summary(project)["world_size"] == processes, "wrong number of ranks")

one, two = curves[1], curves[2]
support.check(sorted(one) == sorted(two) == list(range(1, 61)), f"steps {sorted(one)} {sorted(two)}")
# Sums in another order differ in the last bits, and each step of training multiplies that: equal at
# first, near later. A smaller learning rate multiplies less.
for step in one:
    bound = 1e-6 if step <= 5 else 1e-2
    difference = abs(one[step] - two[step]) / max(one[step], 1e-3)
    support.check(difference < bound, f"step {step}: {one[step]} and {two[step]}")
print("largest relative difference", max(abs(one[s] - two[s]) / max(one[s], 1e-3) for s in one))

"""`envkit run train`: two DDP ranks in the oci engine reach 99.2 % on MNIST's real test images."""

import os
import support

project = support.new_project()
done = support.envkit("run", "train", "--engine", "oci", "--variant", "cpu", project=project)
run = support.latest_run(project)
record = support.summary(project)

support.check(record["exit_code"] == 0, f"summary says {record['exit_code']}")
support.check(record["world_size"] == 2, f"{record['world_size']} ranks")
support.check(record["metrics"]["test_accuracy"] >= 0.992, f"accuracy {record['metrics']}")
support.check(record["engine"] == "oci", record["engine"])
support.check(set(record["wall_s"]) == {"prepare", "start", "job"}, record["wall_s"])
for path in ("checkpoints/final/model.safetensors", "metrics.jsonl", "log/attempt_0/0/stdout.log",
             "log/attempt_0/1/stderr.log", "log/outcome.json"):
    support.check((run / path).exists(), f"{path} is missing from the run's record")
support.check(list((run / "events").glob("events.out.tfevents.*")), "no TensorBoard events")
for path in [run, *run.rglob("*")]:
    support.check(path.lstat().st_uid == os.getuid(), f"{path} belongs to {path.lstat().st_uid}")
losses = support.metrics(run, "train/loss")
support.check(1 in losses and losses[max(losses)] < losses[1] / 5, "the loss did not fall")
for words in ("accuracy", "images/s", "model", "start"):
    support.check(words in done.stderr + done.stdout, f"the closing report has no '{words}'")

# The job's own exit code is passed on, and a command needs no job.
support.envkit("run", "--engine", "oci", "--variant", "cpu", "--", "true", project=project)
support.envkit("run", "--engine", "oci", "--variant", "cpu", "--", "sh", "-c", "exit 7",
               project=project, expect=7)

"""On a machine with GPUs: MNIST with NCCL between all of them, in fp32 and in bf16, and with ZeRO 2 and 3. Written
without a GPU at hand, and not run yet."""

import pathlib

import support

if not list(pathlib.Path("/proc/driver/nvidia/gpus").glob("*")):
    print("there is no GPU here")
    raise SystemExit(77)
project = support.new_project()
for settings in ([], ["precision.mixed=bf16"], ["distributed.zero_stage=2"],
                 ["distributed.zero_stage=3", "precision.mixed=bf16"]):
    more = [word for setting in settings for word in ("--set", setting)]
    support.envkit("run", "train", "--variant", "cuda", "--", "--set", "device=cuda", "--set", "epochs=1", *more,
                   project=project)
    record = support.summary(project)
    support.check(record["metrics"]["test_accuracy"] >= 0.97, f"{settings}: {record['metrics']}")

"""What a run leaves, read by those who made the formats: TensorBoard's own reader and safetensors' own loader, for
Python. They come from the package index, into the tests' cache."""

import json
import shutil
import subprocess
import sys

import support

PACKAGES = ["numpy", "safetensors", "tensorboard"]
library = support.CACHE / "envkit-tests" / "readers"
if not (library / "done").exists():
    shutil.rmtree(library, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", library, *PACKAGES],
                          capture_output=True, text=True)
    if done.returncode != 0:
        support.skip(f"pip cannot install {PACKAGES}: {done.stderr.strip()[-500:]}")
    (library / "done").touch()
sys.path.insert(0, str(library))
import numpy  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

project = support.new_project()
settings = ["max_steps=30", "log_every=5", "checkpoint_every=30", "data.evaluation_samples=400", "model.kind=mlp",
            "distributed.zero_stage=1"]
support.envkit("run", "train", "--engine", "oci", "--variant", "cpu", "--processes", "2", "--",
               *(word for setting in settings for word in ("--set", setting)), project=project, quiet=True)
run = support.latest_run(project)

# TensorBoard: every scalar that metrics.jsonl has, and what only it shows.
events = EventAccumulator(str(run / "events"), size_guidance={"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
for tag in ("train/loss", "train/lr", "eval/accuracy", "time/backward"):
    ours = support.metrics(run, tag)
    theirs = {event.step: event.value for event in events.Scalars(tag)}
    support.check(ours and set(ours) == set(theirs), f"{tag}: steps {sorted(theirs)}, in metrics.jsonl {sorted(ours)}")
    for step, value in ours.items():
        support.check(abs(theirs[step] - value) <= 1e-6 * max(1, abs(value)), f"{tag}, {step}: {theirs[step]}, {value}")
weights = [tag for tag in tags["histograms"] if tag.startswith("weights/")]
support.check(len(weights) == 4, f"histograms: {tags['histograms']}")
picture = events.Images("mistakes")[-1]
support.check(picture.encoded_image_string.startswith(b"\x89PNG") and picture.width == 8 * 28, f"{picture.width}")
text = events.Tensors("train.toml/text_summary")[0].tensor_proto.string_val[0].decode()
support.check("zero_stage = 1" in text, text)

# safetensors: the final model, a rank's shard, and what `export` puts together from shards.
final = load_file(run / "checkpoints/final/model.safetensors")
names = {name: values.shape for name, values in final.items()}
support.check(sum(values.size for values in final.values()) == 784 * 512 + 512 + 512 * 10 + 10, names)
with safe_open(run / "checkpoints/final/model.safetensors", "numpy") as opened:
    support.check(opened.metadata()["model"] == "mlp" and opened.metadata()["format"] == "pt", opened.metadata())
last = run / "checkpoints" / "latest"
manifest = json.loads((last / "manifest.json").read_text())["files"]
for name in manifest:
    if name.endswith(".safetensors"):
        support.check(load_file(last / name), f"{name} has no tensor")
support.envkit("run", "--engine", "oci", "--variant", "cpu", "--", "envkit-train", "export",
               str(last.resolve().relative_to(project)), "-o", "merged.safetensors", project=project)
merged = load_file(project / "merged.safetensors")
support.check(set(merged) == set(final), f"{sorted(merged)}, {sorted(final)}")
for name, values in final.items():
    support.check(numpy.array_equal(merged[name], values), f"{name}: the last checkpoint is not the final model")
# Histograms hold each weight once.
for tag in weights:
    name = tag.removeprefix("weights/")
    support.check(events.Histograms(tag)[-1].histogram_value.num == final[name].size, tag)
print(f"read {len(tags['scalars'])} scalars, {len(weights)} histograms, {len(manifest)} files of a checkpoint")
shutil.rmtree(project, ignore_errors=True)

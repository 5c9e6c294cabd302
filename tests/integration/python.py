"""The python image, CPU variant: whole wheels as an installer would leave them, and training with
Accelerate by envkit's launcher and by Accelerate's own."""

import json
import re

import support

project = support.new_example("python-accelerate")
support.envkit("lock", "--check", project=project)
# auto: the job is a Python script.
image = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
support.check(image["profile"] == "python", image["profile"])
support.check(image["bytes"] < 2.3e9, f"the cpu image of profile python has {image['bytes']} bytes")


def run(*command, expect=0):
    return support.envkit("run", "--variant", "cpu", "--engine", "oci", "--", *command,
                          project=project, expect=expect).stdout


support.check("No broken requirements found" in run("pip", "check"), "pip check")
words = run("python", "-W", "error::ImportWarning", "-c", """
import torch, torchvision, accelerate, time
from torchvision.io import decode_png, encode_png
print("version", torch.__version__, "gpu", torch.cuda.is_available(), torch.backends.cudnn.version())
print("nms", torchvision.ops.nms(torch.tensor([[0, 0, 1, 1.]]), torch.ones(1), 0.5).tolist())
print("png", decode_png(encode_png(torch.zeros(3, 4, 4, dtype=torch.uint8))).shape)
try: torch.zeros(1, device="cuda")
except RuntimeError as error: print(error)
""")
support.check("gpu False" in words and "nms [0]" in words, words)
# torch's own words, since its CUDA half is its own.
support.check("Found no NVIDIA driver on your system" in words, words)

# Every file of every wheel is what its RECORD says; nothing is compiled at the first import.
words = run("python", "-c", """
import base64, hashlib, importlib.metadata, pathlib, sys
files = wrong = 0
for distribution in importlib.metadata.distributions(path=[p for p in sys.path if "local" in p]):
    assert distribution.read_text("INSTALLER") == "envkit\\n", distribution.name
    for file in distribution.files:
        if not file.hash: continue
        files += 1
        got = hashlib.new(file.hash.mode, pathlib.Path(file.locate()).read_bytes()).digest()
        if base64.urlsafe_b64encode(got).rstrip(b"=").decode() != file.hash.value: wrong += 1; print(file)
print("record", files > 15000, wrong)
import torch
print("bytecode", pathlib.Path(torch.__cached__).exists())
""")
support.check("record True 0" in words and "bytecode True" in words, words[-2000:])

# From layers that are there the same bytecode comes as from wheels, while those are unpacked; and of one
# layer alone the same as in a run for all.
bytecode = sorted(file.parent for file in (support.STORE / "layers").glob("*/info.json")
                  if file.parent.name in image["diff_ids"]
                  and json.loads(file.read_text())["what"].endswith("-bytecode"))
support.check(len(bytecode) > 5, bytecode)
for layers in (bytecode, bytecode[:1], bytecode[-2:]):
    for key in (support.STORE / "keys").iterdir():
        if support.STORE / "layers" / key.read_text().strip() in layers:
            key.unlink()
    for plan in (support.STORE / "plans").iterdir():
        if plan.read_text() == image["config_digest"]:
            plan.unlink()
    again = support.envkit("build", "--variant", "cpu", "--json", project=project)
    support.check("bytecode" in again.stderr, again.stderr)
    support.check(json.loads(again.stdout)["diff_ids"] == image["diff_ids"], again.stdout)

support.envkit("run", "train", "--variant", "cpu", "--engine", "oci", project=project)
record = support.summary(project)
support.check(record["exit_code"] == 0 and record["world_size"] == 2, record)
log = (support.latest_run(project) / "log/attempt_0/0/stdout.log").read_text()
support.check(re.search("2 ranks, cpu.*MULTI_CPU", log), log)
accuracy = float(re.findall("accuracy ([0-9.]+)", log)[-1])
support.check(accuracy > 0.9, log)

support.envkit("run", "launch", "--variant", "cpu", "--engine", "oci", "--", "--epochs", "1",
               project=project)
record = support.summary(project)
support.check(record["exit_code"] == 0 and record["world_size"] == 1, record)
support.check((project / "model" / "model.safetensors").exists(), "no model")

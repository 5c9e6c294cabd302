"""Runs where torch for Python and envkit-train are: trains the same weights on the same data with both, and
compares losses and weights. envkit-train's place can be given."""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

TRAIN = sys.argv[1] if len(sys.argv) > 1 else "envkit-train"
TOLERANCE = 1e-4
torch.manual_seed(0)


class Layer(torch.nn.Module):
    """GPT-2's, with its names; matrices as [inputs, outputs]."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = torch.nn.LayerNorm(width)
        self.ln_2 = torch.nn.LayerNorm(width)
        shapes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
                  "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}
        self.attn, self.mlp = torch.nn.Module(), torch.nn.Module()
        for name, shape in shapes.items():
            part, matrix = name.split(".")
            module = torch.nn.Module()
            module.weight = torch.nn.Parameter(torch.randn(shape) * 0.1)
            module.bias = torch.nn.Parameter(torch.randn(shape[1]) * 0.1)
            setattr(getattr(self, part), matrix, module)

    def forward(self, x):
        n, t, width = x.shape
        affine = lambda y, m: y @ m.weight + m.bias
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2)
                   for y in affine(self.ln_1(x), self.attn.c_attn).split(width, 2))
        scores = (q @ k.transpose(2, 3)) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf"))
        y = (scores.softmax(3) @ v).transpose(1, 2).reshape(n, t, width)
        x = x + affine(y, self.attn.c_proj)
        return x + affine(F.gelu(affine(self.ln_2(x), self.mlp.c_fc), approximate="tanh"), self.mlp.c_proj)


class Gpt(torch.nn.Module):
    def __init__(self, vocabulary=97, context=16, layers=3, heads=4, width=32):
        super().__init__()
        self.wte = torch.nn.Embedding(vocabulary, width)
        self.wpe = torch.nn.Embedding(context, width)
        self.h = torch.nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.ln_f = torch.nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[:tokens.shape[1]]
        for layer in self.h:
            x = layer(x)
        return self.ln_f(x) @ self.wte.weight.T


def envkit_train(folder, config):
    (folder / "train.toml").write_text(config)
    subprocess.run([TRAIN, "--config", folder / "train.toml"], check=True,
                   env={**__import__("os").environ, "ENVKIT_RUN_DIR": str(folder / "run")},
                   stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    pick = lambda key: [line[key] for line in lines if key in line]
    return pick("train/loss"), pick("eval/loss"), load_file(folder / "run/checkpoints/final/model.safetensors")


def compare(what, ours, theirs, floor=0):
    difference = abs(torch.as_tensor(ours, dtype=torch.float64) - torch.as_tensor(theirs, dtype=torch.float64))
    relative = float(difference.max() / torch.as_tensor(theirs, dtype=torch.float64).abs().max().clamp(min=floor))
    print(f"{what}: relative difference {relative:.1e}", flush=True)
    assert relative < TOLERANCE, f"{what}: {relative}"


def groups(model, decay):
    return [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": decay},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0}]


def train(model, optimizer, loss, evaluate, steps, rate, clip):
    losses, evaluations = [], []
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(value.item())
        model.eval()
        with torch.no_grad():
            evaluations.append(evaluate().item())
        model.train()
    return losses, evaluations


def check(name, config, folder, model, optimizer, loss, evaluate, rate, clip, steps=10, floor=1e-3):
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "start.safetensors")
    losses, evaluations, weights = envkit_train(folder, config)
    expected, expected_evaluations = train(model, optimizer, loss, evaluate, steps, rate, clip)
    compare(f"{name}: losses of {steps} steps", losses, expected)
    compare(f"{name}: test losses", evaluations, expected_evaluations)
    state = model.state_dict()
    for name_, tensor in [*weights.items(), *state.items()]:
        # A bias of all keys cancels in the softmax: its gradient is rounding, which Adam makes steps of.
        if name_.endswith("attn.c_attn.bias"):
            tensor.view(3, -1)[1] = 0
    assert weights.keys() == state.keys(), weights.keys() ^ state.keys()
    worst = max(state, key=lambda k: float((weights[k].double() - state[k].double()).abs().max()
                                           / state[k].double().abs().max().clamp(min=floor)))
    compare(f"{name}: weights, the worst of them {worst}", weights[worst], state[worst], floor)
    model.load_state_dict(weights)  # Python goes on with them


def gpt():
    folder = pathlib.Path(tempfile.mkdtemp())
    model = Gpt()
    data = {}
    for name, seed in (("train", 1), ("val", 2)):
        tokens = np.random.default_rng(seed).integers(0, 97, 8 * 16 + 1).astype(np.uint16)
        header = np.zeros(256, np.int32)
        header[:3] = 20240520, 1, len(tokens)
        # nanoGPT's form for one, llm.c's for the other.
        (folder / f"{name}.bin").write_bytes((header.tobytes() if name == "val" else b"") + tokens.tobytes())
        row = torch.from_numpy(tokens.astype(np.int64))
        data[name] = row[:-1].view(8, 16), row[1:].view(8, 16)
    loss = lambda part: F.cross_entropy(model(data[part][0]).flatten(0, 1), data[part][1].flatten())
    config = f"""
epochs = 10
global_batch = 8
accumulation = 2
log_every = 1
[optimizer]
learning_rate = 0.01
weight_decay = 0.1
clip_norm = 0.5
[schedule]
name = "linear"
warmup_steps = 4
[data]
kind = "tokens"
dir = "{folder}"
[model]
kind = "gpt"
weights = "{folder}/start.safetensors"
vocabulary = 97
context = 16
layers = 3
heads = 4
width = 32
"""
    check("gpt", config, folder, model, torch.optim.AdamW(groups(model, 0.1)), lambda: loss("train"),
          lambda: loss("val"), lambda step: 0.01 * (step / 4 if step <= 4 else 1 - (step - 4) / 6), 0.5)


def resnet(depth):
    # Eight images make batch norms so touchy that torch itself, with another memory format, has another
    # curve (7e-5 after three steps of ResNet-18): one step, and weights are compared on the scale of 1.
    import torchvision
    folder = pathlib.Path(tempfile.mkdtemp())
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=5)
    data = {}
    for name in ("train", "test"):
        images, labels = torch.randn(8, 3, 72, 72), torch.arange(8) % 5
        np.save(folder / f"{name}_inputs.npy", images.numpy())
        np.save(folder / f"{name}_labels.npy", labels.numpy())
        data[name] = images, labels
    loss = lambda part: F.cross_entropy(model(data[part][0]), data[part][1])
    config = f"""
epochs = 1
global_batch = 8
log_every = 1
[optimizer]
name = "sgd"
learning_rate = 0.001
weight_decay = 0.001
momentum = 0.9
clip_norm = 1
[schedule]
name = "constant"
warmup_steps = 0
[data]
kind = "npy"
dir = "{folder}"
[model]
kind = "resnet{depth}"
weights = "{folder}/start.safetensors"
"""
    check(f"resnet{depth}", config, folder, model, torch.optim.SGD(groups(model, 0.001), momentum=0.9),
          lambda: loss("train"), lambda: loss("test"), lambda step: 0.001, 1, steps=1, floor=1)


gpt()
try:
    import torchvision
except ImportError:
    print("no torchvision here: ResNet is not compared")
else:
    resnet(18)
    resnet(50)

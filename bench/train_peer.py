"""A rank of bench/train.py's peers: `train_peer.py ddp|accelerate mlp|cnn|gpt DATA OUT STEPS` trains as
a user of Python would and writes its step times."""

import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

kind, model_kind, data, out, steps = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
torch.manual_seed(1)
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


class Cnn(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.Conv2d(32, 32, 3, padding=1)
        self.conv3, self.conv4 = torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.Conv2d(64, 64, 3, padding=1)
        self.fc1, self.fc2 = torch.nn.Linear(64 * 49, 128), torch.nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        x = F.max_pool2d(F.relu(self.conv4(F.relu(self.conv3(x)))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def mlp():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))


class Layer(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.ln_1, self.ln_2 = heads, torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attn, self.proj = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.fc, self.out = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2) for y in self.attn(self.ln_1(x)).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width)
        x = x + self.proj(y)
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class Gpt(torch.nn.Module):
    def __init__(self, vocabulary=512, context=128, layers=4, heads=4, width=128):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(vocabulary, width), torch.nn.Embedding(context, width)
        self.h, self.ln_f = torch.nn.ModuleList(Layer(width, heads) for _ in range(layers)), torch.nn.LayerNorm(width)
        for weight in self.parameters():  # GPT-2's
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.02)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe.weight[:tokens.shape[1]]
        for layer in self.h:
            x = layer(x)
        return F.linear(self.ln_f(x), self.wte.weight)


if model_kind == "gpt":
    tokens = torch.from_numpy(np.fromfile(data / "train.bin", np.uint16).astype(np.int64))
    count = (len(tokens) - 1) // 128
    inputs, labels = tokens[:count * 128].view(count, 128), tokens[1:count * 128 + 1].view(count, 128)
    model, batch = Gpt(), 8
else:
    pixels = np.fromfile(data / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    inputs = (torch.from_numpy(pixels).float() / 255 - 0.1307) / 0.3081
    labels = torch.from_numpy(np.fromfile(data / "train-labels-idx1-ubyte", np.uint8)[8:].astype(np.int64))
    model, batch = (mlp() if model_kind == "mlp" else Cnn()), 128
world = int(os.environ["WORLD_SIZE"])
dataset = torch.utils.data.TensorDataset(inputs, labels)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
if kind == "accelerate":
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch // world, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    main = accelerator.is_main_process
else:
    torch.distributed.init_process_group("gloo")
    sampler = torch.utils.data.DistributedSampler(dataset, drop_last=True)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch // world, sampler=sampler, drop_last=True)
    model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    main = torch.distributed.get_rank() == 0
times, losses, step, first = [], [], 0, 0
while step < steps:
    began = time.perf_counter()
    for x, y in loader:
        optimizer.zero_grad()
        logits = model(x)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
        accelerator.backward(loss) if kind == "accelerate" else loss.backward()
        optimizer.step()
        losses.append(loss.item())
        first = first or time.time()
        now = time.perf_counter()
        times.append(now - began)
        began, step = now, step + 1
        if step == steps:
            break
last = time.time()
if main:
    torch.save(model.module.state_dict(), out + ".pt")
    pathlib.Path(out).write_text(json.dumps({
        "step": statistics.median(times[len(times) // 4:]), "loss": statistics.mean(losses[len(losses) // 4:]),
        "first": first, "last": last}))
if kind == "ddp":
    torch.distributed.destroy_process_group()

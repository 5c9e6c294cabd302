#!/bin/sh
# What needs GPUs: NCCL sums, the tests labelled gpu, and GPT-2 124M beside torch.compile.
#
#   bench/gpu.sh [GPUS]        in a clean clone, on a machine with a driver for CUDA 13
#
# Written without a GPU at hand, and not run yet: take its first output as a test of itself.
set -e
cd "$(dirname "$0")/.."
gpus=${1:-$(ls -d /proc/driver/nvidia/gpus/* 2>/dev/null | wc -l)}
[ "$gpus" -gt 0 ] || { echo "bench/gpu.sh: there is no GPU here" >&2; exit 3; }

./envkitw doctor
./envkitw test -L gpu
./envkitw verify

work=$(mktemp -d)
cp envkit.toml envkit.lock "$work"
cat >"$work/train.toml" <<TOML
global_batch = $((16 * gpus))
epochs = 1
max_steps = 200
log_every = 20
checkpoint_every = 0
[optimizer]
learning_rate = 0.0006
weight_decay = 0.1
clip_norm = 1.0
[precision]
mixed = "bf16"
[data]
kind = "tokens"
dir = "/workspace"
evaluation_samples = 8
[model]
kind = "gpt"
size = "gpt2"
vocabulary = 50304
TOML
# Noise: nothing to download, and as fast to learn from.
python3 - "$work" <<'PY'
import array, random, sys
tokens = array.array("H", (random.randrange(50257) for _ in range(4_000_000)))
for name in ("train", "val"):
    with open(f"{sys.argv[1]}/{name}.bin", "wb") as out:
        tokens.tofile(out)
PY
for stage in 0 1 3; do
  echo "== GPT-2 124M, bf16, $gpus GPUs, ZeRO stage $stage"
  ./envkitw -C "$work" run train --variant cuda -- --set distributed.zero_stage=$stage
  # 6 * 124e6 operations a token; 989e12 is an H100's peak in bf16.
  python3 - "$work/.envkit/runs/latest/metrics.jsonl" "$gpus" <<'PY'
import json, statistics, sys
speeds = [line["train/samples_per_second"] for line in map(json.loads, open(sys.argv[1]))
          if "train/samples_per_second" in line]
tokens = 1024 * statistics.median(speeds[2:])
print(f"{tokens:,.0f} tokens/s, {tokens / int(sys.argv[2]):,.0f} a GPU, MFU {6 * 124e6 * tokens / int(sys.argv[2]) / 989e12:.1%} of an H100")
PY
done

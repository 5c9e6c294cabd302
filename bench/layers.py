#!/usr/bin/env python3
"""Wheels that are fetched become layers: how long beside writing as many bytes with dd, interleaved.

    bench/layers.py [--profile P] [--variant V] [--runs N] [--store DIR]

Fetches once into the store (default: the user's own), then makes the wheels' layers anew in a store
of its own beside it, N times, each time followed by `dd` of the same number of bytes with fsync.
Prints medians and the ratio; fails above 2.5, and when two runs give different layers.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

top = pathlib.Path(__file__).resolve().parent.parent
options = argparse.ArgumentParser()
options.add_argument("--profile", default="train")
options.add_argument("--variant", default="cuda")
options.add_argument("--runs", type=int, default=3)
options.add_argument("--project", type=pathlib.Path, default=top)
options.add_argument("--store", type=pathlib.Path)
arguments = options.parse_args()
home = pathlib.Path.home()
cache, data = ((arguments.store, arguments.store) if arguments.store else
               (pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "envkit",
                pathlib.Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "envkit"))


def build(store=None):
    env = dict(os.environ, **({"ENVKIT_STORE": str(store)} if store else {}))
    done = subprocess.run([os.environ.get("ENVKIT") or top / "envkitw", "build", "--profile",
                           arguments.profile, "--variant", arguments.variant, "--json"],
                          cwd=arguments.project, env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"envkit build: exit code {done.returncode}")
    return json.loads(done.stdout)


def link(source, target):
    shutil.copytree(source, target, copy_function=os.link, symlinks=True)


def small_store(store):
    """The downloads, and the layers that are not made of wheels."""
    store.mkdir()
    link(cache / "downloads", store / "downloads")
    (store / "keys").mkdir()
    (store / "layers").mkdir()
    for layer in (data / "layers").iterdir():
        if json.loads((layer / "info.json").read_text())["what"] in ("debian", "runtime", "recipe"):
            link(layer, store / "layers" / layer.name)
    for key in (data / "keys").iterdir():
        if (store / "layers" / key.read_text().strip()).exists():
            os.link(key, store / "keys" / key.name)


whole = build(arguments.store)
work = data / "bench"
shutil.rmtree(work, ignore_errors=True)
work.mkdir()
ours, theirs = [], []
try:
    small_store(work / "store")
    for run in range(arguments.runs):
        subprocess.run(["sync"])
        result = build(work / "store")
        if result["diff_ids"] != whole["diff_ids"]:
            sys.exit("this run's layers are not those of the run before")
        made = [layer for layer in result["layers"] if layer["diff_id"] in result["built"]]
        size = sum(layer["bytes"] for layer in made)
        ours.append(result["seconds"])
        for layer in made:
            shutil.rmtree(work / "store/layers" / layer["diff_id"])
        for name in ("images", "plans"):
            shutil.rmtree(work / "store" / name, ignore_errors=True)
        for key in (work / "store/keys").iterdir():
            if key.read_text().strip() in result["built"]:
                key.unlink()
        subprocess.run(["sync"])
        started = time.monotonic()
        subprocess.run(["dd", "if=/dev/zero", f"of={work}/zeros", "bs=4M", f"count={size >> 22}",
                        "conv=fsync", "status=none"], check=True)
        theirs.append(time.monotonic() - started)
        (work / "zeros").unlink()
        print(f"{len(made)} layers, {size / 1e6:,.0f} MB: {ours[-1]:.1f} s; dd: {theirs[-1]:.1f} s",
              flush=True)
finally:
    shutil.rmtree(work)
ratio = statistics.median(a / b for a, b in zip(ours, theirs))
print(f"medians: layers {statistics.median(ours):.1f} s, dd {statistics.median(theirs):.1f} s; "
      f"ratio, pair by pair: {ratio:.2f} (bound 2.5)")
sys.exit(0 if ratio <= 2.5 else 1)

#!/usr/bin/env python3
"""Our launcher beside the real torchrun and accelerate: their lists of flags, the environment that ranks
find, torch.distributed and accelerate's own test scripts.

    launch_compat.py [PART]     flags | environment | scripts; all without one

The real ones live in a virtual environment in the user's cache (some GB), which is made where it is
missing: so this is a drill.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ["ENVKIT_BUILD_DIR"])
SOURCE = pathlib.Path(os.environ["ENVKIT_SOURCE_DIR"])
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
VENV = CACHE / "envkit-tests/launch-venv"
TORCH, ACCELERATE = "2.15.0", "1.15.0"
work = pathlib.Path(tempfile.mkdtemp(prefix="envkit-compat-"))
failures = []


def make_venv():
    if (VENV / "bin/accelerate").exists():
        return
    python = next((p for p in ("python3.13", "python3.12", "python3.11", "python3")
                   if subprocess.run([p, "--version"], capture_output=True).returncode == 0), None)
    subprocess.run([python, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin/pip", "install", "--quiet", f"torch=={TORCH}", f"accelerate=={ACCELERATE}", "numpy"],
                   check=True)


def shims():
    """A PATH on which ours come first, as in our images, and the venv's python3 is found."""
    directory = work / "bin"
    directory.mkdir(exist_ok=True)
    for name in ("torchrun", "accelerate"):
        if not (directory / name).exists():
            (directory / name).symlink_to(BUILD / "bin/envkit-launch")
    return f"{directory}:{VENV / 'bin'}:{os.environ['PATH']}"


LISTS = """
import sys
import torch.distributed.run as run
from accelerate.commands.launch import launch_command_parser
for name, parser in (("torchrun", run.get_args_parser()), ("accelerate", launch_command_parser())):
    lines = []
    for action in parser._actions:
        if action.option_strings:
            choices = " " + "|".join(map(str, action.choices)) if action.choices else ""
            kind = "switch" if action.nargs == 0 else "value"
            lines.append(f"{','.join(sorted(set(action.option_strings)))} {kind}{choices}")
    open(f"{sys.argv[1]}/{name}-flags.txt", "w").write("\\n".join(sorted(lines)) + "\\n")
"""


def flags():
    """The captured lists, against which the unit test walks, are still the real ones."""
    subprocess.run([VENV / "bin/python", "-c", LISTS, work], check=True)
    for name in ("torchrun-flags.txt", "accelerate-flags.txt"):
        same = (work / name).read_text() == (SOURCE / "tests/fixtures/launch" / name).read_text()
        print(f"{'ok' if same else 'FAILED'} {name}")
        if not same:
            failures.append(name)


DUMP = """
import json, os, sys
rank = os.environ.get("RANK", "0")
json.dump(dict(os.environ), open(os.path.join(os.environ["COMPAT_OUT"], rank + ".json"), "w"))
"""

CONFIG = """compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
enable_cpu_affinity: false
fsdp_config:
  fsdp_activation_checkpointing: false
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: true
  fsdp_offload_params: false
  fsdp_reshard_after_forward: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_transformer_layer_cls_to_wrap: BertLayer
  fsdp_version: 2
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 2
parallelism_config:
  parallelism_config_cp_comm_strategy: alltoall
  parallelism_config_cp_size: 2
  parallelism_config_dp_replicate_size: 1
  parallelism_config_dp_shard_size: 1
  parallelism_config_tp_size: 1
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""

# Where ours differ on purpose; see docs/launch.md.
ON_PURPOSE = {
    "MASTER_ADDR": "c10d gives the host's name; one node is always 127.0.0.1 here",
    "MASTER_PORT": "a free one",
    "TORCHELASTIC_RUN_ID": "a name of our own where none was given",
    "TORCHELASTIC_ERROR_FILE": "in our log directory",
    "TORCHELASTIC_USE_AGENT_STORE": "rank 0 opens the store itself",
    "OMP_NUM_THREADS": "cores for each rank, where torchrun says 1",
    "KMP_AFFINITY": "left out for several ranks: it puts all on the first cores",
    "ENVKIT_RUN_DIR": "ours",
    "_": "the shell's", "SHLVL": "the shell's", "PATH": "ours has the shims", "COMPAT_OUT": "ours", "LINES": "", "COLUMNS": "",
    # torch sets them in the agent, for itself, and the ranks inherit them.
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "torchrun's own agent reads it",
    "CUDA_MODULE_LOADING": "torch sets it when it is imported in the agent",
    "TORCHINDUCTOR_CACHE_DIR": "torch sets it when it is imported in the agent",
    "TRITON_CACHE_DIR": "torch sets it when it is imported in the agent",
}


def environment():
    script = work / "dump.py"
    script.write_text(DUMP)
    config = work / "config.yaml"
    config.write_text(CONFIG)
    fsdp = ["accelerate", "launch", "--use_fsdp", "--num_processes", "2"]
    cases = {
        "torchrun --standalone": (["torchrun", "--standalone", "--nproc-per-node=2"], 2),
        "torchrun, one by default": (["torchrun"], 1),
        "torchrun, static": (["torchrun", "--nproc_per_node", "2", "--master-port", "29612", "--role", "trainer",
                              "--max-restarts", "2", "--rdzv-id", "job7"], 2),
        "accelerate, alone": (["accelerate", "launch"], 1),
        "accelerate --cpu": (["accelerate", "launch", "--cpu", "--mixed_precision", "bf16"], 1),
        "accelerate --multi_gpu": (["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--dynamo_backend",
                                    "inductor", "--dynamo_mode", "max-autotune", "--dynamo_use_dynamic"], 2),
        "accelerate --use_fsdp": (fsdp, 2),
        "accelerate, FSDP 2": (fsdp + ["--fsdp_version", "2", "--fsdp_auto_wrap_policy", "SIZE_BASED_WRAP",
                                       "--fsdp-min-num-params", "2000", "--fsdp_offload_params", "true",
                                       "--fsdp_state_dict_type", "SHARDED_STATE_DICT"], 2),
        "accelerate, parallelism": (fsdp + ["--fsdp_version", "2", "--use_parallelism_config",
                                            "--parallelism_config_tp_size", "2"], 2),
        "accelerate --use_megatron_lm": (["accelerate", "launch", "--use_megatron_lm", "--num_processes", "2",
                                          "--megatron_lm_tp_degree", "2", "--megatron_lm_gradient_clipping", "2",
                                          "--megatron_lm_num_micro_batches", "4"], 2),
        "accelerate, a config file": (["accelerate", "launch", "--config_file", str(config)], 2),
        "accelerate --debug": (["accelerate", "launch", "--debug", "--enable_cpu_affinity",
                                "--num_cpu_threads_per_process", "3"], 1),
    }
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ENVKIT", "OMP_"))}
    base["HF_HOME"] = str(work / "hf")
    for title, (command, ranks) in cases.items():
        seen = {}
        for side in ("theirs", "ours"):
            out = work / f"{title}-{side}".replace("/", "_")
            out.mkdir()
            path = shims() if side == "ours" else f"{VENV / 'bin'}:{base['PATH']}"
            done = subprocess.run(command + [str(script)], cwd=work, capture_output=True, text=True, timeout=300,
                                  env={**base, "PATH": path, "COMPAT_OUT": str(out)})
            if done.returncode != 0:
                failures.append(f"{title}: {side}")
                print(f"FAILED {title}: {side} ended with {done.returncode}\n{done.stderr[-1500:]}")
                break
            seen[side] = [json.loads((out / f"{r}.json").read_text()) for r in range(ranks)
                          if (out / f"{r}.json").exists()]
        if len(seen) < 2:
            continue
        differences = []
        if len(seen["ours"]) != len(seen["theirs"]):
            differences.append(f"{len(seen['ours'])} ranks, and theirs {len(seen['theirs'])}")
        for rank, (theirs, ours) in enumerate(zip(seen["theirs"], seen["ours"])):
            # accelerate starts a single rank without any of torchrun's; ours are there, and true.
            alone = "RANK" not in theirs
            for key in sorted(theirs.keys() | ours.keys()):
                if theirs.get(key) == ours.get(key) or key in ON_PURPOSE:
                    continue
                if alone and key not in theirs and not key.startswith(("ACCELERATE", "FSDP", "KMP")):
                    continue
                differences.append(f"rank {rank}: {key}: theirs {theirs.get(key)!r}, ours {ours.get(key)!r}")
        print(f"{'FAILED' if differences else 'ok'} {title}")
        for one in differences:
            print("   ", one)
        failures.extend(differences)


ALL_REDUCE = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(4) * (dist.get_rank() + 1)
dist.all_reduce(x)
assert x[0].item() == 3, x
print("sum", x[0].item(), "rank", dist.get_rank(), flush=True)
dist.destroy_process_group()
"""


def scripts():
    """Each under its own launcher and under ours: the same verdict, and nothing that only ours fails."""
    (work / "all_reduce.py").write_text(ALL_REDUCE)
    site = subprocess.run([VENV / "bin/python", "-c", "import accelerate,os;print(os.path.dirname(accelerate.__file__))"],
                          capture_output=True, text=True, check=True).stdout.strip()
    folder = pathlib.Path(site) / "test_utils/scripts"
    runs = [("all_reduce.py", ["torchrun", "--nproc-per-node", "2", str(work / "all_reduce.py")])]
    for script in sorted(folder.glob("*.py")):
        if script.name != "__init__.py":
            runs.append((f"accelerate/{script.name}",
                         ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", str(script)]))
    base = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HOME": str(work / "hf"),
            "HF_HUB_OFFLINE": "1"}
    for name, command in runs:
        verdicts = {}
        for side in ("theirs", "ours"):
            path = shims() if side == "ours" else f"{VENV / 'bin'}:{base['PATH']}"
            try:
                done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=240,
                                      stdin=subprocess.DEVNULL, env={**base, "PATH": path})
                error = next((line for line in reversed(done.stderr.splitlines())
                              if "Error" in line and "ChildFailed" not in line and "CalledProcess" not in line), "")
                verdicts[side] = ("passes" if done.returncode == 0 else "fails", error.strip()[-110:])
            except subprocess.TimeoutExpired:
                verdicts[side] = ("hangs", "")
        same = verdicts["ours"][0] == verdicts["theirs"][0]
        print(f"{'ok' if same else 'FAILED'} {name}: theirs {verdicts['theirs'][0]}, ours {verdicts['ours'][0]} "
              f"{verdicts['ours'][1]}", flush=True)
        if not same:
            failures.append(name)


make_venv()
for part in (sys.argv[1:] or ["flags", "environment", "scripts"]):
    globals()[part]()
if failures:
    sys.exit(f"{len(failures)} differences")

#!/usr/bin/env python3
"""Our launcher beside the real torchrun and accelerate: their lists of flags, the environment that ranks
find, config files, what PyTorch's launcher tests do, and accelerate's own test scripts.

    launch_compat.py [PART]     flags | environment | config | programs | hangs | scripts;
                                all without one

The real ones live in a virtual environment in the user's cache (some GB), which is made where it is
missing: so this is a drill.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
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
    if (VENV / "bin/pytest").exists():
        return
    python = next((p for p in ("python3.13", "python3.12", "python3.11", "python3")
                   if subprocess.run([p, "--version"], capture_output=True).returncode == 0), None)
    subprocess.run([python, "-m", "venv", VENV], check=True)
    subprocess.run([VENV / "bin/pip", "install", "--quiet", f"torch=={TORCH}", f"accelerate=={ACCELERATE}", "numpy",
                    "pytest"],
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


# Scripts of accelerate's wheel that cannot do what they are for on two CPU ranks, and why. They are run all
# the same, as far as they go: what stops them must be the same under both launchers.
STOPPED = {
    "test_ddp_comm_hook.py": "DistributedDataParallel with device_ids: GPUs alone",
    "test_distributed_data_loop.py": "it wants two GPUs",
    "test_notebook.py": "it starts ranks itself (notebook_launcher) and is meant for plain python",
}
# Not run at all.
LEFT_OUT = {
    "__init__.py": "no script",
    "external_deps/__init__.py": "no script",
    "external_deps/test_checkpointing.py": "downloads a model and GLUE (transformers, datasets, evaluate)",
    "external_deps/test_ds_alst_ulysses_sp.py": "DeepSpeed, on GPUs",
    "external_deps/test_ds_multiple_model.py": "DeepSpeed, on GPUs",
    "external_deps/test_metrics.py": "downloads a model and GLUE (transformers, datasets, evaluate)",
    "external_deps/test_peak_memory_usage.py": "measures a GPU's memory; downloads a model",
    "external_deps/test_performance.py": "downloads a model and GLUE (transformers, datasets, evaluate)",
    "external_deps/test_pippy.py": "pipeline parallelism on GPUs; downloads models",
    "external_deps/test_zero3_integration.py": "DeepSpeed, on GPUs",
}


def run_both(command, env, limit=240):
    """side → (verdict, its last error), each by the launcher that its PATH has first."""
    verdicts = {}
    for side in ("theirs", "ours"):
        path = shims() if side == "ours" else f"{VENV / 'bin'}:{env['PATH']}"
        job = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               stdin=subprocess.DEVNULL, env={**env, "PATH": path}, start_new_session=True)
        try:
            _, said = job.communicate(timeout=limit)
            error = next((line for line in reversed(said.splitlines())
                          if "Error" in line and "ChildFailed" not in line and "CalledProcess" not in line), "")
            error = error.partition("]: ")[2] or error  # without the prefix of the rank
            verdicts[side] = ("passes" if job.returncode == 0 else "fails", error.strip())
        except subprocess.TimeoutExpired:
            # Theirs leaves its ranks behind when it is killed, with our pipe in their hands.
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
            verdicts[side] = ("hangs", "")
    return verdicts


def scripts():
    """Each under its own launcher and under ours: the same verdict, and nothing that only ours fails."""
    (work / "all_reduce.py").write_text(ALL_REDUCE)
    site = subprocess.run([VENV / "bin/python", "-c", "import accelerate,os;print(os.path.dirname(accelerate.__file__))"],
                          capture_output=True, text=True, check=True).stdout.strip()
    folder = pathlib.Path(site) / "test_utils/scripts"
    runs = [("all_reduce.py", ["torchrun", "--nproc-per-node", "2", str(work / "all_reduce.py")])]
    for script in sorted(folder.rglob("*.py")):
        name = str(script.relative_to(folder))
        if name not in LEFT_OUT:
            # --cpu of theirs starts one process; without a GPU, --multi_gpu starts two on the CPU.
            runs.append((name, ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", str(script)]))
    base = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HOME": str(work / "hf"),
            "HF_HUB_OFFLINE": "1"}
    for name, command in runs:
        verdicts = run_both(command, base)
        same = verdicts["ours"][0] == verdicts["theirs"][0]
        expected = "fails" if name in STOPPED else "passes"
        why = f" ({STOPPED[name]})" if name in STOPPED else ""
        print(f"{'ok' if same else 'FAILED'} {name}: theirs {verdicts['theirs'][0]}, ours {verdicts['ours'][0]}{why} "
              f"{verdicts['ours'][1][-110:]}", flush=True)
        if not same:
            failures.append(name)
        elif verdicts["ours"][0] != expected:
            print(f"  note: it was to be: {expected}: {verdicts['theirs'][1]}")


# The programs of PyTorch's own launcher tests (test/distributed/launcher) are not in its wheel. This one does
# what they do, and was written anew after what they check: the variables, who ran, both ways to initialise.
PROGRAM = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--into", required=True)
parser.add_argument("--raise-on", type=int, default=-1)
parser.add_argument("--exit-on", type=int, default=-1)
parser.add_argument("--once", action="store_true")
parser.add_argument("--init-method")
parser.add_argument("--local-rank", "--local_rank", type=int)
options = parser.parse_args()
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
kept = ("LOCAL_RANK RANK GROUP_RANK ROLE_RANK ROLE_NAME LOCAL_WORLD_SIZE WORLD_SIZE ROLE_WORLD_SIZE GROUP_WORLD_SIZE "
        "TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS PARENT_SAYS").split()
seen = {name: os.environ.get(name) for name in kept}
seen["error file is set"] = bool(os.environ["TORCHELASTIC_ERROR_FILE"])
seen["arguments"] = [a for a in sys.argv[1:] if "/" not in a and "tcp" not in a]
import torch.distributed as dist
seen["is_torchelastic_launched"] = dist.is_torchelastic_launched()
if options.init_method:
    method = options.init_method
    if method == "tcp":
        method = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    import torch
    if method.startswith("tcp"):
        dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
    else:
        dist.init_process_group("gloo", init_method=method)
    hot = torch.zeros(world)
    hot[rank] = 1
    dist.all_reduce(hot)
    seen["sum"] = hot.sum().item()
    dist.destroy_process_group()
print(f"out of {rank}", flush=True)
print(f"err of {rank}", file=sys.stderr, flush=True)
first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
if rank == options.raise_on and (first or not options.once):
    from torch.distributed.elastic.multiprocessing.errors import record
    @record
    def fail():
        raise RuntimeError(f"raised by {rank}")
    fail()
if rank == options.exit_on:
    sys.exit(13)
pathlib.Path(options.into, f"{rank}.json").write_text(json.dumps(seen, sort_keys=True))
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def tree(directory):
    """The files of the ranks' logs, without the parts of their names that are random, and what they hold."""
    found = {}
    for file in sorted(directory.rglob("*")):
        if not file.is_file() or file.name.startswith("outcome"):
            continue
        name = "/".join(file.relative_to(directory).parts[1:])
        text = file.read_text()
        if file.name == "error.json":
            text = json.loads(text)["message"]["message"].splitlines()[0]
        found[name] = text
    return found


def programs():
    """Cases of PyTorch's launcher tests under torchrun and under ours: exit code or its absence, who ran, what
    each saw, and the logs. Ours passes on the ranks' own exit code, where torchrun always says 1."""
    (work / "program.py").write_text(PROGRAM)
    (work / "program.sh").write_text("#!/bin/sh\nset -e\necho $RANK/$WORLD_SIZE/$LOCAL_RANK > $1/$RANK\n")
    (work / "program.sh").chmod(0o755)
    (work / "a_module.py").write_text(PROGRAM)
    script, shell = str(work / "program.py"), str(work / "program.sh")
    # name: (flags, program and its arguments, variables, launchers at once); INTO and LOGS stand for directories.
    cases = {
        "a script": (["--nnodes=1", "--nproc-per-node=4", "--rdzv-id=j", "--monitor-interval=1", "--start-method=spawn"],
                     [script, "--into", "INTO"]),
        "master address and port": (["--nnodes=1", "--nproc-per-node=2", "--master-addr=localhost",
                                     "--master-port=PORT", "--node-rank=0"], [script, "--into", "INTO"]),
        "a shell script": (["--nproc-per-node=4", "--no-python"], [shell, "INTO"]),
        "one by default": (["--no-python"], [shell, "INTO"]),
        "auto": (["--nproc-per-node=auto", "--no-python"], [shell, "INTO"]),
        "cpu": (["--nproc-per-node=cpu", "--no-python"], [shell, "INTO"]),
        "an unknown number": (["--nproc-per-node=unknown", "--no-python"], [shell, "INTO"]),
        "gpu without one": (["--nproc-per-node=gpu", "--no-python"], [shell, "INTO"]),
        "--no-python with --module": (["--no-python", "--module"], [shell, "INTO"]),
        "variables": ([], [shell, "INTO"], {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "3", "PET_NO_PYTHON": "1",
                                            "PET_MODULE": "0", "PET_RDZV_ID": "j"}),
        "variables that exclude each other": ([], [shell, "INTO"], {"PET_NO_PYTHON": "1", "PET_MODULE": "1"}),
        "--standalone": (["--standalone", "--nproc-per-node=2"], [script, "--into", "INTO"]),
        "--run-path": (["--run-path", "--nproc-per-node=2"], [script, "--into", "INTO"]),
        "-m": (["--nproc-per-node=2", "-m"], ["a_module", "--into", "INTO"], {"PYTHONPATH": str(work)}),
        "env://": (["--nproc-per-node=2"], [script, "--into", "INTO", "--init-method", "env://"]),
        "tcp://": (["--nproc-per-node=2", "--master-port=PORT"], [script, "--into", "INTO", "--init-method", "tcp"],
                   {"TORCHELASTIC_USE_AGENT_STORE": ""}),
        "--virtual-local-rank": (["--nproc-per-node=2", "--virtual-local-rank"], [script, "--into", "INTO"],
                                 {"CUDA_VISIBLE_DEVICES": "0,1"}),
        "the macro ${local_rank}": (["--nproc-per-node=2"], [script, "--into", "INTO", "--local-rank=${local_rank}"]),
        "a rank raises": (["--nproc-per-node=2", "--log-dir=LOGS", "--redirects=3"],
                          [script, "--into", "INTO", "--raise-on", "1"]),
        "a rank exits": (["--nproc-per-node=2"], [script, "--into", "INTO", "--exit-on", "0"]),
        "restarts until it works": (["--nproc-per-node=2", "--max-restarts=2", "--monitor-interval=0.1"],
                                    [script, "--into", "INTO", "--raise-on", "1", "--once"]),
        "restarts that do not help": (["--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1"],
                                      [script, "--into", "INTO", "--raise-on", "0"]),
        "logs": (["--nproc-per-node=2", "--log-dir=LOGS", "--redirects=3"], [script, "--into", "INTO"]),
        "logs, teed": (["--nproc-per-node=2", "--log-dir=LOGS", "--tee=3"], [script, "--into", "INTO"]),
        "two launchers, c10d": (["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d",
                                 "--rdzv-endpoint=localhost:PORT", "--rdzv-id=j"],
                                [script, "--into", "INTO", "--init-method", "env://"], {}, 2),
    }
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ENVKIT", "PET_"))}
    base |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PARENT_SAYS": "hello"}
    for title, case in cases.items():
        flags, program, variables, launchers = [*case, *({}, 1)[len(case) - 2:]]
        seen = {}
        for side in ("theirs", "ours"):
            into = pathlib.Path(tempfile.mkdtemp(dir=work, prefix="into-"))
            logs = pathlib.Path(tempfile.mkdtemp(dir=work, prefix="logs-"))
            port = str(free_port())
            words = [w.replace("INTO", str(into)).replace("LOGS", str(logs)).replace("PORT", port)
                     for w in [*flags, *program]]
            path = shims() if side == "ours" else f"{VENV / 'bin'}:{base['PATH']}"
            jobs = [subprocess.Popen(["torchrun", *words], cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True, env={**base, **variables, "PATH": path})
                    for _ in range(launchers)]
            texts = [job.communicate(timeout=240)[0] for job in jobs]
            seen[side] = {"ends well": [job.returncode == 0 for job in jobs],
                          "ran": {f.name: f.read_text() for f in sorted(into.iterdir())},
                          "logs": tree(logs)}
            if launchers > 1:  # who of them is node 0 is nobody's business
                seen[side]["ran"] = sorted(seen[side]["ran"])
            seen[side + " said"] = "\n".join(texts)[-3000:]
        same = seen["theirs"] == seen["ours"]
        how = "end well" if all(seen["ours"]["ends well"]) else "fail"
        print(f"{'ok' if same else 'FAILED'} {title}: both {how}, {len(seen['ours']['ran'])} ranks' files, "
              f"{len(seen['ours']['logs'])} logs", flush=True)
        if not same:
            failures.append(title)
            for side in ("theirs", "ours"):
                print(f"  {side}: {json.dumps(seen[side])[:1500]}\n{seen[side + ' said']}")


HANG = """
import os, time, torch, torch.distributed as dist
def load():
    time.sleep(1000)
dist.init_process_group("gloo")
x = torch.ones(4)
dist.all_reduce(x)
print("step", flush=True)
if dist.get_rank() == 1:
    load()
dist.all_reduce(x)
"""


def hangs():
    """A real Gloo job that hangs, by our launcher alone: no other names the rank that does not come."""
    (work / "hang.py").write_text(HANG)
    done = subprocess.run(["torchrun", "--nproc-per-node", "2", "--hang-timeout", "8", str(work / "hang.py")], cwd=work,
                          capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
                          env={**os.environ, "PATH": shims(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    lines = [line for line in done.stderr.splitlines() if line.startswith("  cause")]
    right = bool(lines) and re.search(r"rank 1 \(pid \d+\) has not come to the collective that the others wait in: "
                                      r"it is at hang.py:4 in load", lines[0])
    print(f"{'ok' if right else 'FAILED'} hangs:{lines[0] if lines else done.stderr}")
    if not right:
        failures.append("hangs")


# Answers to `launch --save-config`, as flags, and what accelerate must have read.
SAVED = {
    "cpu": (["--cpu", "--num-processes", "2"], {"distributed_type": "MULTI_CPU", "num_processes": 2, "use_cpu": True}),
    "one": ([], {"distributed_type": "NO", "num_processes": 1, "mixed_precision": "no"}),
    "gpus": (["--multi-gpu", "--num-processes", "4", "--mixed-precision", "bf16", "--gpu-ids", "0,1,2,3"],
             {"distributed_type": "MULTI_GPU", "num_processes": 4, "mixed_precision": "bf16", "gpu_ids": "0,1,2,3"}),
    "nodes": (["--nnodes", "2", "--node-rank", "1", "--main-process-ip", "10.0.0.1", "--main-process-port", "29501",
               "--num-processes", "16"],
              {"num_machines": 2, "machine_rank": 1, "main_process_ip": "10.0.0.1", "main_process_port": 29501,
               "num_processes": 16}),
    "fsdp": (["--use-fsdp", "--num-processes", "2", "--fsdp-transformer-layer-cls-to-wrap", "BertLayer"],
             {"distributed_type": "FSDP"}),
    "fsdp1": (["--use-fsdp", "--num-processes", "2", "--fsdp-version", "1"], {"distributed_type": "FSDP"}),
    "deepspeed": (["--use-deepspeed", "--num-processes", "2", "--zero-stage", "3", "--offload-param-device", "nvme"],
                  {"distributed_type": "DEEPSPEED"}),
    "megatron": (["--use-megatron-lm", "--num-processes", "2", "--megatron-lm-tp-degree", "2"],
                 {"distributed_type": "MEGATRON_LM"}),
    "dynamo": (["--cpu", "--num-processes", "2", "--dynamo-backend", "inductor", "--dynamo-mode", "max-autotune"],
               {"dynamo_config": {"dynamo_backend": "INDUCTOR", "dynamo_mode": "max-autotune",
                                  "dynamo_use_dynamic": False, "dynamo_use_fullgraph": False,
                                  "dynamo_use_regional_compilation": False}}),
    "fp8": (["--mixed-precision", "fp8", "--fp8-backend", "te"], {"mixed_precision": "fp8"}),
}

LOAD = """
import json, sys
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser, _validate_launch_command
for name in sys.argv[1:]:
    config = load_config_from_file(name)
    json.dump(config.to_dict(), open(name + ".theirs", "w"))
    config.to_yaml_file(name + ".again")
"""


def config():
    """What --save-config writes is read by accelerate, which writes it again so that ours reads it the same."""
    launch = [BUILD / "bin/envkit-launch"]
    for name, (flags, _) in SAVED.items():
        subprocess.run([*launch, "--save-config", "--config-file", work / f"{name}.yaml", *flags], cwd=work, check=True,
                       stdin=subprocess.DEVNULL, capture_output=True)
    files = [str(work / f"{name}.yaml") for name in SAVED]
    subprocess.run([VENV / "bin/python", "-c", LOAD, *files], check=True)
    for name, (_, expected) in SAVED.items():
        theirs = json.loads((work / f"{name}.yaml.theirs").read_text())
        wrong = {key: theirs.get(key) for key, value in expected.items() if theirs.get(key) != value}
        explained = []
        for file in (f"{name}.yaml", f"{name}.yaml.again"):
            shutil.copy(work / file, work / "same.yaml")
            done = subprocess.run([*launch, "--explain", "--log-dir", work / "log", "--config-file", work / "same.yaml",
                                   "true"], cwd=work, capture_output=True, text=True)
            # Lines of the file differ in their number alone.
            explained.append((done.returncode, re.sub(r"same.yaml:[0-9]+", "same.yaml", done.stdout), done.stderr))
        same = explained[0] == explained[1] and not wrong
        print(f"{'ok' if same else 'FAILED'} --save-config {name}: {theirs['distributed_type']}", flush=True)
        if not same:
            failures.append(f"--save-config {name}")
            print(f"  theirs: {wrong}\n  ours: {explained}")


make_venv()
for part in (sys.argv[1:] or ["flags", "environment", "config", "programs", "hangs", "scripts"]):
    globals()[part]()
if failures:
    sys.exit(f"{len(failures)} differences")

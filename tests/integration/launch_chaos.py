#!/usr/bin/env python3
"""Random kills of a launch: of its launcher, its guard's child, a rank, a grandchild; with ranks that are
stopped or deaf to SIGTERM. After each: no process is left, and exit code and root cause are right.

    launch_chaos.py [ROUNDS] [SEED]
"""

import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
seed = int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "big")
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
launch = [os.environ["ENVKIT"], "launch"]
if not os.path.exists(launch[0]):  # a tree with sanitizers, of which only the launcher was built
    launch = [str(pathlib.Path(os.environ["ENVKIT_BUILD_DIR"]) / "bin/envkit-launch")]
# Ranks with a sanitizer end by the signal that they get, as others do.
for sanitizer in ("ASAN", "TSAN", "UBSAN"):
    os.environ.setdefault(f"{sanitizer}_OPTIONS", "handle_segv=0:handle_abort=0:halt_on_error=1")
rank_program = str(pathlib.Path(os.environ["ENVKIT_BUILD_DIR"]) / "bin" / "rank_program")


def processes(mark):
    """pid → (name, arguments) of all that live with MARK in their environment, whoever their parent is."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark not in file.read():
                    continue
            with open(f"/proc/{entry}/comm") as file:
                name = file.read().strip()
            with open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        found[int(entry)] = (name, parent)
    return found


def soon(condition, limit=60):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    return condition()


def one_round(number, choose):
    ranks = choose.choice([1, 2, 3, 5])
    victim = choose.choice(["launcher", "guard", "rank", "rank", "grandchild"])
    deed = choose.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    if victim in ("launcher", "guard", "grandchild"):
        deed = signal.SIGKILL
    habits, steps = {}, []
    for rank in range(ranks):
        habit = habits[rank] = choose.choice(["plain", "deaf", "stopped", "daemon", "deaf daemon"])
        if "deaf" in habit:
            steps += [f"{rank}:ignore=15"]
        if "daemon" in habit:
            steps += [f"{rank}:daemon={'deaf' if habit == 'deaf daemon' else ''}"]
        steps += [f"{rank}:worker"]
    with tempfile.TemporaryDirectory(prefix="envkit-chaos-") as directory:
        mark = f"ENVKIT_CHAOS={directory}".encode()
        for rank in range(ranks):
            steps += [f"{rank}:touch={directory}/{rank}"]
            if habits[rank] == "stopped":
                steps += [f"{rank}:stop"]
        command = launch + ["--processes", str(ranks), "--grace", "0.4", "--log-dir", f"{directory}/log", "--",
                            rank_program, *steps, "sleep=1000"]
        job = subprocess.Popen(command, cwd=directory, env={**os.environ, "ENVKIT_CHAOS": directory},
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
        try:
            assert soon(lambda: all(os.path.exists(f"{directory}/{r}") for r in range(ranks))), "no start"
            time.sleep(choose.random() * 0.05)
            alive = processes(mark)
            guard = next(p for p, (_, parent) in alive.items() if parent == job.pid)
            rank_pids = [p for p, (_, parent) in alive.items() if parent == guard and alive[p][0] == "rank_program"]
            # Daemons lost their parent and are the guard's children as well: ranks lead their session.
            rank_pids = sorted(p for p in rank_pids if os.getsid(p) == p and b"RANK=" in
                               open(f"/proc/{p}/environ", "rb").read())
            grandchildren = [p for p in alive if p not in (job.pid, guard) and p not in rank_pids]
            expected, cause = None, None
            if victim == "rank":
                pid = choose.choice(rank_pids)
                environment = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
                rank = int(next(v for v in environment if v.startswith(b"RANK=")).decode()[5:])
                os.kill(pid, deed)
                if deed != signal.SIGKILL and habits[rank] == "stopped":
                    os.kill(pid, signal.SIGCONT)
                expected, cause = 128 + deed, rank
            elif victim == "guard":
                os.kill(guard, deed)
                expected = 128 + deed
            elif victim == "grandchild":
                os.kill(choose.choice(grandchildren), deed)  # nobody's root cause: the job goes on
                time.sleep(0.05)
                assert job.poll() is None, "a grandchild's end ended the job"
                os.kill(job.pid, signal.SIGTERM)
                expected = 143
            else:
                os.kill(job.pid, deed)
                expected = -deed
            _, text = job.communicate(timeout=60)
            left = soon(lambda: not processes(mark), 15)
            assert left, f"left: {processes(mark)}"
            assert job.returncode == expected, f"exit code {job.returncode}, not {expected}\n{text}"
            outcome = pathlib.Path(directory, "log/outcome.json")
            if cause is not None:
                root = json.loads(outcome.read_text())["root_cause"]
                assert root["rank"] == cause, f"root cause {root}, not rank {cause}"
                assert root["signal"] == signal.Signals(deed).name, f"{root}"
                assert f"rank {cause} (pid" in text and text.rstrip().endswith(f"exit code {expected}"), text
        except (AssertionError, subprocess.TimeoutExpired) as error:
            sys.exit(f"round {number} of seed {seed}: {victim} of {habits} by {deed.name}: {error}")
        finally:
            for pid in processes(mark):
                os.kill(pid, signal.SIGKILL)
            job.wait()
    return victim


counts = {}
for number in range(rounds):
    victim = one_round(number, random.Random(f"{seed}/{number}"))
    counts[victim] = counts.get(victim, 0) + 1
print(f"{rounds} rounds, seed {seed}: {counts}; no process was left, every exit code and root cause was right")

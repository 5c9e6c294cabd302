"""How long `envkit dev up` takes until ssh works, and Jupyter's return after a crash:

    ENVKIT=build/release/bin/envkit python3 bench/dev.py [oci|docker] [TIMES]

In a copy of the repository's project; the image is built and given to the engine before."""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
ENVKIT = os.environ.get("ENVKIT") or str(SOURCE / "build/release/bin/envkit")
engine = sys.argv[1] if len(sys.argv) > 1 else "oci"
times = int(sys.argv[2]) if len(sys.argv) > 2 else 5
BOUND = {"oci": 1.5, "docker": 3.0}[engine]

place = pathlib.Path(tempfile.mkdtemp(prefix="envkit-bench-dev-"))
for name in ("envkit.toml", "envkit.lock"):
    shutil.copy(SOURCE / name, place / name)
env = {**os.environ, "HOME": str(place), "XDG_STATE_HOME": str(place / "state")}


def envkit(*arguments, check=True):
    return subprocess.run([ENVKIT, *arguments], cwd=place, env=env, text=True, check=check,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


def status():
    return json.loads(envkit("dev", "status", "--json", check=False))


up = ["dev", "up", "--engine", engine, "--variant", "cpu", "--json"]
try:
    report = json.loads(envkit(*up))
    entry = next((place / "state/envkit/ssh").glob("*.conf"))
    envkit("dev", "down")
    ssh, ready = [], []
    for _ in range(times):
        started = time.monotonic()
        starting = subprocess.Popen([ENVKIT, *up], cwd=place, env=env, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        while subprocess.run(["ssh", "-F", entry, "-o", "BatchMode=yes", report["ssh_name"], "true"],
                             stderr=subprocess.DEVNULL).returncode != 0:
            time.sleep(0.02)
        ssh.append(time.monotonic() - started)
        starting.wait()
        ready.append(time.monotonic() - started)
        envkit("dev", "down")
    envkit(*up)
    back = []
    for _ in range(3):
        before = status()["services"]["jupyter"]["restarts"]
        time.sleep(11)  # one that lived for less is started again later
        subprocess.run(["ssh", "-F", entry, report["ssh_name"], "pkill -KILL -f '[j]upyter-lab'"])
        killed = time.monotonic()
        while True:
            jupyter = status()["services"]["jupyter"]
            if jupyter["restarts"] > before and jupyter["state"] == "running":
                break
            time.sleep(0.02)
        back.append(time.monotonic() - killed)
    words = lambda values: f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"
    print(f"{engine}: ssh works after {words(ssh)}, wanted {BOUND} s; all is ready after {words(ready)}; "
          f"a crashed Jupyter is back after {words(back)}, wanted 2 s")
finally:
    envkit("dev", "down", check=False)
    shutil.rmtree(place, ignore_errors=True)

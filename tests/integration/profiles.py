"""Every layer of a profile made twice, the second time in another time zone, with another umask,
locale, host name and number of cores: the same layers. The runtime is left out, which reproducible_test
and CI's own two builds are about.

    profiles.py PROFILE VARIANT
"""

import json
import os
import shutil
import subprocess
import sys

import support

profile, variant = sys.argv[1:]
project = support.new_project()
build = ("build", "--profile", profile, "--variant", variant, "--json")
first = json.loads(support.envkit(*build, project=project).stdout)

# A store with the downloads and the runtime alone: copied by links, which are replaced, not written to.
store = support.STORE.parent / f"twice-{os.getpid()}"
try:
    store.mkdir()
    for name in ("downloads", "roots", "tools", "default-index"):
        if (support.STORE / name).exists():
            subprocess.run(["cp", "-al", support.STORE / name, store / name], check=True)
    kept = next(layer["diff_id"] for layer in first["layers"] if layer["what"] == "runtime")
    (store / "layers").mkdir()
    (store / "keys").mkdir()
    subprocess.run(["cp", "-al", support.STORE / "layers" / kept, store / "layers" / kept], check=True)
    for key in (support.STORE / "keys").iterdir():
        if key.read_text() == kept:
            shutil.copy(key, store / "keys" / key.name)
    command = [support.ENVKIT, *build]
    if os.getuid() == 0:
        command = ["unshare", "--uts", "taskset", "-c", "0", "sh", "-c",
                   'hostname other; umask 077; exec "$@"', "sh", *command]
    done = subprocess.run(command, cwd=project, text=True, stdout=subprocess.PIPE, env=support.environment(
        store, TZ="Asia/Tokyo", LC_ALL="C", LANG="tr_TR.UTF-8", HOSTNAME="other", PYTHONHASHSEED="7",
        USER="other", SOURCE_DATE_EPOCH="1"))
    support.check(done.returncode == 0, f"exit code {done.returncode}")
    again = json.loads(done.stdout)
    for one, other in zip(first["layers"], again["layers"]):
        print("same " if one == other else "OTHER", one["what"], one["bytes"], flush=True)
    support.check(again["diff_ids"] == first["diff_ids"], "another machine gives other layers")
    support.check(again["config_digest"] == first["config_digest"], "another config")
    support.check(len(again["built"]) == len(first["layers"]) - 1, again["built"])
finally:
    subprocess.run(["rm", "-rf", store])

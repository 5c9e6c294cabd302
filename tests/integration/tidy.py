"""clang-tidy over the toolkit, with the checks of .clang-tidy."""

import concurrent.futures
import json
import os
import shutil
import subprocess

import support

tidy = shutil.which("clang-tidy")
support.check(tidy, "clang-tidy is not installed")
database = json.loads((support.BUILD / "compile_commands.json").read_text())
sources = sorted(entry["file"] for entry in database
                 if entry["file"].startswith(str(support.SOURCE / "toolkit")))


def run(path):
    return subprocess.run([tidy, "-p", str(support.BUILD), "--quiet",
                           # The compiler is GCC, some of whose options clang has not.
                           "--extra-arg=-Wno-unknown-warning-option", path], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    failed = [done.stdout for done in pool.map(run, sources) if done.returncode != 0]
support.check(not failed, "\n".join(failed)[:8000])

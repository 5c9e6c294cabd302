"""clang-tidy over the toolkit, with the checks of .clang-tidy. The tree may be compiled file by file or with
several files in one (CMAKE_UNITY_BUILD): then clang reads the headers once for all of them."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess

import support

tidy = shutil.which("clang-tidy")
support.check(tidy, "clang-tidy is not installed")
toolkit = f"{support.SOURCE}/toolkit/"
wanted = {str(path) for path in (support.SOURCE / "toolkit").rglob("*.cpp")}
files, seen = [], set()
for entry in json.loads((support.BUILD / "compile_commands.json").read_text()):
    path = entry["file"]
    sources = {path} if path.startswith(toolkit) else set(
        re.findall(r'#include "([^"]*\.cpp)"', pathlib.Path(path).read_text())) & wanted
    if sources - seen:
        files.append(path)
        seen |= sources
support.check(seen == wanted, f"not in the build: {sorted(wanted - seen)}")


def run(path):
    # The compiler is GCC, some of whose options clang has not; a file of files includes them.
    return subprocess.run([tidy, "-p", str(support.BUILD), "--quiet",
                           "--extra-arg=-Wno-unknown-warning-option",
                           "--checks=-bugprone-suspicious-include", path], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    failed = [done.stdout for done in pool.map(run, files) if done.returncode != 0]
support.check(not failed, "\n".join(failed)[:8000])

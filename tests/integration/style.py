"""The house rules that a machine can check: formatting, no large files, no hosts, no machine's paths."""

import pathlib
import re
import shutil
import subprocess

import support


def git(*arguments):
    return subprocess.run(["git", "-c", f"safe.directory={support.SOURCE}", *arguments],
                          cwd=support.SOURCE, text=True, capture_output=True, check=True).stdout


files = [support.SOURCE / name for name in git("ls-files", "-z").split("\0") if name]
sources = [path for path in files if path.suffix in (".h", ".cpp", ".cc", ".cu")]
support.check(len(sources) > 40, "the sources were not found")
formatter = shutil.which("clang-format")
support.check(formatter, "clang-format is not installed")
done = subprocess.run([formatter, "--dry-run", "-Werror", *map(str, sources)], text=True,
                      capture_output=True)
support.check(done.returncode == 0, done.stderr[:4000])

host = re.compile(r"https?://[^/\"' ]+/(simple|debian|debian-security|packages/[0-9a-f][0-9a-f])([/\"' ]|$)")
for path in files:
    support.check(path.stat().st_size <= 1_000_000, f"{path} is over 1 MB")
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        continue
    for number, line in enumerate(text.splitlines(), 1):
        if host.search(line) and not re.search(r"127\.0\.0\.1|localhost|example\.(com|org)", line):
            support.check(False, f"{path}:{number}: a registry's host name: {line.strip()[:100]}")

# A command is thin: one file, about 100 lines.
for path in (support.SOURCE / "toolkit" / "commands").glob("*.cpp"):
    lines = len(path.read_text().splitlines())
    if path.name not in ("commands.cpp", "command_line.cpp", "completion.cpp"):
        support.check(lines <= 120, f"{path.name} has {lines} lines: move logic into a library")

# Arrows between toolkit's folders go down only.
LEVEL = {"base": 0, "project": 1, "matrix": 1, "host": 1, "symptoms": 1, "doctor": 2, "image": 2,
         "engine": 2, "launch": 2, "session": 3, "cluster": 3, "commands": 4}
for path in sources:
    parts = path.relative_to(support.SOURCE).parts
    if parts[0] != "toolkit" or len(parts) < 3:
        continue
    for include in re.findall(r'#include "(\w+)/', path.read_text()):
        if include in LEVEL and include != parts[1]:
            support.check(LEVEL[include] < LEVEL[parts[1]],
                          f"{pathlib.Path(*parts)} includes {include}/: the arrow points upward")

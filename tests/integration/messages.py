"""What a wrong command line says, word for word: tests/fixtures/messages.txt has each command with what
it prints and its exit code. `messages.py --write` renews the file; read the difference."""

import pathlib
import shlex
import shutil
import subprocess
import sys

import support

GOLDEN = support.SOURCE / "tests/fixtures/messages.txt"
project = support.new_project()
store = support.new_directory()
bare = support.new_directory()  # a PATH with nothing in it
(project / "full").mkdir()
(project / "full/file").touch()
(project / "no-interpreter").write_text("#!/nowhere/sh\n")
(project / "no-interpreter").chmod(0o755)


def said(line):
    """LINE may have NAME=VALUE before the command; bare stands for the directory with nothing in it."""
    words = shlex.split(line)
    more = {"SLURM_JOB_NODELIST": None, "SLURM_NODELIST": None}
    while "=" in words[0] and not words[0].startswith("-"):
        name, value = words.pop(0).split("=", 1)
        more[name] = str(bare) if value == "bare" else value
    support.check(words[0] == "envkit", line)
    done = subprocess.run([support.ENVKIT, *words[1:]], cwd=project, env=support.environment(store, **more),
                          text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60)
    text = done.stdout.replace(str(project), "PROJECT").replace(str(store), "STORE")
    return f"$ {line}\n{text}exit code {done.returncode}\n\n"


if not any(map(shutil.which, ("crun", "runc", "docker", "podman"))):
    support.skip("no container runtime is here, which `run` asks for first")
wanted = GOLDEN.read_text()
if sys.argv[1:] != ["--write"] and pathlib.Path("/dev/nvidia0").exists():  # which GPUs there are is the machine's
    wanted = "".join(block + "\n\n" for block in wanted.split("\n\n") if block and " --gpus " not in block)
commands = [line[2:] for line in wanted.splitlines() if line.startswith("$ ")]
now = "".join(map(said, commands))
if sys.argv[1:] == ["--write"]:
    GOLDEN.write_text(now)
elif now != wanted:
    for old, new in zip(wanted.split("\n\n"), now.split("\n\n")):
        support.check(old == new, f"{new}\n\nis not what {GOLDEN.name} has:\n\n{old}")
    support.check(False, "messages.txt has another number of messages")

"""What goes wrong on the way: each a clear error, the exit code of the design, nothing half-written."""

import hashlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import zipfile

import support
from index_server import Index


def contains(done, *words):
    text = done.stderr
    support.check(not done.stdout.strip(), f"stdout is for answers: {done.stdout}")
    for word in words:
        support.check(word in text, f"'{word}' is not in:\n{text}")
    support.check("internal error" not in text, text)


def edit(path, old, new):
    text = path.read_text()
    support.check(old in text, f"{old} is not in {path}")
    path.write_text(text.replace(old, new, 1))


def nothing_under_final_names(store, sha256):
    found = [str(path) for path in pathlib.Path(store).rglob(f"*{sha256}*/*")
             if path.is_file() and not re.search(r"\.(part|json|lock)$", path.name)]
    support.check(not found, f"left behind: {found}")


# A bad envkit.toml: every mistake, with its place, and the nearest right word.
project = support.new_project()
edit(project / "envkit.toml", 'torch = "2.15"', 'torhc = "2.15"\npython = 3.13')
edit(project / "envkit.toml", 'python = "3.13"\n', "")
done = support.envkit("run", "train", project=project, expect=2)
contains(done, "envkit.toml:7:1: error:", "torch", "envkit.toml:8:10: error:", "^")

# An unknown job, and none at all.
project = support.new_project()
contains(support.envkit("run", "trian", project=project, expect=2), "trian", "did you mean", "train")
contains(support.envkit("run", project=project, expect=2), "train")
contains(support.envkit("rnu", "train", project=project, expect=2), "run")

# No project, no lock, a stale lock, a damaged lock.
empty = support.new_directory()
contains(support.envkit("run", "train", project=empty, expect=2), "envkit.toml")
(project / "envkit.lock").rename(project / "kept")
contains(support.envkit("build", project=project, expect=2), "envkit.lock", "envkit lock")
(project / "kept").rename(project / "envkit.lock")
edit(project / "envkit.toml", 'torch = "2.15"', 'torch = "2.14"')
contains(support.envkit("build", project=project, expect=2), "2.14", "2.15", "envkit lock")
support.envkit("lock", "--check", project=project, expect=1)
edit(project / "envkit.toml", 'torch = "2.14"', 'torch = "2.15"')
lock = (project / "envkit.lock").read_text()
(project / "envkit.lock").write_text(lock[: len(lock) // 2])
contains(support.envkit("build", project=project, expect=2), "envkit.lock:")

# No engine: a PATH without container runtimes.
tools = support.new_directory()
for name in ("sh", "env", "true"):
    (tools / name).symlink_to(shutil.which(name))
project = support.new_project()
done = support.envkit("run", "--engine", "oci", "--variant", "cpu", "--", "true", project=project,
                      env={"PATH": tools, "DOCKER_HOST": None, "ENVKIT_NO_SBIN": "1"}, expect=None)
if done.returncode != 0:  # crun and runc lie in /usr/sbin on Debian, where envkit looks as well
    support.check(done.returncode == 3, f"exit code {done.returncode}")
    contains(done, "crun", "install")
contains(support.envkit("run", "--engine", "docker", "--variant", "cpu", "--", "true",
                        project=project, env={"DOCKER_HOST": "unix:///nowhere/docker.sock"},
                        expect=3), "docker")
contains(support.envkit("run", "--engine", "dokcer", "--", "true", project=project, expect=2),
         "docker", "oci")

# No network, with nothing in the store.
store = support.new_directory("envkit-store-")
done = support.envkit("build", "--variant", "cpu", project=project, store=store, expect=3, env={
    "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"})
contains(done, "127.0.0.1")

# An artefact whose bytes are not the locked ones, and one that ends early.
files = support.new_directory()
with zipfile.ZipFile(files / "tiny_data-1.0-py3-none-any.whl", "w") as archive:
    archive.writestr("tiny/data.bin", os.urandom(300_000))
sha256 = hashlib.sha256((files / "tiny_data-1.0-py3-none-any.whl").read_bytes()).hexdigest()
project = support.new_project()
text = (project / "envkit.toml").read_text()
text = re.sub(r"\[data\.mnist\][^\[]*", f'[data.tiny]\nfile = "tiny_data-1.0-py3-none-any.whl"\n'
              f'sha256 = "{sha256}"\nmount = "/data/tiny"\n\n', text)
(project / "envkit.toml").write_text(text)
for mode, words in (("wrong", ["sha256", sha256]), ("truncate", ["tiny_data"])):
    with Index(files, mode) as index:
        done = support.envkit("run", "train", "--engine", "oci", "--variant", "cpu", project=project,
                              env={"UV_DEFAULT_INDEX": index.url, "PIP_INDEX_URL": index.url,
                                   "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}, expect=None)
    support.check(done.returncode in (1, 3), f"{mode}: exit code {done.returncode}")
    contains(done, *words)
    nothing_under_final_names(support.STORE, sha256)
with Index(files) as index:
    done = support.envkit("run", "--engine", "oci", "--variant", "cpu", "train", "--dry-run",
                          project=project, env={"UV_DEFAULT_INDEX": index.url,
                                                "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})

# A full disk: the store on a small file system.
if os.getuid() == 0:
    small = support.new_directory("envkit-small-")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", small]).returncode == 0:
        try:
            done = support.envkit("build", "--variant", "cpu", project=support.new_project(),
                                  store=small, expect=None)
            support.check(done.returncode in (1, 3), f"exit code {done.returncode}")
            support.check(re.search("disk is full|MB are free|GB are free|free", done.stderr),
                          done.stderr)
        finally:
            subprocess.run(["umount", "-l", small], check=True)

# A port in use, named with its holder.
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    done = support.envkit("launch", "--processes", "2", "--master-port", port, "/bin/true",
                          project=project, expect=3)
    contains(done, f"port {port} is in use", str(os.getpid()))
    done = support.envkit("run", "--engine", "oci", "--variant", "cpu", "--", "envkit-launch",
                          "--processes", "2", "--master-port", port, "/bin/true",
                          project=support.new_project(), expect=3)
    support.check(f"port {port} is in use" in done.stderr, done.stderr)

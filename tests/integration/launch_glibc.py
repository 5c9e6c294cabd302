"""envkit-launch is one file below 3 MB that needs nothing newer than glibc 2.28: the one that was built
here, with `image` that of an image too. With `old` it also runs on an old glibc: Debian 11's (2.31; 2.28
has left the mirrors), where what 2.34 changed is still as it was.

    launch_glibc.py [image | old]
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import support

OLDEST = (2, 28)
BUILT = pathlib.Path(os.environ["ENVKIT_BUILD_DIR"]) / "bin/envkit-launch"
if not shutil.which("objdump"):
    support.skip("objdump is not installed")
if b"__asan_init" in BUILT.read_bytes() or b"__tsan_init" in BUILT.read_bytes():
    support.skip("sanitizers bring a runtime of their own")


def objdump(flag, file):
    return subprocess.run(["objdump", flag, file], capture_output=True, text=True, check=True).stdout


def check(file):
    text = objdump("-T", file)
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([0-9.]+)", text)}
    support.check(versions, f"{file} has no versions")
    newer = [line for line in text.splitlines()
             if (found := re.search(r"GLIBC_([0-9.]+)", line)) and tuple(map(int, found[1].split("."))) > OLDEST]
    support.check(not newer, f"{file} asks for a newer glibc:\n" + "\n".join(newer))
    support.check("GLIBCXX" not in text and "CXXABI" not in text, f"{file} asks for a libstdc++")
    needed = set(re.findall(r"NEEDED\s+(\S+)", objdump("-p", file)))
    glibc = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    support.check(needed <= glibc, f"{file} needs {needed - glibc}")
    size = file.stat().st_size
    support.check(size < 3_000_000, f"{file} has {size} bytes")
    newest = ".".join(map(str, max(versions)))
    print(f"ok {file.parent.parent.name}/{file.parent.name}/{file.name}: {size / 1e6:.2f} MB, glibc {newest} suffices")


def old_glibc():
    if platform.machine() != "x86_64":
        support.skip("only the package for x86-64 is tried")
    cache = support.CACHE / "envkit-tests" / "glibc-2.31"
    if not cache.exists():
        state = support.new_directory("envkit-apt-")
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True)
        for source in pathlib.Path("/etc/apt").glob("sources.list.d/*.sources"):
            address = re.search(r"^URIs: (\S*/debian)/?$", source.read_text(), re.M)
            if address:
                (state / "list").write_text(f"deb {address[1]} bullseye main\n")
        if not (state / "list").exists():
            support.skip("no Debian mirror is known here")
        options = ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache", "-o",
                   f"Dir::Etc::sourcelist={state}/list", "-o", "Dir::Etc::sourceparts=-", "-o",
                   "APT::Sandbox::User=root"]
        subprocess.run(["apt-get", *options, "update"], cwd=state, capture_output=True)
        known = subprocess.run(["apt-cache", *options, "madison", "libc6"], capture_output=True, text=True).stdout
        version = re.search(r"libc6 \| (2\.31\S*) ", known)
        if not version or subprocess.run(["apt-get", *options, "download", f"libc6={version[1]}"], cwd=state,
                                         capture_output=True).returncode != 0:
            support.skip("this machine's mirror has no Debian 11 any more")
        (package,) = state.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, cache.with_suffix(".new")], check=True)
        cache.with_suffix(".new").rename(cache)
    libraries = cache / "lib/x86_64-linux-gnu"

    def run(*words):
        return subprocess.run([libraries / "ld-2.31.so", "--library-path", libraries, BUILT, "--log-dir",
                               support.new_directory(), *words], capture_output=True, text=True, timeout=60)

    done = run("--processes", "3", "--", "sh", "-c", "echo rank $RANK; [ $RANK = 1 ] && exit 7; sleep 100")
    support.check(done.returncode == 7 and "[1] rank 1" in done.stdout, done)
    support.check("rank 1 (pid" in done.stderr and "no process is left" in done.stderr, done.stderr)
    done = run("--tpu", "x")  # an exception is thrown and caught
    support.check(done.returncode == 2 and "TPUs are not supported" in done.stderr, done)
    done = run("--rdzv-endpoint", "localhost:29633", "--nnodes", "2", "--node-rank", "1", "--rdzv-conf",
               "join_timeout=1", "true")  # names are resolved, and sockets opened
    support.check(done.returncode == 3 and "node 0 cannot be reached at localhost:29633" in done.stderr, done)
    print("ok it runs on glibc 2.31")


check(BUILT)
if sys.argv[1:] == ["image"]:
    project = support.new_project()
    support.envkit("run", "--", "cp", "/opt/envkit/bin/envkit-launch", "/workspace/launcher", project=project)
    check(project / "launcher")
if sys.argv[1:] == ["old"]:
    old_glibc()

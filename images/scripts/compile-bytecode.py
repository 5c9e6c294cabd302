"""Bytecode of the modules of an image: a/b.py gives OUT/a/__pycache__/b.cpython-313.pyc, unchecked by
hash, since files of an image do not change. Packages' own tests have none.

Run by envkit's build in the image's own system:  compile-bytecode.py OUT SOURCES
SOURCES/sources is all modules, one after the other, and SOURCES/index a line "SIZE PATH" for each.

What marshal writes depends on what else the process has seen (which strings are interned, and how
often something is referred to). Therefore each share of the files, by names and sizes alone, is compiled
in order by a process of its own, forked before anything was compiled: the same bytes come out however
many run at the same time.
"""

import gc
import importlib.util
import os
import sys
import warnings
import zlib
from importlib._bootstrap_external import _code_to_hash_pyc

SHARES = 24  # at most
SHARE_SIZE = 1_000_000  # bytes of modules; less is not worth a process


def compile_share(out, sources, share):
    warnings.simplefilter("ignore")
    gc.disable()
    for name, offset, size in share:
        source = os.pread(sources, size, offset)
        try:
            code = compile(source, "/" + name, "exec", dont_inherit=True)
        except (SyntaxError, UnicodeError, ValueError, RecursionError):
            continue  # templates and tests of parsers; Python itself would say so on import
        # py_compile does this too, and three system calls more for each file: OUT is new and ours alone.
        target = os.path.join(out, importlib.util.cache_from_source(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb", buffering=0) as file:
            file.write(_code_to_hash_pyc(code, importlib.util.source_hash(source), False))


def modules(index):
    """(path, offset, size) of each module."""
    offset = 0
    for line in index:
        size, path = line.rstrip(b"\n").split(b" ", 1)
        name = os.fsdecode(path)
        # A third of all bytecode, which nothing that starts up ever loads.
        directories = name.split("/")[:-1]
        if not {"test", "tests"}.intersection(directories) and "/torch/testing/_internal/" not in name:
            yield name, offset, int(size)
        offset += int(size)


def wait():
    if os.waitstatus_to_exitcode(os.wait()[1]) != 0:
        sys.exit("a process that compiled modules failed")


def give_way():
    """The layers that are written meanwhile come first: they keep the disk busy."""
    os.nice(10)
    try:
        # Within a session alone nice counts where the kernel groups processes by session, and a
        # container is one.
        with open("/proc/self/autogroup", "w") as group:
            group.write("10")
    except OSError:
        pass  # it does not group them


def main(out, directory):
    give_way()
    with open(f"{directory}/index", "rb") as index:
        all_modules = list(modules(index))
    count = min(SHARES, sum(size for _, _, size in all_modules) // SHARE_SIZE + 1)
    shares = [[] for _ in range(count)]
    for module in all_modules:
        shares[zlib.crc32(os.fsencode(module[0])) % count].append(module)
    sources = os.open(f"{directory}/sources", os.O_RDONLY)
    running = 0
    # The longest first, so that none is left over at the end.
    shares.sort(key=lambda share: -sum(size for _, _, size in share))
    for share in shares:
        if running == os.process_cpu_count():
            wait()
            running -= 1
        if os.fork() == 0:
            compile_share(out, sources, share)
            os._exit(0)
        running += 1
    for _ in range(running):
        wait()


main(sys.argv[1], sys.argv[2])

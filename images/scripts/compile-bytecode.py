"""Bytecode of the modules of an image's layers, unchecked by hash, since files of an image do not
change. Packages' own tests have none.

Run by envkit's build in the image's own system:  compile-bytecode.py OUT SOURCES
SOURCES/sources is all modules, one after the other, and SOURCES/index a line "LAYER SIZE PATH" for each,
with LAYER a number. OUT/LAYER/ gets files that hold a line "SIZE PATH" and SIZE bytes for each module:
what belongs at a/__pycache__/b.cpython-313.pyc for a/b.py. Few large files, since envkit writes the layers'.
A line "done LAYER" says that a layer's are all there.

What marshal writes depends on what else the process has seen (which strings are interned, and how
often something is referred to). Therefore each share of a layer's files, by names and sizes alone, is
compiled in order by a process of its own, forked before anything was compiled: the same bytes come out
however many run at the same time, and whichever other layers are compiled in the same run.
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
    with open(out, "xb") as file:
        for name, offset, size in share:
            source = os.pread(sources, size, offset)
            try:
                code = compile(source, "/" + name, "exec", dont_inherit=True)
            except (SyntaxError, UnicodeError, ValueError, RecursionError):
                continue  # templates and tests of parsers; Python itself would say so on import
            # py_compile does this too, and writes a file for each.
            bytecode = _code_to_hash_pyc(code, importlib.util.source_hash(source), False)
            path = os.fsencode(importlib.util.cache_from_source(name))
            file.write(b"%d %s\n" % (len(bytecode), path))
            file.write(bytecode)


def modules(index):
    """{layer: [(path, offset, size) of each module]}"""
    layers = {}
    offset = 0
    for line in index:
        layer, size, path = line.rstrip(b"\n").split(b" ", 2)
        name = os.fsdecode(path)
        # A third of all bytecode, which nothing that starts up ever loads.
        directories = name.split("/")[:-1]
        if not {"test", "tests"}.intersection(directories) and "/torch/testing/_internal/" not in name:
            layers.setdefault(int(layer), []).append((name, offset, int(size)))
        offset += int(size)
    return layers


def bytes_of(share):
    return sum(size for _, _, size in share)


def shares_of(layer):
    count = min(SHARES, bytes_of(layer) // SHARE_SIZE + 1)
    shares = [[] for _ in range(count)]
    for module in layer:
        shares[zlib.crc32(os.fsencode(module[0])) % count].append(module)
    return shares


def wait(running, left):
    pid, status = os.wait()
    layer = running.pop(pid)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit("a process that compiled modules failed")
    left[layer] -= 1
    if left[layer] == 0:
        print("done", layer, flush=True)


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
        layers = modules(index)
    sources = os.open(f"{directory}/sources", os.O_RDONLY)
    running = {}  # pid → layer
    left = {}  # layer → shares that are not compiled yet
    # Of layers and of shares the longest first, so that little is left over at the end.
    for number, layer in sorted(layers.items(), key=lambda item: -bytes_of(item[1])):
        shares = sorted(shares_of(layer), key=lambda share: -bytes_of(share))
        left[number] = len(shares)
        for place, share in enumerate(shares):
            if len(running) == os.process_cpu_count():
                wait(running, left)
            pid = os.fork()
            if pid == 0:
                compile_share(f"{out}/{number}/{place}", sources, share)
                os._exit(0)
            running[pid] = number
    while running:
        wait(running, left)


main(sys.argv[1], sys.argv[2])

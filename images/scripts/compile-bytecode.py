"""Bytecode of the modules below the given directories, which stand for "/": DIRECTORY/a/b.py gives
OUT/a/__pycache__/b.cpython-313.pyc, unchecked by hash, since files of an image do not change. Packages'
own tests have none.

Run by envkit's build in the image's own system:  compile-bytecode.py OUT DIRECTORY...

What marshal writes depends on what else the process has seen (which strings are interned, and how
often something is referred to). Therefore each share of the files, by its names alone, is compiled
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

SHARES = 24


def compile_share(out, share):
    warnings.simplefilter("ignore")
    gc.disable()
    for directory, name in share:
        with open(f"{directory}/{name}", "rb", buffering=0) as file:
            source = file.read()
        try:
            code = compile(source, "/" + name, "exec", dont_inherit=True)
        except (SyntaxError, UnicodeError, ValueError, RecursionError):
            continue  # templates and tests of parsers; Python itself would say so on import
        # py_compile does this too, and three system calls more for each file: OUT is new and ours alone.
        target = os.path.join(out, importlib.util.cache_from_source(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb", buffering=0) as file:
            file.write(_code_to_hash_pyc(code, importlib.util.source_hash(source), False))


def modules(directories):
    """(directory, path below it) of each module, in no order."""
    for directory in directories:
        for path, inside, names in os.walk(directory):
            # A third of all bytecode, which nothing that starts up ever loads.
            inside[:] = [name for name in inside if name not in ("test", "tests") and
                         not (name == "_internal" and path.endswith("/torch/testing"))]
            for name in names:
                if name.endswith(".py"):
                    yield directory, os.path.relpath(os.path.join(path, name), directory)


def wait():
    if os.waitstatus_to_exitcode(os.wait()[1]) != 0:
        sys.exit("a process that compiled modules failed")


def main(out, directories):
    shares = [[] for _ in range(SHARES)]
    for directory, name in modules(directories):
        shares[zlib.crc32(os.fsencode(name)) % SHARES].append((directory, name))
    running = 0
    # The longest first, so that none is left over at the end.
    shares.sort(key=lambda share: -sum(os.stat("/".join(module)).st_size for module in share))
    for share in shares:
        share.sort(key=lambda module: module[1])
        if running == os.process_cpu_count():
            wait()
            running -= 1
        if os.fork() == 0:
            compile_share(out, share)
            os._exit(0)
        running += 1
    for _ in range(running):
        wait()


main(sys.argv[1], sys.argv[2:])

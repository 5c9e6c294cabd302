"""Bytecode of the modules below the given directories, which stand for "/": DIRECTORY/a/b.py gives
OUT/a/__pycache__/b.cpython-313.pyc, unchecked by hash, since files of an image do not change. Packages'
own tests have none.

Run by envkit's build in the image's own system:  compile-bytecode.py OUT DIRECTORY...

What marshal writes depends on what else the process has seen (which strings are interned, and how
often something is referred to). Therefore each share of the files, by its names alone, is compiled
in order by a process of its own: the same bytes come out however many run at the same time.
"""

import gc
import importlib.util
import os
import py_compile
import sys
import warnings

SHARES = 24


def compile_share(out):
    warnings.simplefilter("ignore")
    gc.disable()
    for line in sys.stdin.read().splitlines():
        directory, name = line.split("\t")
        target = os.path.join(out, importlib.util.cache_from_source(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            py_compile.compile(os.path.join(directory, name), target, "/" + name, doraise=True,
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        except (py_compile.PyCompileError, UnicodeError, ValueError, RecursionError):
            pass  # templates and tests of parsers; Python itself would say so on import


def main(out, directories):
    # Here, since each of the shares' processes would load them too.
    import concurrent.futures
    import subprocess
    import zlib

    shares = [[] for _ in range(SHARES)]
    for directory in directories:
        for path, inside, names in os.walk(directory):
            # A third of all bytecode, which nothing that starts up ever loads.
            inside[:] = [name for name in inside if name not in ("test", "tests") and
                         not (name == "_internal" and path.endswith("/torch/testing"))]
            for name in names:
                if not name.endswith(".py") or "\n" in path or "\t" in path:
                    continue
                relative = os.path.relpath(os.path.join(path, name), directory)
                shares[zlib.crc32(relative.encode()) % SHARES].append(f"{directory}\t{relative}")
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), "--share", out]

    def run(share):
        share.sort(key=lambda line: line.split("\t")[1])
        text = "".join(line + "\n" for line in share)
        subprocess.run(command, input=text, text=True, check=True)

    with concurrent.futures.ThreadPoolExecutor(os.process_cpu_count()) as pool:
        list(pool.map(run, shares))


if sys.argv[1] == "--share":
    compile_share(sys.argv[2])
else:
    main(sys.argv[1], sys.argv[2:])

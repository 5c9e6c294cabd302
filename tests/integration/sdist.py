"""A package that comes as source alone, with C in it: built in the real builder, offline, twice the same."""

import io
import json
import pathlib
import shutil
import sys
import tarfile
import tomllib
import zipfile

import support
from index_server import Index

files = support.new_directory("envkit-index-")
NAME, STEM = "envkit-probe", "envkit_probe-0.5"
index = Index(files)
SETUP = f"""
import os, socket, setuptools
try:  # even this machine's own servers are out of reach
    socket.create_connection(("127.0.0.1", {index.server.server_port}), timeout=5).close()
    online = True
except OSError:
    online = False
open("probe_facts.py", "w").write(f"online = {{online}}\\nuser = {{os.getuid()}}\\n")
setuptools.setup(py_modules=["probe_facts"],
                 ext_modules=[setuptools.Extension("probe", ["probe.c"])])
"""
SOURCES = {
    "PKG-INFO": f"Metadata-Version: 2.2\nName: {NAME}\nVersion: 0.5\n",
    "pyproject.toml": '[build-system]\nrequires = ["setuptools>=77"]\n'
                      'build-backend = "setuptools.build_meta"\n'
                      f'[project]\nname = "{NAME}"\nversion = "0.5"\n',
    "setup.py": SETUP,
    "probe.c": """#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", "built " __DATE__, -1, 0, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&module); }
""",
}
with tarfile.open(files / f"{STEM}.tar.gz", "w:gz") as archive:
    for name, text in SOURCES.items():
        entry = tarfile.TarInfo(f"{STEM}/{name}")
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
index = Index(files)  # knows the file now
store = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else support.STORE
project = support.new_directory()
(project / "envkit.toml").write_text(
    f'schema = 1\n[project]\nname = "p"\n[environment]\npackages = ["{NAME}"]\n'
    f'[index]\nown = "{index.url}"\n')


def lock():
    with index:
        support.envkit("lock", "--upgrade", project=project, store=store,
                       env={"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
    return tomllib.loads((project / "envkit.lock").read_text())


first = lock()
source = first["sources"][0]
support.check(source["file"] == f"{STEM}.tar.gz", f"{source}")
support.check(any(one.startswith("setuptools-") for one in source["requires"]), f"{source}")
support.check([one["file"] for one in first["build_wheels"]] == sorted(source["requires"]), "")
support.check(any("sdist" in one["roots"] and one["name"] == "python3-dev" for one in first["debs"]),
              "the system of builds is not locked")
wheel = next(one for one in first["wheels"] if one["name"] == NAME)
support.check(wheel["from"] == f"sdist:{STEM}.tar.gz", f"{wheel}")
place = store / "downloads" / wheel["sha256"] / wheel["file"]
with zipfile.ZipFile(place) as archive:
    names = archive.namelist()
    facts = archive.read("probe_facts.py").decode()
support.check(any(name.startswith("probe.cpython-313") for name in names), f"{names}")
support.check("online = False" in facts, facts)

# Built anew, the bits are the same: the clock and the place do not get in.
shutil.rmtree(place.parent)
index = Index(files)
(project / "envkit.toml").write_text(
    (project / "envkit.toml").read_text().rsplit('own = ', 1)[0] + f'own = "{index.url}"\n')
second = lock()
again = next(one for one in second["wheels"] if one["name"] == NAME)
support.check(again == wheel, f"{wheel}\n{again}")
print(json.dumps(source, indent=1))

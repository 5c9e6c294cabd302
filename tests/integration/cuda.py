"""The cuda variant: its image builds, and libenvkit_cuda compiles. Nothing of it runs on a GPU here."""

import json
import mmap
import shutil
import support

NEEDED = 14e9
free = shutil.disk_usage(support.STORE).free
if free < NEEDED:
    support.skip(f"the cuda variant needs {NEEDED / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")

project = support.new_project()
image = json.loads(support.envkit("build", "--variant", "cuda", "--json", project=project).stdout)
names = " ".join(layer["what"] for layer in image["layers"])
for part in ("debian", "torch", "cudnn", "nccl", "runtime"):
    support.check(part in names, f"no layer for {part}: {names}")
# With no GPU the libraries must still resolve: the loader is asked for every one of them.
listing = support.envkit(
    "run", "--engine", "oci", "--variant", "cuda", "--", "sh", "-c",
    "ls /opt/envkit/lib && LD_TRACE_LOADED_OBJECTS=1 "
    "/lib64/ld-linux-x86-64.so.2 /opt/envkit/lib/libenvkit_cuda.so", project=project).stdout
support.check("libenvkit_cuda.so" in listing, "the CUDA half is not in the image")
missing = [line for line in listing.splitlines() if "not found" in line]
# libcuda.so.1 is the driver's: it comes from the host, and this machine has none.
support.check(all("libcuda.so.1" in line for line in missing), "\n".join(missing))

# Everything in it is needed by a named caller; those that are said to load it by name do name it.
image = json.loads(support.envkit("image", "inspect", "--tree", "--variant", "cuda", "--json", project=project,
                                  quiet=True).stdout)
files = {}
for layer in image["tree"]:
    for package in layer["packages"]:
        for file in package["files"]:
            place = support.STORE / "layers" / layer["diff_id"] / "fs" / file["path"]
            files.setdefault(place.name, (place, file, package))
names_in = {}
for name, (place, file, package) in files.items():
    if package["because"] or not package["name"]:
        continue
    support.check(file["needed_by"], f"no caller is known for {file['path']}")
    for caller in file["needed_by"]:
        if caller.endswith(" (by name)"):
            names_in.setdefault(caller.removesuffix(" (by name)"), []).append(name.split(".so")[0].encode())
for caller, names in names_in.items():
    with open(files[caller][0], "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for name in names:
            support.check(text.find(name) >= 0, f"{caller} does not name {name.decode()}")
print(f"{sum(len(names) for names in names_in.values())} libraries are loaded by name, in {len(names_in)} callers")

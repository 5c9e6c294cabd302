"""The cuda variant: its image builds, and libenvkit_cuda compiles. Nothing of it runs on a GPU here."""

import json
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

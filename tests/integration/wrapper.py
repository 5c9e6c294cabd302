"""./envkitw: what it says when packages are missing, and what it adds when all is built."""

import os
import shutil
import subprocess
import time

import support

wrapper = support.SOURCE / "envkitw"
subprocess.run(["sh", "-n", wrapper], check=True)

# Packages missing, no root: the exact command, exit code 3, nothing installed.
place = support.new_directory()
subprocess.run(["cp", "-r", wrapper, support.SOURCE / "CMakeLists.txt", place], check=True)
(place / "toolkit").mkdir()
(place / "CMakePresets.json").write_text("{}")
fakes = support.new_directory()
(fakes / "dpkg-query").write_text("#!/bin/sh\nexit 1\n")
(fakes / "dpkg-query").chmod(0o755)
done = subprocess.run([place / "envkitw", "version"], text=True, capture_output=True, env={
    **os.environ, "PATH": f"{fakes}:{os.environ['PATH']}", "ENVKITW_OFFLINE": "1"})
support.check(done.returncode == 3, f"exit code {done.returncode}: {done.stderr}")
support.check("sudo apt-get update && sudo apt-get install -y --no-install-recommends" in done.stderr
              and "mmdebstrap" in done.stderr and "runc" in done.stderr, done.stderr)

# When all is built it hands over: same arguments, same exit code.
shutil.copytree(support.SOURCE / "toolkit", place / "toolkit", dirs_exist_ok=True)
(place / "build/release/bin").mkdir(parents=True)
(place / "build/release/bin/envkit").symlink_to(support.ENVKIT)
(place / "build/release/.built").touch()
done = subprocess.run([place / "envkitw", "version", "--json"], text=True, capture_output=True)
support.check(done.returncode == 0 and done.stdout.startswith("{"), done.stdout + done.stderr)
done = subprocess.run([place / "envkitw", "nosuchcommand"], text=True, capture_output=True)
support.check(done.returncode == 2, f"exit code {done.returncode}")
times = []
for _ in range(9):
    started = time.monotonic()
    subprocess.run([place / "envkitw", "version"], capture_output=True, check=True)
    middle = time.monotonic()
    subprocess.run([support.ENVKIT, "version"], capture_output=True, check=True)
    times.append((middle - started) - (time.monotonic() - middle))
print(f"the wrapper adds {sorted(times)[4] * 1000:.0f} ms (median of 9)")
shutil.rmtree(place)
shutil.rmtree(fakes)

"""The doctor where jobs run: inside an image's container, beside a live dockerd, under qemu's user
emulation."""

import json
import os
import pathlib
import shutil
import subprocess
import time

import support

SCHEMA = json.loads((support.SOURCE / "docs" / "schemas" / "doctor.json").read_text())
HERE = support.new_directory()


def report(*command, env=None, cwd=HERE):
    begin = time.monotonic()
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, capture_output=True, timeout=300,
                          env={**os.environ, **(env or {})})
    support.check(done.returncode in (0, 1), f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    answer = json.loads(done.stdout)
    try:
        import jsonschema
        jsonschema.validate(answer, SCHEMA)
    except ImportError:
        pass
    print(f"{answer['summary']} in {time.monotonic() - begin:.2f} s, "
          f"{[one['id'] for one in answer['findings']]}, not possible: {[one['id'] for one in answer['unknown']]}")
    return answer


# In a container: the image holds none of the tool's libraries, so they come along (not the C library).
project = support.new_project()
libraries = project / "lib"
libraries.mkdir()
shutil.copy(support.ENVKIT, project / "envkit-here")
for line in subprocess.run(["ldd", support.ENVKIT], text=True, capture_output=True).stdout.splitlines():
    words = line.split()
    if len(words) > 2 and words[1] == "=>" and not words[0].startswith(("libc.so", "libm.so", "ld-linux")):
        shutil.copy(words[2], libraries / words[0])
done = support.envkit("run", "--variant", "cpu", "--engine", "oci", "--", "sh", "-c",
                      "LD_LIBRARY_PATH=/workspace/lib /workspace/envkit-here doctor --json", project=project,
                      expect=None, quiet=True)
inside = json.loads(done.stdout)
print("in a container:", inside["summary"])
support.check(done.returncode in (0, 1), done.stderr)
support.check("in a container" in inside["summary"]["machine"], inside["summary"])
support.check("inside a container jobs run directly" in inside["summary"]["engines"], inside["summary"])
support.check(len(inside["passed"]) >= 3, "nothing could be looked at in a container")
shutil.rmtree(project)

# A program of this machine that is emulated: other pids, no ptrace, a /proc of qemu's.
qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
if qemu:
    emulated = report(qemu, support.ENVKIT, "doctor", "--json")
    support.check(len(emulated["passed"]) >= 3 and "kernel" in emulated["summary"]["machine"], emulated["summary"])
else:
    print("qemu-user is not installed")

# Beside a dockerd that answers: what its /info says is read.
plain = report(support.ENVKIT, "doctor", "--json", env={"DOCKER_HOST": f"unix://{HERE}/none.sock"})
support.check("docker does not answer" in plain["summary"]["engines"] or
              "not installed" in plain["summary"]["engines"], plain["summary"])
with support.dockerd() as env:
    live = report(support.ENVKIT, "doctor", "--json", env=env)
    version = subprocess.run(["docker", "version", "-f", "{{.Server.Version}}"], env={**os.environ, **env},
                             text=True, capture_output=True, check=True).stdout.strip()
    support.check(f"docker works ({version})" in live["summary"]["engines"], live["summary"])
    support.check("D01" in live["passed"] and "D13" in live["passed"], live["passed"])
    saved = json.loads(subprocess.run([support.ENVKIT, "doctor", "--save", "-"], cwd=HERE, text=True, check=True,
                                      env={**os.environ, **env}, capture_output=True).stdout)
    docker = saved["engines"]["docker"]
    print({name: docker[name] for name in ("runtimes", "default_runtime", "cgroup_driver", "cdi_dirs", "security")})
    support.check("runc" in docker["runtimes"] and docker["default_runtime"] == "runc", docker)
    support.check(docker["cgroup_driver"] in ("cgroupfs", "systemd"), docker)
shutil.rmtree(HERE)

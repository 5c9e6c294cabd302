"""images/PROFILE/Dockerfile.cpu in a real dockerd: it builds, and what it gives has the image's packages,
libraries and entry point. Then what users write: FROM envkit's own image.

    dockerfile.py [PROFILE]
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import support

if os.getuid() != 0 or not shutil.which("mmdebstrap"):
    support.skip("a dockerd and its base image need root and mmdebstrap")
dockerd = shutil.which("dockerd") or "/usr/sbin/dockerd"
if not os.path.exists(dockerd):
    support.skip("dockerd is not installed")

profile = sys.argv[1] if len(sys.argv) > 1 else "train"
image = f"mnist:{profile}-cpu"
root = support.new_directory("envkit-dockerfile-")
socket = f"unix://{root}/docker.sock"
log = open(root / "dockerd.log", "w")
daemon = subprocess.Popen(
    [dockerd, "--data-root", root / "data", "--exec-root", root / "exec", "-H", socket, "--pidfile",
     root / "pid", "--iptables=false", "--bridge=none"], stdout=log, stderr=log)
env = {**os.environ, "DOCKER_HOST": socket}


def docker(*words, **more):
    print("+ docker", *words, flush=True)
    done = subprocess.run(["docker", *map(str, words)], env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **more)
    support.check(done.returncode == 0, done.stdout[-5000:])
    return done.stdout


try:
    for _ in range(300):
        if subprocess.run(["docker", "info"], env=env, capture_output=True).returncode == 0:
            break
        if daemon.poll() is not None:
            support.skip("dockerd cannot run here")
        time.sleep(0.1)
    project = support.new_project()
    # The base that a site would have: Debian, with the CA certificates that this machine trusts.
    base = root / "base.tar"
    subprocess.run(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "trixie", base,
                    "--customize-hook=copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/"],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    docker("import", base, "site/debian:trixie")
    # Users extend envkit's own image with FROM.
    support.envkit("run", "--engine", "docker", "--profile", profile, "--variant", "cpu", "--", "true", project=project,
                   env={"DOCKER_HOST": socket})
    extended = root / "extended"
    extended.mkdir()
    (extended / "Dockerfile").write_text(f"FROM {image}\nENV GREETING=hello\n"
                                         "RUN echo own > /etc/own && test -x /opt/envkit/bin/envkit-train\n")
    docker("build", "--network=host", "-t", "own", extended)
    said = docker("run", "--rm", "--network=none", "own", "sh", "-c", "cat /etc/own; echo $GREETING; envkit-train --help")
    support.check("own\nhello" in said and "envkit-train" in said, said)

    # The context: only what the Dockerfile says it is.
    context = root / "context"
    context.mkdir()
    for name in ("images", "runtime", "toolkit"):
        shutil.copytree(support.SOURCE / name, context / name)
    started = time.monotonic()
    file = support.SOURCE / f"images/{profile}/Dockerfile.cpu"
    docker("build", "--network=host", "--build-arg", "BASE=site/debian:trixie", "-t", "rendered", "-f", file, context,
           timeout=3000)
    print(f"docker build: {time.monotonic() - started:.0f} s")
    listing = ("cd / && find usr/local opt -type f -print0 | sort -z | xargs -0 sha256sum; "
               "dpkg-query -W -f '${Package} ${Version}\\n'")
    # What marshal writes depends on what else a process has compiled: of bytecode the names count.
    words = lambda image: {line.split(maxsplit=1)[1] if line.endswith(".pyc") else line for line in docker(
        "run", "--rm", "--network=none", "--entrypoint", "sh", image, "-c", listing).splitlines()}
    theirs, ours = words("rendered"), words(image)
    # The base may hold more than the lock, and the compiler writes its paths into the runtime.
    missing = sorted(line for line in ours - theirs if "opt/envkit/" not in line)
    print(f"{len(ours)} files and packages, {len(missing)} of them not in the rendered image")
    support.check(not missing, "\n".join(missing[:100]))
    config = json.loads(docker("image", "inspect", "rendered"))[0]["Config"]
    want = json.loads(docker("image", "inspect", image))[0]["Config"]
    for key in ("Entrypoint", "WorkingDir", "Labels"):
        support.check(config[key] == want[key], f"{key}: {config[key]} and not {want[key]}")
    support.check(set(want["Env"]) <= set(config["Env"]), config["Env"])
    docker("run", "--rm", "--network=none", "rendered", "envkit-train", "--help")
    # As a user whom the image does not know, in both.
    TRY = {"python": "accelerate --help && pip check && python -c 'import torch, torchvision, accelerate; print(torch.ones(3).sum())'",
           "dev": "pip check && jupyter lab --version && tensorboard --version && "
                  "python -c 'import torch, torchvision, accelerate, bitsandbytes; print(torch.ones(3).sum())'"}
    for one in ("rendered", image) if profile in TRY else ():
        said = docker("run", "--rm", "--network=none", "--user", "4711:4711", one, "sh", "-c", TRY[profile])
        print(said)
        support.check("tensor(3.)" in said and "No broken requirements" in said, said)
finally:
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
    subprocess.run(f"umount -l {root}/exec/netns/* {root}/data/overlay2 {root}/data 2>/dev/null; rm -rf {root}", shell=True)

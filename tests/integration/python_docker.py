"""The promise: docker run -v $(pwd):/workspace IMAGE accelerate launch train.py, less the GPUs."""

import os
import subprocess

import support

project = support.new_example("python-accelerate")
with support.dockerd() as env:
    support.envkit("run", "--engine", "docker", "--variant", "cpu", "--", "python", "-c", "print(1)",
                   project=project, env=env)

    def docker(command):
        print("+", command, flush=True)
        done = subprocess.run(command, shell=True, cwd=project, env={**os.environ, **env}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(done.stdout[-3000:])
        support.check(done.returncode == 0, f"exit code {done.returncode}")
        return done.stdout

    words = docker('docker run --rm -v "$(pwd)":/workspace digits:python-cpu '
                   "accelerate launch train.py --epochs 2")
    support.check("epoch 2: loss" in words, words)
    support.check((project / "model/model.safetensors").exists(), "no model")

    # Two processes, as any user, who has no name in the image and no home but the one it brings.
    subprocess.run(["rm", "-rf", project / "model"], check=True)
    os.chown(project, 12345, 12345)
    words = docker('docker run --rm --user 12345:12345 -v "$(pwd)":/workspace --network host '
                   "digits:python-cpu torchrun --nproc-per-node 2 train.py --epochs 1")
    support.check("2 ranks" in words and "epoch 1: loss" in words, words)
    support.check((project / "model").stat().st_uid == 12345, "the model belongs to somebody else")
    words = docker("docker run --rm --user 12345:12345 digits:python-cpu python -c "
                   "'import getpass, pathlib, torch; pathlib.Path.home().joinpath(\"x\").touch();"
                   " print(getpass.getuser(), torch.compile(lambda x: x * 2 + 1)(torch.ones(3)))'")
    support.check("envkit tensor([3., 3., 3.])" in words, words)
    # The dev image, as anybody.
    support.envkit("run", "--engine", "docker", "--profile", "dev", "--variant", "cpu", "--", "true", project=project,
                   env=env)
    words = docker("docker run --rm --user 12345:12345 digits:dev-cpu sh -ec 'id -u; pip check; "
                   "python -c \"import torch, torchvision, accelerate, bitsandbytes; print(torch.__version__)\"; "
                   "jupyter lab --version; tensorboard --version'")
    support.check("No broken requirements found" in words and words.startswith("12345"), words)
    # And by envkit.
    support.envkit("run", "train", "--engine", "docker", "--variant", "cpu", project=project, env=env)
    record = support.summary(project)
    support.check(record["engine"] == "docker" and record["exit_code"] == 0, record)

"""The same image in Docker: a real dockerd of its own, started and stopped here."""

import json
import os
import shutil
import subprocess
import time

import support

if os.getuid() != 0:
    support.skip("starting a dockerd needs root")
dockerd = shutil.which("dockerd") or "/usr/sbin/dockerd"
if not os.path.exists(dockerd):
    support.skip("dockerd is not installed")

root = support.new_directory("envkit-docker-")
socket = f"unix://{root}/docker.sock"
log = open(root / "dockerd.log", "w")
daemon = subprocess.Popen(
    [dockerd, "--data-root", root / "data", "--exec-root", root / "exec", "-H", socket, "--pidfile",
     root / "pid", "--iptables=false", "--bridge=none"], stdout=log, stderr=log)
env = {"DOCKER_HOST": socket}
try:
    for _ in range(300):
        if subprocess.run(["docker", "info"], env={**os.environ, **env}, capture_output=True).returncode == 0:
            break
        if daemon.poll() is not None:
            print((root / "dockerd.log").read_text()[-3000:])
            support.skip("dockerd cannot run here")
        time.sleep(0.1)
    project = support.new_project()
    support.envkit("run", "train", "--engine", "docker", "--variant", "cpu", "--", "--set", "epochs=1",
                   project=project, env=env)
    record = support.summary(project)
    support.check(record["metrics"]["test_accuracy"] >= 0.985, f"accuracy {record['metrics']}")
    support.check(record["engine"] == "docker" and record["exit_code"] == 0, record)
    run = support.latest_run(project)
    for path in run.rglob("*"):
        support.check(path.lstat().st_uid == os.getuid(), f"{path} belongs to {path.lstat().st_uid}")
    # The second time there is nothing to load.
    started = time.monotonic()
    support.envkit("run", "--engine", "docker", "--variant", "cpu", "--", "sh", "-c", "exit 5",
                   project=project, env=env, expect=5)
    print(f"run -- CMD with docker: {time.monotonic() - started:.2f} s")
    # auto takes docker when its daemon answers.
    done = support.envkit("run", "--variant", "cpu", "--dry-run", "train", project=project, env=env)
    support.check("docker run" in done.stdout + done.stderr, "auto did not take docker")
    # Killed with SIGKILL, envkit leaves no container behind.
    running = subprocess.Popen([support.ENVKIT, "run", "--engine", "docker", "--variant", "cpu", "--",
                                "sleep", "300"], cwd=project, env=support.environment(**env))
    containers = lambda: subprocess.run(["docker", "ps", "-q"], env={**os.environ, **env}, text=True,
                                        capture_output=True).stdout.split()
    for _ in range(100):
        if containers():
            break
        time.sleep(0.1)
    support.check(containers(), "the container never started")
    # What runs is what was built, until somebody swaps a file.
    look = lambda expect: json.loads(support.envkit(
        "verify", "--running", "--json", "--engine", "docker", project=project, env=env, quiet=True,
        expect=expect).stdout)
    report = look(0)
    support.check(report["verdict"] == "running-pass" and len(report["checks"]) == 4, report)
    subprocess.run(["docker", "exec", "--user", "0", containers()[0], "sh", "-c",
                    "echo evil >> /usr/local/bin/evil; echo evil >> /usr/bin/env; echo fine > /tmp/x"],
                   env={**os.environ, **env}, check=True)
    changed = [check for check in look(1)["checks"] if check["id"] == "running.files"][0]
    support.check(changed["evidence"] == ["added /usr/local/bin/evil", "changed /usr/bin/env"], changed)
    # And the image in docker is the locked one.
    report = json.loads(support.envkit("verify", "--quick", "--json", "--engine", "docker", "--variant",
                                       "cpu", project=project, env=env, quiet=True).stdout)
    support.check([check["verdict"] for check in report["checks"] if check["id"] == "engine.image"]
                  == ["pass"] and report["verdict"] == "cpu-only-pass", report)
    running.kill()
    running.wait()
    for _ in range(200):
        if not containers():
            break
        time.sleep(0.1)
    support.check(not containers(), "a container outlived a killed envkit")
finally:
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
    subprocess.run(f"umount -l {root}/exec/netns/* {root}/data/overlay2 {root}/data 2>/dev/null; "
                   f"rm -rf {root}", shell=True)

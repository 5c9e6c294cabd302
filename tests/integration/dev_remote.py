"""`envkit dev up --on ssh://gpu-box/…`: a session on another machine, which is an sshd of our own on loopback,
with a state directory of its own; and the ways in from here, through that machine."""

import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

import support

SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
if not SSHD or not shutil.which("ssh-keygen"):
    support.skip("openssh-server is not installed")
HERE = support.new_directory("envkit-remote-")
USER = pwd.getpwuid(os.getuid()).pw_name
if os.getuid() == 0:
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, which its service makes
for name in ("user", "host"):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HERE / name], check=True)
with socket.socket() as one:
    one.bind(("127.0.0.1", 0))
    PORT = one.getsockname()[1]
(HERE / "sshd_config").write_text(
    f"Port {PORT}\nListenAddress 127.0.0.1\nHostKey {HERE}/host\nUsePAM no\nStrictModes no\n"
    f"AuthorizedKeysFile {HERE}/user.pub\nPidFile {HERE}/pid\n"
    f"SetEnv XDG_STATE_HOME={HERE}/there ENVKIT_STORE={support.STORE}\n")
public = (HERE / "host.pub").read_text().split()
(HERE / "known_hosts").write_text(f"[127.0.0.1]:{PORT} {public[0]} {public[1]}\n")
home = HERE / "home"
home.mkdir()
# ssh asks the system where the home directory is, not $HOME: a program of its name says which files count.
(HERE / "ssh_config").write_text(
    f"Include {home}/state/envkit/ssh/*.conf\n"
    f"Host gpu-box\n  HostName 127.0.0.1\n  Port {PORT}\n  User {USER}\n  IdentityFile {HERE}/user\n"
    f"  IdentitiesOnly yes\n  UserKnownHostsFile {HERE}/known_hosts\n  BatchMode yes\n")
tools = HERE / "bin"
tools.mkdir()
real = shutil.which("ssh")
(tools / "ssh").write_text(f'#!/bin/sh\nexec {real} -F {HERE}/ssh_config "$@"\n')
(tools / "ssh").chmod(0o755)
env = {"HOME": home, "XDG_STATE_HOME": home / "state", "PATH": f"{tools}:{os.environ['PATH']}",
       "SSH_AUTH_SOCK": None}
here = support.new_project(home / "mnist")
there = support.new_project(HERE / "srv/mnist")
url = f"ssh://gpu-box{there}"


def envkit(*arguments, expect=0):
    return support.envkit(*arguments, project=here, env=env, expect=expect)


daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", HERE / "sshd_config"], stderr=open(HERE / "log", "w"))
try:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                break
        time.sleep(0.05)
    # A directory that is not there, a host that is not there.
    done = envkit("dev", "up", "--on", "ssh://gpu-box/nowhere", expect=2)
    support.check("error: gpu-box has no project in /nowhere\n  Copy this one:  rsync -a --exclude "
                  ".envkit ./ gpu-box:/nowhere/\n" in done.stderr, done.stderr)
    done = envkit("dev", "up", "--on", "ssh://127.0.0.1:1/x", expect=3)
    support.check("error: ssh does not get to 127.0.0.1:1; its own words are above\n" in done.stderr,
                  done.stderr)
    support.check(not (home / "state/envkit/ssh").exists(), "an entry was written")

    done = envkit("dev", "up", "--on", url, "--variant", "cpu", "--engine", "oci", "--json")
    report = json.loads(done.stdout)
    try:
        import jsonschema
        jsonschema.validate(report, json.loads(
            (support.SOURCE / "docs/schemas/dev-status.json").read_text()))
    except ImportError:
        pass
    support.check("keys" not in report and report["root"] == str(there), report)
    name = report["ssh_name"]
    support.check(name == "envkit-mnist.gpu-box", name)
    config = (home / ".ssh/config").read_text()
    support.check(config.startswith("Include ~/state/envkit/ssh/*.conf\n"), config)
    for file in (home / "state/envkit").rglob("*"):
        support.check(file.lstat().st_mode & 0o77 == 0, f"{file} is open to others")

    def ssh(*command):
        return subprocess.run([tools / "ssh", "-o", "BatchMode=yes", name, *command], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=60)

    # Through the other machine into the session; what is made lies there.
    done = ssh("id -un; touch /workspace/made; python3 -c 'import torch; print(torch.__version__)'")
    support.check(done.returncode == 0 and done.stdout.startswith(USER + "\n2."), done.stdout + done.stderr)
    support.check((there / "made").exists() and not (here / "made").exists(), "made elsewhere")
    # Not without the jump's key, and not with the session's alone.
    text = (HERE / "ssh_config").read_text()
    (HERE / "ssh_config").write_text(text.replace(f"IdentityFile {HERE}/user", f"IdentityFile {HERE}/none"))
    support.check(ssh("true").returncode == 255, "no key of that machine is needed")
    (HERE / "ssh_config").write_text(text)

    # Again: the same session, and the links for people.
    done = envkit("dev", "up", "--on", url)
    support.check(f"ssh      ssh {name} " in done.stdout and f"-L {report['services']['jupyter']['port']}:"
                  in done.stdout and "runs since" in done.stderr, done.stdout + done.stderr)
    support.check("running" in envkit("dev", "status", "--on", url, "--json").stdout, "no status")
    envkit("dev", "down", "--on", url)
    envkit("dev", "status", "--on", url, expect=1)
    support.check(not list((home / "state/envkit/ssh").glob("*")) and
                  not list((home / "state/envkit/remote").glob("*")), "keys are left")
finally:
    subprocess.run([support.ENVKIT, "dev", "down"], cwd=there, env={
        **support.environment(), "XDG_STATE_HOME": str(HERE / "there")}, capture_output=True)
    daemon.terminate()
    daemon.wait()
shutil.rmtree(HERE)

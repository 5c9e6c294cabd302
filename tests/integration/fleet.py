"""envkit doctor --hosts over real OpenSSH: sshd's of our own on loopback ports, with keys and a
configuration of their own; one host is down, one hangs, one has no envkit, one differs."""

import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

import support

try:
    import jsonschema
except ImportError:
    jsonschema = None

SSHD = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
if not SSHD or not shutil.which("ssh-keygen"):
    support.skip("openssh-server is not installed")
HERE = support.new_directory("envkit-fleet-")
USER = pwd.getpwuid(os.getuid())
SSH_HOME = pathlib.Path(USER.pw_dir) / ".ssh"  # which ssh finds without $HOME
state = lambda: {path: path.lstat().st_mtime_ns for path in [SSH_HOME, *SSH_HOME.glob("*")] if path.exists()}
untouched = state()
if os.getuid() == 0:
    pathlib.Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, which its service makes
NAMES = ["fine1", "fine2", "other", "bare", "hangs", "closed"]
DOWN = "down"


def key(name):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", HERE / name], check=True)
    return (HERE / f"{name}.pub").read_text().strip()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


user_key = key("user")
(HERE / "authorized_keys").write_text(user_key + "\n")
(HERE / "nobody_keys").write_text(key("stranger") + "\n")
(HERE / "hang.sh").write_text("#!/bin/sh\nsleep 60\n")
(HERE / "hang.sh").chmod(0o755)
(HERE / "noise.sh").write_text('#!/bin/sh\necho "Welcome to {host}!"\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
(HERE / "noise.sh").chmod(0o755)

daemons, ports = [], {DOWN: free_port()}


def start(name):
    ports[name] = port = free_port()
    public = key(f"host_{name}")
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {HERE}/host_{name}", "UsePAM no",
             f"AuthorizedKeysFile {HERE}/{'nobody_keys' if name == 'closed' else 'authorized_keys'}",
             "PasswordAuthentication yes", "StrictModes no", f"PidFile {HERE}/{name}.pid"]
    if name == "hangs":
        lines.append(f"ForceCommand {HERE}/hang.sh")
    if name == "fine2":
        lines.append(f"ForceCommand {HERE}/noise.sh")
    if name == "other":
        lines.append("SetEnv NCCL_DEBUG=INFO")
    (HERE / f"{name}.conf").write_text("\n".join(lines) + "\n")
    daemons.append(subprocess.Popen([SSHD, "-D", "-e", "-f", HERE / f"{name}.conf"],
                                    stderr=open(HERE / f"{name}.log", "w")))
    return f"[127.0.0.1]:{port} {' '.join(public.split()[:2])}\n"


def doctor(*arguments, expect, env=None, program=None):
    begin = time.monotonic()
    done = subprocess.run([program or support.ENVKIT, "doctor", *arguments], cwd=HERE, text=True,
                          capture_output=True, timeout=120,
                          env={**os.environ, **(env or {})})
    done.seconds = time.monotonic() - begin
    support.check(done.returncode == expect, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


try:
    (HERE / "known_hosts").write_text("".join(start(name) for name in NAMES))
    (HERE / "config").write_text(
        "".join(f"Host {name}\n  Port {port}\n" for name, port in ports.items()) +
        f"Host *\n  HostName 127.0.0.1\n  User {USER.pw_name}\n  IdentityFile {HERE}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {HERE}/known_hosts\n  GlobalKnownHostsFile /dev/null\n")
    for name in NAMES:
        for _ in range(100):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", ports[name])) == 0:
                    break
            time.sleep(0.05)
        else:
            support.check(False, f"{name}: {(HERE / f'{name}.log').read_text()}")
    ssh = ("--ssh-config", HERE / "config")

    # Twins: nothing differs. One prints a greeting before it answers.
    done = doctor("--hosts", "fine1,fine2", *ssh, expect=0)
    print(done.stdout)
    support.check("2: 2 answered" in done.stdout and "differs    nothing that matters" in done.stdout, done.stdout)
    # A host that is down and one that hangs cost their own lines and the limit, no more.
    done = doctor("--hosts", "fine[1-2],other,down,hangs,closed", "--host-limit", "4", *ssh, expect=1)
    print(done.stdout)
    support.check(done.seconds < 12, f"{done.seconds} s")
    for text in ("6: 3 answered, 3 did not", "FAIL  no answer from down\n", "Connection refused",
                 "FAIL  no answer from hangs\n           no answer within 4 s\n",
                 "FAIL  no answer from closed\n", "Permission denied",
                 "differs    $NCCL_DEBUG   not set   fine[1-2]\n", "INFO      other\n",
                 "3 of 6 can run jobs"):
        support.check(text in done.stdout, f"no {text!r} in\n{done.stdout}")
    answer = json.loads(doctor("--hosts", "fine1,other,down", "--json", *ssh, expect=1).stdout)
    if jsonschema:
        for name, document in (("doctor-fleet", answer), ("doctor", answer["nodes"][0]["report"])):
            jsonschema.validate(document, json.loads((support.SOURCE / f"docs/schemas/{name}.json").read_text()))
    support.check(answer["verdict"] == "fail" and [one["answered"] for one in answer["nodes"]] == [True, True, False],
                  answer)
    support.check(answer["differences"] == [{"fact": "$NCCL_DEBUG", "values": [
        {"value": "not set", "nodes": ["fine1"]}, {"value": "INFO", "nodes": ["other"]}]}], answer["differences"])
    # Each node's own report with -v; of a Slurm allocation.
    done = doctor("-v", "--hosts", "slurm", *ssh, expect=0, env={"SLURM_JOB_NODELIST": "fine[1-2]"})
    support.check(done.stdout.count("\nmachine ") == 2 and "node       fine2" in done.stdout, done.stdout)
    support.check("no Slurm allocation" in doctor("--hosts", "slurm", *ssh, expect=2,
                                                  env={"SLURM_JOB_NODELIST": ""}).stderr, "no allocation")
    # A host without envkit. All hosts here share a file system: so the program that asks is deleted.
    gone = HERE / "envkit"
    shutil.copy(support.ENVKIT, gone)
    done = subprocess.run(["sh", "-c", 'exec 3<"$0"; rm "$0"; exec /proc/self/fd/3 "$@"', gone, "doctor",
                           "--hosts", "bare", *ssh], cwd=HERE, text=True, capture_output=True, timeout=60,
                          env={**os.environ, "ENVKIT_SHARE": str(support.SOURCE)})
    print(done.stdout, done.stderr)
    support.check(done.returncode == 1 and "envkit is not there" in done.stdout and "--send" in done.stdout,
                  done.stdout + done.stderr)
    before = set(os.listdir("/tmp"))
    done = doctor("--hosts", "bare", "--send", *ssh, expect=0)
    support.check("1 of 1 can run jobs" in done.stdout, done.stdout)
    left = [name for name in set(os.listdir("/tmp")) - before if name.startswith("tmp.") and
            os.path.exists(f"/tmp/{name}/envkit")]
    support.check(not left, f"left behind: {left}")
    # What the user gets wrong.
    support.check("is no host's name" in doctor("--hosts", "-oProxyCommand=x", expect=2).stderr, "an option")
    doctor("--hosts", "fine1", "--save", "x", expect=2)
    doctor("--send", expect=2)
    support.check(state() == untouched, f"{SSH_HOME} was touched: {state()}")
finally:
    for daemon in daemons:
        daemon.terminate()
    for daemon in daemons:
        daemon.wait(20)
    shutil.rmtree(HERE, ignore_errors=True)

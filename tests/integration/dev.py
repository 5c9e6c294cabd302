"""A session as people use it: ssh, scp, sftp, a forwarded port, Jupyter and TensorBoard, with the
real clients; and that there is no way in without the key or the token. As root and, where root runs
this, as an ordinary user as well."""

import http.client
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import support

try:
    import jsonschema
except ImportError:
    jsonschema = None

NAME = "envkit-tester"
ENGINE = sys.argv[1] if len(sys.argv) > 1 else "oci"


class Person:
    """Somebody with a home directory of their own."""

    def __init__(self, place, user=None, **env):
        self.home = place / "home"
        self.home.mkdir(parents=True)
        self.project = support.new_project(place / "project")
        self.user = user
        keep = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        self.env = {**keep, "HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state"),
                    "ENVKIT_STORE": str(support.STORE), **env}
        self.program = support.ENVKIT
        if user:
            subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", place], check=True)

    def run(self, *command, expect=0, **more):
        before = ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}",
                  "--clear-groups", "--inh-caps=-all"] if self.user else []
        print("+", *command, flush=True)
        done = subprocess.run([*before, *map(str, command)], cwd=self.project, env=self.env,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=600, **{"stdin": subprocess.DEVNULL, **more})
        if expect is not None and done.returncode != expect:
            print(done.stdout[-4000:], done.stderr[-4000:])
        support.check(expect is None or done.returncode == expect,
                      f"exit code {done.returncode}, expected {expect}")
        return done

    def envkit(self, *arguments, **more):
        return self.run(self.program, *arguments, **more)

    def dev(self, *arguments, **more):
        done = self.envkit("dev", *arguments, "--json", **more)
        return valid(json.loads(done.stdout), "dev-status.json")

    def entry(self):
        return next((self.home / "state/envkit/ssh").glob("*.conf"))

    def ssh(self, *command, **more):
        return self.run("ssh", "-F", self.entry(), "-o", "BatchMode=yes", self.alias, *command,
                        **more)


def valid(document, schema):
    if jsonschema:
        jsonschema.validate(document, json.loads(
            (support.SOURCE / "docs/schemas" / schema).read_text()))
    return document


def get(url, expect=200):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            status, text = answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        status, text = error.code, ""
    support.check(status == expect, f"{status} instead of {expect} for {url}")
    return text


def no_secret_is_seen(tokens):
    """Neither in a command line nor in an environment of any process."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (process / name).read_bytes()
            except OSError:
                continue
            for token in tokens:
                support.check(token.encode() not in text, f"a token in {process / name}")


def wait_for(what, seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        support.check(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.05)


def work_in(person, engine):
    before = (person.home / ".ssh/config").read_text() if (person.home / ".ssh/config").exists() \
        else None
    report = person.dev("up", "--engine", engine, "--variant", "cpu")
    print(f"ready in {report['ready_s']:.2f} s, ssh in {report['ssh_ready_s']:.2f} s")
    person.alias = report["ssh_name"]
    try:
        support.check(report["running"] and report["engine"] == engine, "not running")
        # ~/.ssh/config: one line more, at the top.
        config = (person.home / ".ssh/config").read_text()
        support.check(config.startswith("Include ~/state/envkit/ssh/*.conf\n"), config)
        support.check(config.split("\n", 1)[1] == (before or ""), "the rest was touched")
        clients(person)
        servers(person, report)
        strangers(person, report)
        if os.getuid() == 0:
            another_user(person, report)
        if engine == "docker":
            inspected(person, report)
        again = person.dev("up", "--engine", engine, "--variant", "cpu")
        support.check(again["pid"] == report["pid"], "a second session was started")
        crash(person)
    finally:
        person.envkit("dev", "down")
    support.check(person.dev("status", expect=1)["running"] is False, "it still runs")
    support.check(not list((person.home / "state/envkit/sessions").glob("*/inside")),
                  "tokens are left")
    for file in person.project.rglob("*"):
        support.check(file.lstat().st_uid == (person.user.pw_uid if person.user else 0),
                      f"{file} belongs to another user")
    return report


def clients(person):
    script = ("id -un; id -u; command -v envkit-launch; python3 -c 'import torch; "
              "print(torch.__version__)'; touch /workspace/made; bash -lc 'command -v envkit-launch'")
    lines = person.ssh(script).stdout.splitlines()
    user = person.user or pwd.getpwuid(os.getuid())
    support.check(lines[:3] == [user.pw_name, str(user.pw_uid), "/opt/envkit/bin/envkit-launch"],
                  lines)
    support.check(lines[3].startswith("2.") and lines[4] == "/opt/envkit/bin/envkit-launch", lines)
    support.check((person.project / "made").stat().st_uid == user.pw_uid, "made by somebody else")
    support.check("/dev/pts/" in person.run("ssh", "-tt", "-F", person.entry(), person.alias,
                                            "tty").stdout, "no terminal")
    person.run("scp", "-q", "-F", person.entry(), "envkit.toml", f"{person.alias}:/tmp/toml")
    person.run("sftp", "-q", "-F", person.entry(), "-b", "-", person.alias,
               input="get /tmp/toml back\n", stdin=None)
    support.check((person.project / "back").read_text() ==
                  (person.project / "envkit.toml").read_text(), "another file came back")
    if shutil.which("rsync"):
        person.run("rsync", "-a", "-e", f"ssh -F {person.entry()}", "train.toml",
                   f"{person.alias}:/tmp/")
    # A port of the session, forwarded.
    person.ssh("cd /tmp && (setsid python3 -m http.server --bind 127.0.0.1 18123 "
               ">/dev/null 2>&1 &)")
    forward = subprocess.Popen(["ssh", "-F", str(person.entry()), "-N", "-L", "18124:127.0.0.1:18123",
                                person.alias], env=person.env)
    try:
        def fetched():
            try:
                return "schema = 1" in get("http://127.0.0.1:18124/toml")
            except (OSError, http.client.HTTPException):
                return False
        wait_for("the forwarded port", 20, fetched)
    finally:
        forward.terminate()
        forward.wait()
    person.ssh("pkill -f '[h]ttp.server'; true")


def servers(person, report):
    services = report["services"]
    jupyter, tensorboard = services["jupyter"]["url"], services["tensorboard"]["url"]
    support.check(re.fullmatch(r"http://127\.0\.0\.1:\d+/lab\?token=[0-9a-f]{48}", jupyter), jupyter)
    get(jupyter)
    root, token = jupyter.split("/lab?token=")
    get(f"{root}/api/contents", 403)
    get(f"{root}/api/contents?token={'0' * 48}", 403)
    support.check("envkit.toml" in get(f"{root}/api/contents?token={token}"), "another directory")
    events = person.project / ".envkit/runs/20260101T000000Z-train/events"
    person.ssh("python3 -c \"from torch.utils.tensorboard import SummaryWriter as W; "
               f"w = W('/workspace/{events.relative_to(person.project)}'); "
               "w.add_scalar('train/loss', 1.5, 1); w.close()\"")
    get(tensorboard)
    get("/".join(tensorboard.split("/")[:3]) + "/", 404)
    wait_for("the run in TensorBoard", 30, lambda: "train/events" in get(tensorboard + "data/runs"))
    secret = tensorboard.split("/")[3]
    no_secret_is_seen([token, secret])
    log = next((person.home / "state/envkit/sessions").glob("*/session.log"))
    support.check(log.stat().st_mode & 0o77 == 0, "the log is open to others")
    support.check(token not in log.read_text() and secret not in log.read_text(), "a token is logged")
    for file in log.parent.glob("inside/*"):
        if re.search("token|ssh_host|authorized|sshd_config", file.name):
            support.check(file.stat().st_mode & 0o77 == 0, f"{file} is open to others")
    support.check(log.parent.stat().st_mode & 0o77 == 0, "the directory is open to others")


def strangers(person, report):
    port = str(report["services"]["ssh"]["port"])
    user = (person.user or pwd.getpwuid(os.getuid())).pw_name
    plain = ["ssh", "-F", "none", "-p", port, "-o", "StrictHostKeyChecking=no", "-o",
             "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
    stranger = support.new_directory()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger / "key"],
                   check=True)
    askpass = stranger / "askpass"
    askpass.touch(0o755)
    passwords = ["-o", "PubkeyAuthentication=no", "-o",
                 "PreferredAuthentications=password,keyboard-interactive"]
    for password, options in (("", ["-i", stranger / "key"]), ("", passwords),
                              ("not the password", passwords), (user, passwords),
                              ("", ["-o", "PreferredAuthentications=none"])):
        askpass.write_text(f"#!/bin/sh\necho '{password}'\n")
        done = subprocess.run([*plain, *map(str, options), f"{user}@127.0.0.1", "id"], text=True,
                              env={**os.environ, "SSH_ASKPASS": str(askpass),
                                   "SSH_ASKPASS_REQUIRE": "force"},
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        support.check(done.returncode == 255 and "Permission denied (publickey)" in done.stderr,
                      done.stderr + done.stdout)
    # Nothing listens anywhere but on loopback.
    listening = {int(service["port"]) for service in report["services"].values()}
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.split(":")[1], 16) in listening:
            support.check(address.startswith("0100007F"), f"listens on {address}")
    for line in pathlib.Path("/proc/net/tcp6").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        support.check(state != "0A" or int(address.split(":")[1], 16) not in listening,
                      f"listens on {address}")


def another_user(person, report):
    """Somebody else on the machine, who can reach every port and see every command line."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]

    def tries(*command):
        return subprocess.run([*nobody, *map(str, command)], text=True, capture_output=True,
                              stdin=subprocess.DEVNULL, timeout=60)

    secrets = [file for file in (person.home / "state").rglob("*")
               if re.search("token|_key$|id_ed25519$|services.json", file.name)]
    support.check(len(secrets) >= 5, secrets)
    for file in secrets:
        support.check(tries("cat", file).returncode != 0, f"another user reads {file}")
    support.check(tries("ssh", "-F", person.entry(), person.alias, "id").returncode == 255,
                  "another user came in")
    port = report["services"]["ssh"]["port"]
    done = tries("ssh", "-F", "none", "-p", port, "-o", "StrictHostKeyChecking=no", "-o",
                 "UserKnownHostsFile=/dev/null", f"{report['ssh_name']}@127.0.0.1", "id")
    support.check("Permission denied (publickey)" in done.stderr, done.stderr)
    processes = tries("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null").stdout
    for service in ("jupyter", "tensorboard"):
        secret = re.search("[0-9a-f]{48}", report["services"][service]["url"]).group()
        support.check(secret not in processes, f"the token of {service} is to be seen")


class OtherHost:
    """What another machine of the network sees: a network namespace of our own."""

    HERE, THERE = "198.18.77.1", "198.18.77.2"  # addresses that are for tests of networks

    def __init__(self):
        self.name = f"ek{os.getpid()}"

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True)

    def __enter__(self):
        self.ip("netns", "add", self.name)
        self.ip("link", "add", f"{self.name}a", "type", "veth", "peer", "name", "eth0", "netns",
                self.name)
        self.ip("addr", "add", f"{self.HERE}/30", "dev", f"{self.name}a")
        self.ip("link", "set", f"{self.name}a", "up")
        self.ip("-n", self.name, "addr", "add", f"{self.THERE}/30", "dev", "eth0")
        self.ip("-n", self.name, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        self.ip("netns", "del", self.name)

    def run(self, *command):
        return subprocess.run(["ip", "netns", "exec", self.name, *map(str, command)], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=60)

    def reaches(self, port):
        script = f"import socket; socket.create_connection(('{self.HERE}', {port}), 5)"
        return self.run(sys.executable, "-c", script).returncode == 0

    def status(self, path):
        script = ("import urllib.request as r, urllib.error as e\n"
                  f"try: print(r.build_opener(r.ProxyHandler({{}})).open('http://{self.HERE}:{path}', timeout=20).status)\n"
                  "except e.HTTPError as error: print(error.code)")
        return self.run(sys.executable, "-c", script).stdout.strip()


def elsewhere(person, engine):
    """Another host reaches nothing, but with --listen, and then needs the key or the token."""
    if os.getuid() != 0 or not shutil.which("ip"):
        print("not tried from another host: that needs root and iproute2")
        return
    up = ("up", "--engine", engine, "--variant", "cpu")
    with OtherHost() as other:
        report = person.dev(*up)
        for name, service in report["services"].items():
            support.check(not other.reaches(service["port"]), f"another host reaches {name}")
        person.envkit("dev", "down")
        done = person.envkit("dev", *up, "--listen", "0.0.0.0", "--json")
        support.check("warning: ssh, JupyterLab and TensorBoard listen on 0.0.0.0: other machines "
                      "reach them\n" in done.stderr, done.stderr)
        report = valid(json.loads(done.stdout), "dev-status.json")
        services = report["services"]
        for name, service in services.items():
            support.check(other.reaches(service["port"]), f"another host does not reach {name}")
        jupyter, tensorboard = services["jupyter"]["port"], services["tensorboard"]["port"]
        token = services["jupyter"]["url"].split("token=")[1]
        support.check(other.status(f"{jupyter}/api/contents") == "403", "no token is needed")
        support.check(other.status(f"{jupyter}/api/contents?token={token}") == "200", "no way in")
        support.check(other.status(f"{tensorboard}/") == "404", "no token is needed")
        done = other.run("ssh", "-F", "none", "-p", services["ssh"]["port"], "-o",
                         "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                         "IdentityFile=none", f"root@{other.HERE}", "id")
        support.check("Permission denied (publickey)" in done.stderr, done.stderr)
        person.envkit("dev", "down")
    done = person.envkit("dev", *up, "--listen", "localhost", expect=2)
    support.check(done.stderr == "error: --listen localhost: not an IPv4 address\n"
                  "  Say it as: --listen 0.0.0.0\n", done.stderr)


def inspected(person, report):
    """What everybody may read who may ask docker: no token, no key, nothing privileged."""
    ids = person.run("docker", "ps", "-q").stdout.split()
    mine = [one for one in json.loads(person.run("docker", "inspect", *ids).stdout)
            if str(person.project) in (mount["Source"] for mount in one["Mounts"])]
    support.check(len(mine) == 1, ids)
    text = json.dumps(mine)
    for service in ("jupyter", "tensorboard"):
        secret = re.search("[0-9a-f]{48}", report["services"][service]["url"]).group()
        support.check(secret not in text, f"docker inspect has the token of {service}")
    support.check("PRIVATE KEY" not in text, "docker inspect has a key")
    host = json.loads(text)[0]["HostConfig"]
    support.check(not host["Privileged"] and host["SecurityOpt"] == ["no-new-privileges"] and
                  host["CapDrop"] == ["ALL"] and not host["PortBindings"], host)
    print("capabilities:", host["CapAdd"])
    support.check(not host["CapAdd"] or not person.user, "an ordinary user has capabilities")
    kept = {name.removeprefix("CAP_") for name in host["CapAdd"] or []}
    support.check(kept <= {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL",
                           "NET_BIND_SERVICE", "SETGID", "SETUID", "SYS_CHROOT"}, kept)


def training(person, engine):
    """A run's words as they come, and its end by name, with a checkpoint."""
    job = subprocess.Popen([person.program, "run", "train", "--engine", engine, "--variant", "cpu",
                            "--", "--set", "epochs=200"], cwd=person.project, env=person.env,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    try:
        runs = person.project / ".envkit/runs"
        wait_for("the first step", 120, lambda: (runs / "latest/metrics.jsonl").exists())
        logs = subprocess.Popen([person.program, "logs", "-f", "train"], cwd=person.project,
                                env=person.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        listed = valid(json.loads(person.envkit("ps", "--json").stdout), "ps.json")["containers"]
        mine = [one for one in listed if one["project"] == str(person.project)]
        support.check([one["job"] for one in mine] == ["train"], listed)
        person.envkit("stop", "train")
        said, _ = job.communicate(timeout=120)
        support.check(job.returncode == 75, f"exit code {job.returncode}\n{said}")
        words, _ = logs.communicate(timeout=30)
        support.check(logs.returncode == 0 and "checkpoint" in words + said, words)
    finally:
        job.kill()
        job.wait()


def crash(person):
    """Jupyter is killed, and comes back by itself."""
    url = person.dev("status")["services"]["jupyter"]["url"]
    person.ssh("pkill -KILL -f '[j]upyter-lab'; true")
    killed = time.monotonic()

    def back():
        jupyter = person.dev("status")["services"]["jupyter"]
        return jupyter["restarts"] > 0 and jupyter["state"] == "running"

    wait_for("Jupyter's return", 90, back)
    print(f"Jupyter was back after {time.monotonic() - killed:.1f} s")
    support.check(person.dev("status")["services"]["jupyter"]["last_exit"] == 137, "another exit")
    get(url)


def containers(person, engine):
    """ps, exec, logs; and ssh through exec, where sshd listens nowhere."""
    report = person.dev("up", "--engine", engine, "--variant", "cpu", "--no-port", "--vscode")
    support.check("ms-vscode-remote.remote-ssh" in json.loads(
        (person.project / ".vscode/extensions.json").read_text())["recommendations"], "no advice")
    person.alias = report["ssh_name"]
    support.check("ssh" not in report["services"], "sshd listens")
    support.check(person.ssh("echo through exec; exit 3", expect=3).stdout == "through exec\n",
                  "no words")
    listed = valid(json.loads(person.envkit("ps", "--json").stdout), "ps.json")["containers"]
    mine = [one for one in listed if one["project"] == str(person.project)]
    support.check(len(mine) == 1 and mine[0]["job"] == "dev" and mine[0]["engine"] == engine, listed)
    done = person.envkit("exec", "dev", "--", "sh", "-c", "id -u; pwd; grep NoNewPrivs /proc/self/status; "
                         "cat; exit 7", input="typed", stdin=None, expect=7)
    user = str(person.user.pw_uid if person.user else 0)
    support.check(done.stdout.split() == [user, "/workspace", "NoNewPrivs:", "1", "typed"],
                  done.stdout)
    # Docker 20.10 says 126 of its own accord.
    person.envkit("exec", "dev", "--", "no-such-program", expect=126 if engine == "docker" else 127)
    person.envkit("logs", "dev")
    person.envkit("stop", "dev")
    support.check(person.dev("status", expect=1)["running"] is False, "it still runs")
    done = person.envkit("exec", "dev", "--", "true", expect=2)
    # Somebody else's session is not meant, even where the engine would let us in.
    support.check(done.stderr == "error: nothing that runs is called dev\n  What runs:  envkit ps\n" or
                  done.stderr.startswith("error: nothing of this project that runs is called dev\n"),
                  done.stderr)


def leftovers(person, engine):
    """A keeper that is killed takes all with it; the next `up` tidies up."""
    report = person.dev("up", "--engine", engine, "--variant", "cpu")
    os.kill(report["pid"], signal.SIGKILL)
    wait_for("the end", 20, lambda: not person.dev("status", expect=None)["running"])
    port = report["services"]["jupyter"]["port"]

    def gone():
        try:
            get(f"http://127.0.0.1:{port}/")
        except OSError:
            return True
        return False

    wait_for("Jupyter's end", 20, gone)
    again = person.dev("up", "--engine", engine, "--variant", "cpu")
    for name, service in report["services"].items():
        support.check(again["services"][name]["port"] == service["port"], f"{name} has a new port")
    support.check(again["services"]["jupyter"]["url"] != report["services"]["jupyter"]["url"],
                  "the old token is in use")
    person.envkit("dev", "down")


place = support.new_directory("envkit-dev-")
place.chmod(0o755)


def main(**env):
    one = Person(place / "one", **env)
    (one.home / ".ssh").mkdir(mode=0o700)
    (one.home / ".ssh/config").write_text("Match all\r\n  Compression no")
    (one.home / ".ssh/config").chmod(0o600)
    # The Include line ends as the file's first line does.
    one.envkit("build", "--profile", "dev", "--variant", "cpu")
    one.envkit("dev", "ssh-config", "--print")
    (one.home / ".ssh/config").write_text("Match all\n  Compression no")
    work_in(one, ENGINE)
    containers(one, ENGINE)
    leftovers(one, ENGINE)
    elsewhere(one, ENGINE)
    training(one, ENGINE)
    if os.getuid() != 0:
        return
    # Another user of the machine, with a session of the same project name beside the first one's.
    try:
        pwd.getpwnam(NAME)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", NAME], check=True)
    store = pathlib.Path(pwd.getpwnam(NAME).pw_dir) / "store"
    print("as an ordinary user, from a store of their own:", store)
    two = Person(place / "two", pwd.getpwnam(NAME), **{**env, "ENVKIT_STORE": str(store)})
    if "DOCKER_HOST" in env:  # as the group docker is for
        socket = pathlib.Path(env["DOCKER_HOST"].removeprefix("unix://"))
        socket.parent.chmod(0o755)
        os.chown(socket, two.user.pw_uid, two.user.pw_gid)
    program = place / "bin"
    (program / "bin").mkdir(parents=True)
    shutil.copy(support.ENVKIT, program / "bin/envkit")
    for folder in ("images", "runtime", "toolkit"):
        shutil.copytree(support.SOURCE / folder, program / "share/envkit" / folder)
    two.program = str(program / "bin/envkit")
    image = place / "image.tar"
    one.envkit("image", "save", "--profile", "dev", "--variant", "cpu", "-o", image)
    subprocess.run(["mkdir", "-p", store], check=True)
    subprocess.run(["chown", f"{two.user.pw_uid}:{two.user.pw_gid}", store], check=True)
    image.chmod(0o644)
    two.envkit("image", "load", image)
    image.unlink()
    first = one.dev("up", "--engine", ENGINE, "--variant", "cpu")
    one.alias = first["ssh_name"]
    try:
        second = work_in(two, ENGINE)
        containers(two, ENGINE)
        ports = [{service["port"] for service in report["services"].values()}
                 for report in (first, second)]
        support.check(not ports[0] & ports[1], "the same ports")
        # Their token opens nothing of the other's.
        root = first["services"]["jupyter"]["url"].split("/lab?")[0]
        get(f"{root}/api/contents?token=" + second["services"]["jupyter"]["url"].split("=")[1], 403)
        support.check(one.ssh("true").returncode == 0, "the first session is gone")
    finally:
        one.envkit("dev", "down")


try:
    if ENGINE == "docker":
        with support.dockerd() as daemon:
            main(**daemon)
    else:
        main()
finally:
    for directory in place.glob("*/home/state/envkit/sessions/*"):
        try:
            os.kill(json.loads((directory / "session.json").read_text())["pid"], signal.SIGKILL)
        except (OSError, ValueError):
            pass
    shutil.rmtree(place, ignore_errors=True)

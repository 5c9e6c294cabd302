#!/usr/bin/env python3
"""`envkit launch` on two to four nodes, which are network namespaces on one bridge: rendezvous, failures,
restarts, a node that is cut off, a wrong interface, launchers that do not belong together."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

if os.geteuid() != 0 or shutil.which("ip") is None:
    print("skipped: network namespaces need root and iproute2")
    sys.exit(77)
launch = [os.environ["ENVKIT"], "launch"]
if not os.path.exists(launch[0]):  # a tree with sanitizers, of which only the launcher was built
    launch = [str(pathlib.Path(os.environ["ENVKIT_BUILD_DIR"]) / "bin/envkit-launch")]
rank_program = str(pathlib.Path(os.environ["ENVKIT_BUILD_DIR"]) / "bin" / "rank_program")
SKEWED_CLOCK = str(pathlib.Path(os.environ["ENVKIT_BUILD_DIR"]) / "bin/skewed_clock.so")
tag = f"ek{os.getpid() % 100000}"
NODES = 4
work = pathlib.Path(tempfile.mkdtemp(prefix="envkit-nodes-"))


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def name(node):
    return f"{tag}n{node}"


def build():
    if ip("netns", "add", f"{tag}sw", check=False).returncode != 0:
        print("skipped: no network namespaces here")
        sys.exit(77)
    ip("-n", f"{tag}sw", "link", "add", "br0", "type", "bridge")
    ip("-n", f"{tag}sw", "link", "set", "br0", "up")
    for node in range(NODES):
        ip("netns", "add", name(node))
        ip("link", "add", "eth0", "netns", name(node), "type", "veth", "peer", "name", f"p{node}", "netns", f"{tag}sw")
        ip("-n", f"{tag}sw", "link", "set", f"p{node}", "master", "br0", "up")
        ip("-n", name(node), "link", "set", "lo", "up")
        ip("-n", name(node), "link", "set", "eth0", "up")
        ip("-n", name(node), "addr", "add", f"10.77.0.{node + 1}/24", "dev", "eth0")
        ip("-n", name(node), "link", "add", "wrong0", "type", "bridge")
        ip("-n", name(node), "addr", "add", f"192.168.77.{node + 1}/24", "dev", "wrong0")
        ip("-n", name(node), "link", "set", "wrong0", "up")


def tear_down():
    for node in range(NODES):
        ip("netns", "del", name(node), check=False)
    ip("netns", "del", f"{tag}sw", check=False)
    shutil.rmtree(work, ignore_errors=True)


try:
    import jsonschema
    schema = json.loads((pathlib.Path(os.environ["ENVKIT_SOURCE_DIR"]) / "docs/schemas/launch-outcome.json").read_text())

    def validate(document):
        jsonschema.validate(document, schema)
except ImportError:
    print("python3-jsonschema is missing: the outcomes are not validated")

    def validate(_):
        pass


case = 0


class Job:
    def __init__(self, nodes, flags=(), steps=(), each=None, environment=None, skewed=None):
        global case
        case += 1
        self.directory = work / str(case)
        self.directory.mkdir()
        self.skewed = skewed or {}
        self.nodes = [self.start(node, nodes, flags, steps, each or {}, environment) for node in range(nodes)]

    def start(self, node, nodes, flags, steps, each, environment):
        own = each.get(node, ["--node-rank", str(node)])
        command = ["ip", "netns", "exec", name(node), *launch, "--log-dir", str(self.directory / "log"),
                   "--processes", "2", "--nnodes", str(nodes), "--rdzv-endpoint", "10.77.0.1:29400", *flags, *own, "--",
                   rank_program, *steps]
        if environment:
            command = ["ip", "netns", "exec", name(node), "env", *environment(node), *launch, "--log-dir",
                       str(self.directory / "log"), "--processes", "2", *flags, "--", rank_program, *steps]
        clock = {"LD_PRELOAD": SKEWED_CLOCK, "SKEWED_CLOCK": str(self.skewed[node])} if node in self.skewed else {}
        with open(self.directory / f"err{node}", "wb") as err:
            return subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=err, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **clock})

    def wait(self, limit=60):
        codes = []
        for process in self.nodes:
            try:
                codes.append(process.wait(limit))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append("no end")
        for outcome in self.directory.glob("log/outcome*.json"):
            validate(json.loads(outcome.read_text()))
        return codes

    def err(self, node):
        return (self.directory / f"err{node}").read_text()

    def ready(self, count):
        """Until COUNT ranks have printed something."""
        logs = [self.directory / f"log/attempt_0/{rank}/stdout.log" for rank in range(count)]
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if all(log.exists() and log.stat().st_size > 0 for log in logs):
                return
            time.sleep(0.02)
        raise AssertionError(f"{count} ranks did not start:\n" + "\n".join(self.err(n) for n in range(len(self.nodes))))


def check(condition, what, job):
    if not condition:
        texts = "\n".join(f"--- node {n}\n{job.err(n)}" for n in range(len(job.nodes)))
        raise AssertionError(f"{what}\n{texts}")


def test_rendezvous():
    job = Job(3, steps=["env"])
    codes = job.wait()
    check(codes == [0, 0, 0], f"exit codes {codes}", job)
    seen = []
    for rank in range(6):
        env = json.loads((job.directory / f"log/attempt_0/{rank}/stdout.log").read_text())
        assert env["RANK"] == str(rank) and env["WORLD_SIZE"] == "6", env
        assert env["GROUP_RANK"] == str(rank // 2) and env["LOCAL_RANK"] == str(rank % 2), env
        assert env["MASTER_ADDR"] == "10.77.0.1", env
        seen.append(env["MASTER_PORT"])
    assert len(set(seen)) == 1 and seen[0] not in ("0", "29400"), seen
    assert json.loads((job.directory / "log/outcome.json").read_text())["world_size"] == 6


def test_c10d_gives_ranks_out():
    job = Job(3, flags=["--rdzv-backend", "c10d"], steps=["print=up"], each={n: [] for n in range(3)})
    codes = job.wait()
    check(codes == [0, 0, 0], f"exit codes {codes}", job)
    assert all((job.directory / f"log/attempt_0/{r}/stdout.log").exists() for r in range(6))


def test_four_nodes():
    job = Job(4, steps=["env"])
    codes = job.wait()
    check(codes == [0, 0, 0, 0], f"exit codes {codes}", job)
    for rank in range(8):
        env = json.loads((job.directory / f"log/attempt_0/{rank}/stdout.log").read_text())
        assert env["WORLD_SIZE"] == "8" and env["GROUP_RANK"] == str(rank // 2), env


def test_clocks_that_differ():
    """The first of two failures is told apart though its node's clock is an hour ahead and its news come later."""
    job = Job(4, skewed={2: 3600}, flags=["--grace", "60"],
              steps=["print=up", "5:sleep=1", "5:exit=9", "2:sleep=1.5", "2:exit=4", "sleep=1000"])
    job.ready(8)
    ip("-n", f"{tag}sw", "link", "set", "p2", "down")
    time.sleep(2)
    ip("-n", f"{tag}sw", "link", "set", "p2", "up")
    codes = job.wait()
    check(codes == [9, 9, 9, 9], f"exit codes {codes}", job)
    for node in range(4):
        check("rank 5 on " in job.err(node), f"node {node}", job)
    check("warning: the clock of node 2 (" in job.err(0) and "3600 s ahead of node 0's: the times of its logs" in
          job.err(0), "node 0", job)


def test_slurm_says_it_all():
    def environment(node):
        return ["SLURM_STEP_NUM_NODES=2", f"SLURM_NODEID={node}", "SLURM_STEP_NODELIST=10.77.0.1,10.77.0.2",
                "SLURM_JOB_ID=4711", "SLURM_STEP_ID=0", "SLURM_STEP_TASKS_PER_NODE=1(x2)"]
    job = Job(2, steps=["env"], environment=environment)
    codes = job.wait()
    check(codes == [0, 0], f"exit codes {codes}", job)
    env = json.loads((job.directory / "log/attempt_0/3/stdout.log").read_text())
    assert env["TORCHELASTIC_RUN_ID"] == "slurm-4711-0" and env["RANK"] == "3", env


def test_a_failure_ends_all():
    job = Job(3, flags=["--grace", "60"], steps=["print=up", "3:error=bad batch", "3:exit=7", "sleep=1000"])
    codes = job.wait()
    check(codes == [7, 7, 7], f"exit codes {codes}", job)
    for node in range(3):  # everybody knows who it was
        check("rank 3 on " in job.err(node) and "ended with exit code 7" in job.err(node), f"node {node}", job)
    root = json.loads((job.directory / "log/outcome.json").read_text())["root_cause"]
    assert root["rank"] == 3 and root["exit_code"] == 7, root


def test_restart():
    flag = work / "once"
    job = Job(2, flags=["--max-restarts", "1"], steps=["env", f"3:once={flag},9"])
    codes = job.wait()
    check(codes == [0, 0], f"exit codes {codes}", job)
    env = json.loads((job.directory / "log/attempt_1/0/stdout.log").read_text())
    assert env["TORCHELASTIC_RESTART_COUNT"] == "1", env
    assert json.loads((job.directory / "log/outcome.json").read_text())["attempts"] == 2


def test_a_launcher_that_is_killed():
    job = Job(3, steps=["print=up", "sleep=1000"])
    job.ready(6)
    started = time.monotonic()
    job.nodes[1].kill()
    codes = job.wait()
    took = time.monotonic() - started
    check(codes[0] == 1 and codes[2] == 1, f"exit codes {codes}", job)
    check("node 1 (" in job.err(0) and "was lost: its launcher ended" in job.err(0), "node 0's words", job)
    check(took < 10, f"{took:.1f} s", job)
    print(f"  a killed launcher ended the job in {took:.2f} s")


def test_a_node_that_is_cut_off():
    job = Job(3, flags=["--node-timeout", "2"], steps=["print=up", "sleep=1000"])
    job.ready(6)
    started = time.monotonic()
    ip("-n", f"{tag}sw", "link", "set", "p2", "down")
    try:
        codes = job.wait()
    finally:
        ip("-n", f"{tag}sw", "link", "set", "p2", "up")
    took = time.monotonic() - started
    check(codes == [1, 1, 1], f"exit codes {codes}", job)
    for node in (0, 1):
        check("node 2 (" in job.err(node) and "no sign of it for 2.0 s" in job.err(node), f"node {node}", job)
    check("node 0 (10.77.0.1:29400) was lost: no sign of it for 2.0 s" in job.err(2), "node 2", job)
    check(took < 15, f"{took:.1f} s", job)
    print(f"  a node that was cut off ended the job in {took:.2f} s (--node-timeout 2)")


def test_a_signal_reaches_all_nodes_once():
    job = Job(2, steps=["on-signal=15,75", "print=up", "sleep=1000"])
    job.ready(4)
    job.nodes[1].send_signal(signal.SIGTERM)
    codes = job.wait()
    check(codes == [75, 75], f"exit codes {codes}", job)
    check("SIGTERM on another node: ranks have 25.0 s to stop" in job.err(0), "node 0", job)


def test_a_hang_names_the_rank_wherever_it_is():
    # A node whose ranks speak keeps the job alive, though node 0's are silent.
    talk = [word for _ in range(8) for word in ("2:print=step", "sleep=0.4")]
    job = Job(2, flags=["--hang-timeout", "1.2"], steps=["print=up", *talk])
    codes = job.wait()
    check(codes == [0, 0], f"exit codes {codes}", job)

    job = Job(2, flags=["--hang-timeout", "1"], steps=["print=up", "3:stop", "sleep=1000"])
    codes = job.wait()
    check(codes == [1, 1], f"exit codes {codes}", job)
    for node in range(2):
        check("the job hangs: no rank has printed anything for 1.0 s" in job.err(node), f"node {node}", job)
        check("cause   rank 3 (pid " in job.err(node) and " has been stopped (SIGSTOP or a debugger)" in job.err(node),
              f"node {node}", job)
    if shutil.which("gdb") or shutil.which("eu-stack"):
        stacks = [(job.directory / f"log/attempt_0/{rank}/stack.txt") for rank in range(4)]
        check(all("main" in s.read_text() for s in stacks), "stacks of all ranks", job)


def test_the_wrong_interface():
    job = Job(2, flags=["--rdzv-conf", "join_timeout=2"], steps=["print=up"],
              each={1: ["--node-rank", "1", "--interface", "wrong0"]})
    codes = job.wait()
    check(codes == [3, 3], f"exit codes {codes}", job)
    check("error: node 1 did not come to 10.77.0.1:29400 in 2.0 s\n" in job.err(0), "node 0", job)
    check("error: node 0 cannot be reached at 10.77.0.1:29400: " in job.err(1), "node 1", job)
    check("eth0 10.77.0.2" in job.err(1) and "wrong0 was to be used" in job.err(1), "node 1", job)

    job = Job(1, each={0: ["--node-rank", "0", "--interface", "eth7"]}, flags=["--nnodes", "2"], steps=["print=up"])
    codes = job.wait()
    check(codes == [2], f"exit codes {codes}", job)
    check("error: this machine has no interface or address eth7\n  It has eth0 10.77.0.1, " in job.err(0), "", job)


def test_launchers_that_do_not_belong_together():
    for flags, words in ((["--rdzv-id", "other"], 'it belongs to the job "other", and here is "none"'),
                         (["--nnodes", "3"], "it expects 3 nodes, and node 0 expects 2")):
        job = Job(2, flags=["--rdzv-conf", "join_timeout=2"], steps=["print=up"],
                  each={1: ["--node-rank", "1", *flags]})
        codes = job.wait()
        check(codes == [3, 2], f"exit codes {codes}", job)
        check(words in job.err(1) and "turned away the launcher of 10.77.0.2" in job.err(0), words, job)


def test_the_endpoints_port_is_taken():
    other = subprocess.Popen(["ip", "netns", "exec", name(0), sys.executable, "-c",
                              "import socket,time\ns=socket.socket()\ns.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\ns.bind(('10.77.0.1',29400))\ns.listen()\n"
                              "print('x',flush=True)\ntime.sleep(1000)"], stdout=subprocess.PIPE)
    other.stdout.read(1)
    try:
        job = Job(1, flags=["--nnodes", "2"], steps=["print=up"])
        codes = job.wait()
        check(codes == [3], f"exit codes {codes}", job)
        check("error: port 29400 is in use by python3" in job.err(0), "node 0", job)
        check("Choose another port in --rdzv-endpoint, on all nodes." in job.err(0), "node 0", job)
    finally:
        other.kill()
        other.wait()



try:
    build()
    tests = [value for key, value in list(globals().items()) if key.startswith("test_")]
    for test in tests:
        if len(sys.argv) > 1 and sys.argv[1] not in test.__name__:
            continue
        started = time.monotonic()
        test()
        print(f"ok {test.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
finally:
    tear_down()

"""The services of a development session as one set: started together, restarted when one ends by
itself, stopped in the opposite order. Everything is in one directory, which `envkit dev up` fills:

    services.json   {"services": [{"name": "ssh", "argv": […], "port": 20022}]}
    status.json     written here, whole at every change
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time

GRACE = 10  # seconds from SIGTERM to SIGKILL


class Service:
    def __init__(self, plan):
        self.name, self.argv, self.port = plan["name"], plan["argv"], plan.get("port")
        self.address = plan.get("address", "127.0.0.1")
        self.process, self.started, self.again = None, 0.0, 0.0
        self.restarts, self.last_exit, self.delay, self.ready = 0, None, 0.1, False

    def start(self, selector):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        self.started, self.ready = time.monotonic(), False
        os.set_blocking(self.process.stdout.fileno(), False)
        selector.register(self.process.stdout, selectors.EVENT_READ, self)

    def answers(self):
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex((self.address, self.port)) == 0

    def status(self):
        state = "stopped"
        if self.process:
            state = "running" if self.ready else "starting"
        elif self.again:
            state = "restarting"
        return {"state": state, "port": self.port, "restarts": self.restarts,
                "last_exit": self.last_exit, "pid": self.process.pid if self.process else None}


def code(status):
    """As a shell has it: 128 + signal."""
    return status if status >= 0 else 128 - status


class Session:
    def __init__(self, directory):
        self.directory = directory
        with open(os.path.join(directory, "services.json")) as file:
            self.services = [Service(plan) for plan in json.load(file)["services"]]
        self.selector = selectors.DefaultSelector()
        self.written = None
        self.stopping = False

    def say(self, service, text):
        for line in text.decode(errors="replace").splitlines():
            print(f"{time.strftime('%H:%M:%S')} {service.name:<11} {line}", flush=True)

    def write_status(self):
        status = {"schema": 1, "services": {s.name: s.status() for s in self.services}}
        if status == self.written:
            return
        file = os.path.join(self.directory, "status.json")
        with open(file + ".new", "w") as out:
            json.dump(status, out)
        os.rename(file + ".new", file)
        self.written = status

    def read(self, seconds):
        for key, _ in self.selector.select(seconds):
            text = key.fileobj.read(65536)
            if text:
                self.say(key.data, text)
            elif text == b"":
                self.selector.unregister(key.fileobj)

    def reap(self, service):
        if not service.process or service.process.poll() is None:
            return
        self.read(0)
        service.last_exit = code(service.process.returncode)
        try:
            self.selector.unregister(service.process.stdout)
        except KeyError:
            pass
        service.process.stdout.close()
        service.process, service.ready = None, False
        if self.stopping:
            return
        lived = time.monotonic() - service.started
        # At once the first time; a service that cannot start does not take a processor for it.
        service.delay = 0.1 if lived > 10 else min(service.delay * 2, 5)
        service.again = time.monotonic() + service.delay
        service.restarts += 1
        self.say(service, f"ended with exit code {service.last_exit}; "
                          f"starts again in {service.delay:.1f} s".encode())

    def run(self):
        for service in self.services:
            service.start(self.selector)
        while not self.stopping:
            waiting = False
            for service in self.services:
                self.reap(service)
                if not service.process and time.monotonic() >= service.again:
                    service.start(self.selector)
                if service.process and not service.ready:
                    service.ready = service.port is None or service.answers()
                    waiting = waiting or not service.ready
                waiting = waiting or not service.process
            self.write_status()
            self.read(0.05 if waiting else 0.5)
        for service in reversed(self.services):
            self.stop(service)

    def stop(self, service):
        if service.process:
            service.process.terminate()
        end = time.monotonic() + GRACE
        while service.process:
            if time.monotonic() > end:
                os.killpg(service.process.pid, signal.SIGKILL)
            self.read(0.05)
            self.reap(service)
        service.again = 0.0
        self.write_status()


def main():
    session = Session(sys.argv[1])
    if os.getuid() == 0:
        os.makedirs("/run/sshd", 0o755, exist_ok=True)  # where root's sshd locks itself in

    def stop(*_):
        session.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal of `dev up` is closed
    session.run()


main()

#!/usr/bin/env python3
"""From a lock to a container that runs: envkit beside `docker build` with pip and with uv.

    bench/build.py [--profile python] [--variant cuda] [--runs N] [--store DIR]

The same wheels (the image's own, by name, version and hash) for all of them, interleaved. What each
may have beforehand: envkit the downloads, the OS and the runtime layer in a store of its own, and the
project's data (docker's images have none); docker the OS layer as base image, a server on loopback
that has every wheel (so no peer waits for a network), and for uv a warm cache mount. The wheels are
in the page cache. Each way ends when `true` has run in a container of the new image. Nothing is
removed before the end: for five minutes ext4 looks at every inode that was freed before it takes one,
which is a third of the time then. Needs root (a dockerd of its own) and, for the cuda variant, 25 GB
of disk for each run.
"""

import argparse
import html
import http.server
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

top = pathlib.Path(__file__).resolve().parent.parent
options = argparse.ArgumentParser()
options.add_argument("--profile", default="python")
options.add_argument("--variant", default="cuda")
options.add_argument("--runs", type=int, default=2)
options.add_argument("--project", type=pathlib.Path, default=top)
options.add_argument("--store", type=pathlib.Path)
options.add_argument("--only", default="oci,pip,uv", help="also: docker, envkit's image loaded there")
arguments = options.parse_args()
home = pathlib.Path.home()
cache, data = ((arguments.store, arguments.store) if arguments.store else
               (pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "envkit",
                pathlib.Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "envkit"))
program = os.environ.get("ENVKIT") or str(top / "envkitw")
work = pathlib.Path(tempfile.mkdtemp(prefix="envkit-bench-", dir=data))
# A client since 23 builds with BuildKit through a plug-in only; Debian's own has it inside.
client = next((c for c in (shutil.which("docker"), "/usr/bin/docker")
               if subprocess.run([c, "buildx", "version"], capture_output=True).returncode == 0
               or " 20." in subprocess.run([c, "--version"], capture_output=True, text=True).stdout), None)
if client is None:
    sys.exit("bench/build.py needs a docker client with BuildKit (docker-buildx, or Debian's docker.io)")
docker_env = {"DOCKER_HOST": f"unix://{work}/docker.sock", "DOCKER_BUILDKIT": "1"}


def call(command, store=None, check=True, **more):
    env = dict(os.environ, **docker_env)
    if store:
        env["ENVKIT_STORE"] = str(store)
    done = subprocess.run(list(map(str, command)), cwd=arguments.project, env=env, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, **more)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-3000:]}"
                 f"\n{done.stderr[-3000:]}")
    return done


def build(store):
    return json.loads(call([program, "build", "--profile", arguments.profile, "--variant",
                            arguments.variant, "--json"], store).stdout)


def small_store(store):
    """Hard links to the downloads, the data, and the layers that are not made of wheels."""
    link = lambda source, target: shutil.copytree(source, target, copy_function=os.link, symlinks=True)
    store.mkdir()
    link(cache / "downloads", store / "downloads")
    if (data / "data").exists():
        link(data / "data", store / "data")
    (store / "keys").mkdir()
    (store / "layers").mkdir()
    for layer in (data / "layers").iterdir():
        if json.loads((layer / "info.json").read_text())["what"] in ("debian", "runtime", "recipe"):
            link(layer, store / "layers" / layer.name)
    for key in (data / "keys").iterdir():
        if (store / "layers" / key.read_text().strip()).exists():
            os.link(key, store / "keys" / key.name)


class Wheels(http.server.SimpleHTTPRequestHandler):
    """One page that links to every wheel, for --find-links."""
    files = {}  # name → path

    def do_GET(self):
        name = self.path.lstrip("/")
        if name:
            path = self.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            with open(path, "rb") as file:
                self.wfile.flush()
                self.send_all(file, path.stat().st_size)
            return
        page = "".join(f'<a href="/{html.escape(n)}">{html.escape(n)}</a>\n' for n in self.files).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def send_all(self, file, size):
        at = 0
        while at < size:
            at += os.sendfile(self.connection.fileno(), file.fileno(), at, size - at)

    def log_message(self, *_):
        pass


image = build(arguments.store)
call([program, "run", "--engine", "oci", "--profile", arguments.profile, "--variant", arguments.variant,
      "--", "true"], arguments.store)  # fetches the project's data
wheels = []
for package in image["packages"]:
    folder = cache / "downloads" / package["sha256"]
    for file in folder.glob("*.whl"):
        wheels.append((package, file))
        Wheels.files[file.name] = file
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Wheels)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
total = sum(file.stat().st_size for _, file in wheels)
print(f"{len(wheels)} wheels, {total / 1e6:,.0f} MB; image {image['bytes'] / 1e6:,.0f} MB", flush=True)

log = open(work / "dockerd.log", "w")
daemon = subprocess.Popen(
    [shutil.which("dockerd") or "/usr/sbin/dockerd", "--data-root", work / "docker", "--exec-root",
     work / "exec", "-H", docker_env["DOCKER_HOST"], "--pidfile", work / "pid", "--iptables=false",
     "--bridge=none"], stdout=log, stderr=log)
context = work / "context"
context.mkdir()
(context / "requirements.txt").write_text("".join(
    f"{p['name']}=={p['version']} --hash=sha256:{p['sha256']}\n" for p, _ in wheels))
FLAGS = f"--no-deps --no-index --find-links {url} --require-hashes -r /tmp/requirements.txt"
subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", work / "pip", "pip"],
               check=True)
shutil.copy(next((work / "pip").glob("*.whl")), context / "pip.whl")
(context / "pip.Dockerfile").write_text(f"""FROM base
COPY requirements.txt pip.whl /tmp/
RUN python3 -m zipfile -e /tmp/pip.whl /tmp/pip && \\
    PYTHONPATH=/tmp/pip python3 -m pip install --break-system-packages --no-cache-dir {FLAGS}
""")
(context / "uv.Dockerfile").write_text(f"""FROM base
COPY requirements.txt uv /tmp/
ARG RUN
RUN --mount=type=cache,target=/root/.cache/uv UV_LINK_MODE=copy /tmp/uv pip install --system \\
    --break-system-packages {FLAGS}
""")


def oci():
    call([program, "run", "--engine", "oci", "--profile", arguments.profile, "--variant",
          arguments.variant, "--", "true"], store)


def docker():
    call([program, "run", "--engine", "docker", "--profile", arguments.profile, "--variant",
          arguments.variant, "--", "true"], store)


def peer(name):
    call([client, "build", "--network=host", "--no-cache", "-q", "-f", context / f"{name}.Dockerfile",
          "-t", name, context])
    call([client, "run", "--rm", "--network=host", "--entrypoint", "/usr/bin/true", name])


ways = {"oci": oci, "docker": docker, "pip": lambda: peer("pip"), "uv": lambda: peer("uv")}
ways = {name: way for name, way in ways.items() if name in arguments.only.split(",")}
times = {name: [] for name in ways}
unchanged = []
try:
    for _ in range(300):
        if call([client, "info"], check=False).returncode == 0:
            break
        time.sleep(0.1)
    base = next(data / "layers" / d / "fs" for d in image["diff_ids"]
                if json.loads((data / "layers" / d / "info.json").read_text())["what"] == "debian")
    subprocess.run(f"tar -C {base} -c . | {client} import - base", shell=True, check=True,
                   env=dict(os.environ, **docker_env), stdout=subprocess.DEVNULL)
    if "uv" in ways:
        uv = shutil.which("uv") or next(iter(sorted((cache / "tools").rglob("uv"))), None)
        if uv is None:
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", work / "uv", "uv"],
                           check=True)
            uv = work / "uv/bin/uv"
        shutil.copy(uv, context / "uv")
        peer("uv")  # warms the cache mount
    for run in range(arguments.runs):
        for name, way in ways.items():
            store = work / f"{name}{run}"
            if way in (oci, docker):
                small_store(store)
            subprocess.run(["sync"])
            # Just fetched means in the page cache: some machines reclaim it within minutes.
            subprocess.run(["cat", *(file for _, file in wheels)], stdout=subprocess.DEVNULL)
            started = time.monotonic()
            way()
            times[name].append(time.monotonic() - started)
            print(f"run {run + 1}: {name:8} {times[name][-1]:7.1f} s", flush=True)
            if name == "oci":
                started = time.monotonic()
                call([program, "build", "--profile", arguments.profile, "--variant", arguments.variant],
                     store)
                unchanged.append(time.monotonic() - started)
finally:
    daemon.terminate()
    try:
        daemon.wait(60)
    except subprocess.TimeoutExpired:
        daemon.kill()
    subprocess.run(f"umount -l {work}/exec/netns/* {work}/docker/overlay2 {work}/docker 2>/dev/null; "
                   f"rm -rf {work}", shell=True)
for name, values in times.items():
    print(f"{name:8} median {statistics.median(values):7.1f} s")
failed = False
if unchanged:
    print(f"unchanged build: {statistics.median(unchanged):.2f} s (bound 0.5)")
    failed |= statistics.median(unchanged) > 0.5
for name, bound in (("pip", 5), ("uv", 2)):
    if times.get("oci") and times.get(name):
        ratio = statistics.median(a / b for a, b in zip(times[name], times["oci"]))
        print(f"{name} / envkit (oci), pair by pair: {ratio:.1f} (bound {bound})")
        failed |= ratio < bound
sys.exit(1 if failed else 0)

"""Images: looked at, sent to a registry of the test's own and fetched into an empty store, run there
without a build, pruned beside a running container."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time

import support

try:
    import jsonschema
except ImportError:
    support.skip("python3-jsonschema is not installed")


def answer(*arguments, schema, **more):
    """The command's JSON, checked against its published schema."""
    document = json.loads(support.envkit(*arguments, "--json", quiet=True, **more).stdout)
    jsonschema.validate(document, json.loads((support.SOURCE / "docs/schemas" / f"{schema}.json").read_text()))
    return document


PASSWORD = "correct horse"
HTPASSWD = "tester:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"


@contextlib.contextmanager
def registry(root, more=""):
    if not shutil.which("docker-registry"):
        support.skip("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "registry.yml").write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/registry}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{more}")
    log = open(root / "registry.log", "w")
    server = subprocess.Popen(["docker-registry", "serve", str(root / "registry.yml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


project = support.new_project()
built = answer("build", "--variant", "cpu", project=project, schema="image")
tag = "mnist:train-cpu"

# Looking.
listed = answer("image", "ls", project=project, schema="image-ls")["images"]
mine = [image for image in listed if image["config_digest"] == built["config_digest"]]
support.check(mine and str(project) in mine[0]["projects"], f"image ls does not know the project: {listed}")
inspected = answer("image", "inspect", "--variant", "cpu", "--tree", project=project, schema="image")
support.check(inspected["diff_ids"] == built["diff_ids"], "inspect shows another image")
packages = {p["name"]: p for layer in inspected["tree"] for p in layer["packages"]}
support.check(packages["libc6"]["because"].startswith("needed by"), packages["libc6"]["because"])
support.check(packages["dpkg"]["because"] == "essential in Debian", packages["dpkg"]["because"])
libraries = [file for name, package in packages.items() if name and not package["because"] for file in package["files"]]
support.check(len(libraries) >= 5 and all(file["needed_by"] for file in libraries),
              f"no caller is known for one of {libraries}")
history = answer("image", "history", built["config_digest"][:12], project=project, schema="image-history")
support.check([layer["what"] for layer in history["layers"]][0] == "debian", history)
same = answer("image", "diff", built["config_digest"], built["config_digest"], project=project, schema="image-diff")
support.check(same["bytes"] == 0 and not same["layers"] and same["shared_bytes"] == built["bytes"], same)
answer("image", "prune", "--dry-run", project=project, schema="image-prune")

root = support.new_directory("envkit-image-")
fresh = root / "store"
try:
    with registry(root) as host:
        # Out, and out again: what is there is not sent.
        first = answer("image", "push", f"{host}/team/mnist:train-cpu", "--variant", "cpu", project=project,
                       schema="image-push")
        support.check(first["skipped"] == 0 and first["bytes"] < 180e6,
                      f"the cpu image has {first['bytes']} bytes in zstd layers")
        started = time.monotonic()
        again = answer("image", "push", f"{host}/team/mnist:train-cpu", "--variant", "cpu", project=project,
                       schema="image-push")
        print(f"second push: {time.monotonic() - started:.2f} s")
        support.check(again["skipped"] == again["layers"], f"a second push sent layers: {again}")
        support.check(again["reference"] == first["reference"], "a second push gave another digest")

        # In, into a store that has nothing; a build there finds every layer.
        pulled = answer("image", "pull", first["reference"], project=project, store=fresh, schema="image")
        support.check(pulled["config_digest"] == built["config_digest"], "another image came back")
        support.check(pulled["new_layers"] == len(set(built["diff_ids"])), pulled["new_layers"])
        support.check(pulled["packages"] == inspected["packages"], "the packages were lost on the way")
        rebuilt = answer("build", "--variant", "cpu", project=project, store=fresh, schema="image")
        support.check(rebuilt["built"] == [] and rebuilt["config_digest"] == built["config_digest"],
                      f"the pulled layers were not reused: {rebuilt['built']}")
        started = time.monotonic()
        again = answer("image", "pull", f"{host}/team/mnist:train-cpu", project=project, store=fresh, schema="image")
        print(f"second pull: {time.monotonic() - started:.2f} s")
        support.check(again["new_layers"] == 0, "a second pull fetched layers")

        # What cannot be had, and how it is said.
        done = support.envkit("image", "pull", f"{host}/team/mnist@sha256:{'0' * 64}", project=project, store=fresh,
                              expect=1)
        support.check("There is no such image" in done.stderr, done.stderr)
        done = support.envkit("image", "pull", f"{host}/team/mnist:other", project=project, store=fresh, expect=1)
        support.check("There is no such image" in done.stderr, done.stderr)
        # A registry whose blob was changed: nothing of it gets in.
        if shutil.which("skopeo"):
            manifest = json.loads(subprocess.run(
                ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{first['reference']}"],
                capture_output=True, check=True).stdout)
            smallest = min(manifest["layers"], key=lambda layer: layer["size"])["digest"].split(":")[1]
            blob = root / "registry/docker/registry/v2/blobs/sha256" / smallest[:2] / smallest / "data"
            data = bytearray(blob.read_bytes())
            data[len(data) // 2] ^= 1
            blob.write_bytes(data)
            done = support.envkit("image", "pull", first["reference"], project=project, store=root / "other",
                                  expect=1)
            support.check(smallest in done.stderr or "igest" in done.stderr, done.stderr)
            support.check(not list((root / "other/images").iterdir()), "a damaged image was kept")
    done = support.envkit("image", "pull", f"{host}/team/mnist:train-cpu", project=project, store=fresh, expect=3)
    support.check("can this machine reach it?" in done.stderr, done.stderr)

    # A registry that wants to know who it is: the credentials of `skopeo login`, wherever those are.
    if shutil.which("skopeo"):
        (root / "with-login").mkdir()
        (root / "htpasswd").write_text(HTPASSWD)
        with registry(root / "with-login", f"auth: {{htpasswd: {{realm: tests, path: {root}/htpasswd}}}}\n") as host:
            login = {"REGISTRY_AUTH_FILE": str(root / "auth.json")}
            push = ("image", "push", f"{host}/team/private:train-cpu", "--variant", "cpu")
            done = support.envkit(*push, project=project, env=login, expect=3)
            support.check(f"Log in once:  skopeo login {host}" in done.stderr, done.stderr)
            subprocess.run(["skopeo", "login", "--tls-verify=false", "--username", "tester", "--password-stdin", host],
                           input=PASSWORD, text=True, env=dict(os.environ, **login), check=True,
                           capture_output=True)
            sent = answer(*push, project=project, env=login, schema="image-push")
            got = answer("image", "pull", sent["reference"], project=project, store=root / "private", env=login,
                         schema="image")
            support.check(got["config_digest"] == built["config_digest"], got["config_digest"])
            done = support.envkit("image", "pull", sent["reference"], project=project, store=root / "private",
                                  env={"REGISTRY_AUTH_FILE": str(root / "none.json")}, expect=3)
            support.check("skopeo login" in done.stderr, done.stderr)

    # Pruning beside a container that runs: its image stays as long as it does.
    running = subprocess.Popen([support.ENVKIT, "run", "--engine", "oci", "--variant", "cpu", "--", "sh", "-c",
                                "echo up; read line; exec /usr/bin/cksum /usr/bin/perl"], cwd=project, text=True,
                               env=support.environment(fresh), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    support.check(running.stdout.readline() == "up\n", "the container did not start")
    pruned = answer("image", "prune", "--all", project=project, store=fresh, schema="image-prune")
    support.check(pruned["running"] == 1, f"the running image was not seen: {pruned}")
    out, _ = running.communicate("on\n", timeout=60)
    support.check(running.returncode == 0 and "/usr/bin/perl" in out, "pruning took a running container's files")
    pruned = answer("image", "prune", project=project, store=fresh, schema="image-prune")
    support.check(pruned["removed"] == [], f"the project's image was pruned: {pruned}")
    shutil.rmtree(project)
    dry = answer("image", "prune", "--dry-run", project=root, store=fresh, schema="image-prune")
    support.check(dry["bytes"] >= built["bytes"], f"not all would be freed: {dry}")
    # Killed at any moment: a layer is whole or gone.
    for delay in (0.005, 0.02, 0.05, 0.1):
        killed = subprocess.Popen([support.ENVKIT, "image", "prune"], env=support.environment(fresh),
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        killed.kill()
        killed.wait()
        for layer in (fresh / "layers").iterdir():
            support.check((layer / "info.json").exists() and (layer / "fs").exists(), f"half of {layer} is left")
        answer("image", "ls", project=root, store=fresh, schema="image-ls")
    answer("image", "prune", project=root, store=fresh, schema="image-prune")
    left = [path for name in ("layers", "images", "keys", "tmp") for path in (fresh / name).iterdir()]
    support.check(not left, f"left behind: {left}")
finally:
    shutil.rmtree(root, ignore_errors=True)

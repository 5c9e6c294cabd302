"""envkit verify: a sound image passes as what it is, and each kind of damage is found and named."""

import json
import os
import shutil
import subprocess
import sys

import support

try:
    import jsonschema
except ImportError:
    support.skip("python3-jsonschema is not installed")

SCHEMA = json.loads((support.SOURCE / "docs/schemas/verify.json").read_text())


def verify(*arguments, expect, **more):
    done = support.envkit("verify", "--json", *arguments, expect=expect, quiet=True, **more)
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    return report, done.stderr


def one(report, check):
    found = [entry for entry in report["checks"] if entry["id"] == check]
    support.check(len(found) == 1, f"{check} is there {len(found)} times in {report['checks']}")
    return found[0]


def named(entry, *words):
    text = "\n".join([entry["what"], *entry["evidence"], entry["next"]])
    support.check(entry["verdict"] == "fail", f"{entry['id']} is {entry['verdict']}: {text}")
    for word in words:
        support.check(word in text, f"'{word}' is not in:\n{text}")


# A sound image on a machine without a GPU: a pass of another name than one with GPUs.
project = support.new_project()
CPU = ("--engine", "oci", "--variant", "cpu")
report, words = verify(*CPU, project=project, expect=0)
support.check(report["verdict"] == "cpu-only-pass" and not report["gpu_checked"], report["verdict"])
support.check("no GPU was checked" in words, words)
for check in ("store.layers", "lock.packages", "lock.debs", "libraries.versions", "libraries.mapped",
              "smoke.allreduce", "smoke.training"):
    support.check(one(report, check)["verdict"] == "pass", one(report, check))
mapped = "\n".join(one(report, "libraries.mapped")["evidence"])
support.check("libtorch_cpu.so" in mapped and "libcudart" in mapped, mapped)
support.check("B/s over gloo" in one(report, "smoke.allreduce")["what"], one(report, "smoke.allreduce"))
digest = report["image"]["config_digest"]
image = json.loads((support.STORE / "images" / f"{digest}.json").read_text())

# A store of our own to damage: hard links, of which files are replaced and never written to.
store = support.new_directory("envkit-verify-store-")
layers = {layer["what"]: layer["diff_id"] for layer in image["layers"]}
for name in ("layers", "images", "downloads", "tmp"):
    (store / name).mkdir()
for diff_id in layers.values():
    subprocess.run(["cp", "-al", support.STORE / "layers" / diff_id, store / "layers"], check=True)
for name in ("keys", "plans"):
    shutil.copytree(support.STORE / name, store / name)
shutil.copy(support.STORE / "images" / f"{digest}.json", store / "images")
lock = (project / "envkit.lock").read_text()
for download in (support.STORE / "downloads").iterdir():
    if download.name in lock and sum(f.stat().st_size for f in download.iterdir()) < 30e6:
        subprocess.run(["cp", "-al", download, store / "downloads"], check=True)


def replace(path, content):
    mode = path.stat().st_mode
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.chmod(mode)
    os.replace(new, path)


tree = store / "layers" / layers["libraries"] / "fs"
library = next(tree.rglob("libcudart.so*"))
content = library.read_bytes()
flipped = bytearray(content)
flipped[len(flipped) // 2] ^= 1
replace(library, flipped)
report, words = verify(*CPU, project=project, store=store, expect=1)
support.check(report["verdict"] == "fail", report["verdict"])
named(one(report, "store.layer.libraries"), library.name, "nvidia_cuda_runtime", "other content: sha256",
      str(store / "layers" / layers["libraries"]), "--repair")
support.check(one(report, "smoke.run")["verdict"] == "skipped", "a damaged image was started")
# --quick claims nothing about what it has not looked at; what is loaded it hashes all the same.
report, words = verify(*CPU, "--quick", project=project, store=store, expect=1)
support.check("not hashed" in one(report, "store.layers")["what"], report)
named(one(report, "libraries.mapped"), library.name, "instead of")

# Missing, extra, and another mode, all at once.
replace(library, content)
cupti = next(tree.rglob("libcupti.so*"))
cupti.rename(cupti.with_name("elsewhere.so"))
shutil.copy(library, library.with_name("copy"))
os.replace(library.with_name("copy"), library)
library.chmod(0o777)
report, words = verify(*CPU, project=project, store=store, expect=1)
named(one(report, "store.layer.libraries"), f"{cupti.name} (", "is missing", "elsewhere.so",
      "does not belong there", "mode 0777 instead of 0755")

# Nothing is hashed: the dynamic linker misses the library all the same.
report, words = verify(*CPU, "--quick", project=project, store=store, expect=1)
named(one(report, "smoke.run"), "libcupti.so")

# The remedy needs the lock: outside of the project that is told, and nothing is removed.
done = support.envkit("verify", digest[:12], "--repair", project=support.new_directory(), store=store,
                      expect=2, quiet=True)
support.check(done.stderr.endswith("error: --repair needs the project that the image was built from\n"
                                   "  Run it there, without the image's name.\n"), done.stderr)
done = support.envkit("verify", digest[:12], "--provenance", "p.json", "--quick", project=support.new_directory(),
                      store=store, expect=2, quiet=True)
support.check(done.stderr.endswith("error: --provenance needs the project that the image was built from\n"),
              done.stderr)

# The remedy that is named works.
report, words = verify(*CPU, "--repair", project=project, store=store, expect=0)
support.check("libraries is made anew" in words, words)
support.check(report["image"]["config_digest"] == digest, "the repaired image has another digest")

# A damaged record of the image.
record = store / "images" / f"{digest}.json"
text = record.read_text()
for damage in (text[: len(text) // 2], text.replace(layers["torch"], layers["debian"])):
    record.write_text(damage)
    report, words = verify(*CPU, "--quick", project=project, store=store, expect=1)
    named(one(report, "store.image"), record.name, "envkit build")
    support.envkit("build", "--variant", "cpu", project=project, store=store, quiet=True)
    support.check(record.read_text() == text, "the record was not written anew")

# By name, without a project; and names that mean nothing.
report, words = verify("mnist:train-cpu", "--engine", "oci", "--quick",
                       project=support.new_directory(), store=store, expect=0)
done = support.envkit("verify", "abcdef01", project=project, store=store, expect=2, quiet=True)
support.check('the store has no image "abcdef01"' in done.stderr and digest[:12] in done.stderr,
              done.stderr)
done = support.envkit("verify", "--variant", "cpu", project=project, expect=3, quiet=True,
                      store=support.new_directory("envkit-store-"))
support.check("mnist:train-cpu is not built" in done.stderr, done.stderr)

# A container that runs, before and after one of its files is swapped.
running = subprocess.Popen([support.ENVKIT, "run", "--engine", "oci", "--variant", "cpu", "--", "sh",
                            "-c", "echo up; exec sleep 100"], cwd=project,
                           env=support.environment(store), stdout=subprocess.PIPE, text=True)
try:
    support.check(running.stdout.readline() == "up\n", "it did not start")
    report, words = verify("--running", project=project, store=store, expect=0)
    support.check(report["verdict"] == "running-pass", report)
    support.check(one(report, "running.lock")["verdict"] == "pass", report)
    name = one(report, "running.image")["what"].split()[0]
    pid = name.rsplit("-", 1)[1]
    swap = "echo evil >> /usr/bin/awk; rm /usr/bin/env; touch /opt/envkit/new; echo fine > /tmp/x"
    if os.getuid() == 0:
        subprocess.run(["nsenter", "-t", pid, "-m", "-r", "sh", "-c", swap], check=True)
        report, words = verify("--running", name, project=project, store=store, expect=1)
        named(one(report, "running.files"), "/usr/bin/", "removed /usr/bin/env",
              "added /opt/envkit/new")
        support.check("/tmp/x" not in str(report), "a temporary file counts as a change")
    done = support.envkit("verify", "--running", "nobody", project=project, store=store, expect=2,
                          quiet=True)
    support.check(name in done.stderr, done.stderr)
finally:
    running.kill()
    running.wait()
done = support.envkit("verify", "--running", "--engine", "oci", project=project, store=store,
                      expect=3, quiet=True)
support.check("nothing that" in done.stderr, done.stderr)

# Papers: the same twice, true of this image, unsigned until there is a key.
for kind in ("spdx", "cyclonedx"):
    first, second = (support.envkit("image", "sbom", "--variant", "cpu", "--format", kind,
                                    project=project, store=store, quiet=True).stdout
                     for _ in range(2))
    support.check(first == second, f"two {kind} documents differ")
    support.check("pkg:pypi/torch@" in first and "pkg:deb/debian/libc6@" in first, first[:500])
papers = project / "provenance.json"
done = support.envkit("image", "provenance", "--variant", "cpu", "-o", papers, project=project,
                      store=store, quiet=True)
support.check("unsigned" in done.stderr, done.stderr)
PAPERS = (*CPU, "--quick", "--provenance", papers)
report, words = verify(*PAPERS, project=project, store=store, expect=0)
support.check(one(report, "provenance.statement")["verdict"] == "pass", report)
support.check(one(report, "provenance.signature")["what"] == "the statement is unsigned", report)
# A stand-in for cosign 3, which signs with a hash: how it is called is what is tested (cosign.py has
# the real ones).
tools = support.new_directory()
(tools / "cosign").write_text(f"""#!{sys.executable}
import hashlib, sys
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1]
if words == ["sign-blob", "--help"]:
    print("    --use-signing-config=true:")
    sys.exit()
mark = hashlib.sha256(open(words[-1], "rb").read()).hexdigest()
if words[0] == "sign-blob":
    assert "--new-bundle-format=false" in words and "--use-signing-config=false" in words
    assert value("--key") == "secret"
    open(value("--output-signature"), "w").write(mark)
else:
    assert words[0] == "verify-blob" and value("--key") == "public"
    sys.exit(0 if open(value("--signature")).read() == mark else "invalid signature")
""")
(tools / "cosign").chmod(0o755)
env = {"PATH": f"{tools}:{os.environ['PATH']}"}
done = support.envkit("image", "provenance", "--variant", "cpu", "-o", papers, "--key", "secret",
                      project=project, store=store, env=env, quiet=True)
support.check("signed" in done.stderr and "unsigned" not in done.stderr, done.stderr)
report, words = verify(*PAPERS, "--key", "public", project=project, store=store, env=env, expect=0)
support.check(one(report, "provenance.signature")["verdict"] == "pass", report)
papers.write_text(papers.read_text() + "\n")
report, words = verify(*PAPERS, "--key", "public", project=project, store=store, env=env, expect=1)
named(one(report, "provenance.signature"), "invalid signature")
papers.write_text(papers.read_text().replace(digest, "0" * 64))
report, words = verify(*PAPERS, project=project, store=store, expect=1)
named(one(report, "provenance.statement"), "its subject is not mnist:train-cpu")

shutil.rmtree(store)
shutil.rmtree(project)

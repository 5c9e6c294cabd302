"""Locks and plans for the other architecture, from the real index and Debian's real lists; --record."""

import json
import shutil
import tomllib

import jsonschema

import support


def valid(name, text):
    document = json.loads(text)
    schema = json.loads((support.SOURCE / "docs" / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    return document


project = support.new_directory() / "mnist"
project.mkdir()
for name in ("envkit.toml", "envkit.lock"):
    shutil.copy(support.SOURCE / name, project)
before = (project / "envkit.lock").read_bytes()

# Without its lock: the command that makes it.
done = support.envkit("build", "--dry-run", "--architecture", "aarch64", project=project, expect=2)
support.check("has no envkit.aarch64.lock" in done.stderr, done.stderr)
support.check("envkit lock --architecture aarch64" in done.stderr, done.stderr)

done = support.envkit("lock", "--architecture", "aarch64", "--json", project=project)
valid("lock", done.stdout)
support.check((project / "envkit.lock").read_bytes() == before, "the other lock was changed")
arm = tomllib.loads((project / "envkit.aarch64.lock").read_text())
usual = tomllib.loads(before.decode())
support.check(arm["inputs"]["architecture"] == "aarch64", arm["inputs"])
for wheel in arm["wheels"]:
    support.check("x86_64" not in wheel["file"], wheel["file"])
support.check(any("aarch64" in wheel["file"] for wheel in arm["wheels"]), "no wheel for aarch64")
support.check({deb["architecture"] for deb in arm["debs"]} == {"arm64", "all"}, "Debian packages")
# What both have is of one version: the first lock for another architecture keeps to the usual one.
versions = {wheel["name"]: wheel["version"] for wheel in usual["wheels"]}
for wheel in arm["wheels"]:
    support.check(versions.get(wheel["name"], wheel["version"]) == wheel["version"],
                  f"{wheel['name']}: {versions.get(wheel['name'])} and {wheel['version']}")
support.envkit("lock", "--check", "--architecture", "aarch64", project=project)

for profile in ("train", "python", "dev"):
    for variant in ("cpu", "cuda"):
        plan = valid("build-plan", support.envkit(
            "build", "--dry-run", "--architecture", "aarch64", "--profile", profile, "--variant",
            variant, "--json", project=project, quiet=True).stdout)
        support.check(plan["architecture"] == "arm64", plan["architecture"])
        files = [wheel["file"] for layer in plan["layers"] for wheel in layer["wheels"]]
        support.check(any(file.startswith("torch-") and "aarch64" in file for file in files), files)
        support.check(not any("x86_64" in file for file in files), files)
        debs = [deb for layer in plan["layers"] for deb in layer["debs"]]
        support.check(debs and all(deb.endswith((":arm64", ":all")) for deb in debs), debs[:3])
        support.check(plan["download"]["bytes"] > 1e8, plan["download"])
        # What libtorch_cpu needs there alone (readelf of torch 2.15's wheel).
        of_torch = [member for layer in plan["layers"] if layer["kind"] == "wheel"
                    for wheel in layer["wheels"] if wheel["file"].startswith("torch-")
                    for member in wheel["members"]]
        support.check(profile != "train" or "torch/lib/libnvpl_*.so.*" in of_torch, of_torch)
text = support.envkit("build", "--dry-run", "--architecture", "aarch64", project=project).stdout
support.check(text.startswith("mnist:train-cuda for linux/arm64 · lock "), text[:200])
support.check("to download" in text.splitlines()[-1], text)
done = support.envkit("build", "--architecture", "aarch64", project=project, expect=3)
support.check("error: images for aarch64 are built on such a machine, and this is x86_64" in done.stderr,
              done.stderr)

# The images' digests go on record, and verify compares with them.
done = support.envkit("lock", "--record", project=project, store=support.new_directory(), expect=1)
support.check("no image of this lock is in the store" in done.stderr, done.stderr)
support.envkit("build", "--variant", "cpu", project=project)
image = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
record = valid("lock-record", support.envkit("lock", "--record", "--json", project=project).stdout)
one = next(one for one in record["built"] if (one["profile"], one["variant"]) == ("train", "cpu"))
support.check(one["config_digest"] == image["config_digest"], one)
support.check(one["diff_ids"] == image["diff_ids"], one)
support.check("train-cpu" in record["new"] and not record["differences"], record)
support.envkit("lock", "--check", project=project)  # outside the digest: the lock still fits
again = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
support.check(again["config_digest"] == image["config_digest"], "recording changed the image")
report = json.loads(support.envkit("verify", "--variant", "cpu", "--json", project=project).stdout)
checks = {check["id"]: check for check in report["checks"]}
support.check(checks["lock.built"]["verdict"] == "pass", checks["lock.built"])
text = (project / "envkit.lock").read_text()
(project / "envkit.lock").write_text(text.replace(image["config_digest"], "0" * 64))
done = support.envkit("verify", "--variant", "cpu", "--json", project=project, expect=1)
checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
support.check(checks["lock.built"]["verdict"] == "fail", checks["lock.built"])
done = support.envkit("lock", "--record", project=project)
support.check("train-cpu was 000000000000 on record" in done.stderr, done.stderr)
support.check((project / "envkit.lock").read_text() == text, "recorded anew")

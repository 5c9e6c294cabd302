"""Provenance signed and verified by the real cosign, versions 2 and 3, each by itself and one by the
other: both are compiled from the Go module proxy and kept in the user's cache. Skipped without go."""

import json
import os
import shutil
import subprocess

import support

VERSIONS = {"v2": "v2.6.5", "v3": "v3.1.3"}
if shutil.which("go") is None:
    support.skip("go is not installed")
programs = {}
for major, version in VERSIONS.items():
    place = support.CACHE / "envkit-tests" / "cosign" / version
    programs[major] = place
    if not (place / "cosign").exists():
        subprocess.run(["go", "install", f"github.com/sigstore/cosign/{major}/cmd/cosign@{version}"],
                       env=dict(os.environ, GOBIN=str(place)), check=True)


def env(major, password="secret"):
    return {"PATH": f"{programs[major]}:{os.environ['PATH']}", "COSIGN_PASSWORD": password}


project = support.new_project()
subprocess.run([programs["v3"] / "cosign", "generate-key-pair"], cwd=project, check=True,
               env=dict(os.environ, **env("v3")), capture_output=True)
papers = project / "provenance.json"


def signature(major, expect):
    report = json.loads(support.envkit(
        "verify", "--variant", "cpu", "--engine", "oci", "--quick", "--provenance", papers, "--key",
        "cosign.pub", "--json", project=project, env=env(major), expect=expect, quiet=True).stdout)
    return next(check for check in report["checks"] if check["id"] == "provenance.signature")


for signer in programs:
    done = support.envkit("image", "provenance", "--variant", "cpu", "-o", papers, "--key", "cosign.key",
                          project=project, env=env(signer), quiet=True)
    support.check("signed" in done.stderr and "unsigned" not in done.stderr, done.stderr)
    for verifier in programs:
        support.check(signature(verifier, 0)["verdict"] == "pass", f"{signer} by {verifier}")
    text = papers.read_text()
    papers.write_text(text + " ")
    support.check(signature(signer, 1)["verdict"] == "fail", "a changed statement")
    papers.write_text(text)
    print(f"signed by cosign {VERSIONS[signer]}: verified by both; a changed statement is not")
    done = support.envkit("image", "provenance", "--variant", "cpu", "-o", papers, "--key", "cosign.key",
                          project=project, env=env(signer, "wrong"), expect=1, quiet=True)
    support.check("decrypt" in done.stderr, done.stderr)

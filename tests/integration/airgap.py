"""A bundle with its sources, into an empty store on a machine without a network: the same image is
built there, none of it from the bundle's own layers."""

import json
import os
import shutil

import support

if os.getuid() != 0 or not shutil.which("unshare"):
    support.skip("taking the network away needs root")

root = support.new_directory("envkit-airgap-")
try:
    project = support.new_project()
    built = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
    bundle = root / "bundle.tar"
    support.envkit("image", "save", "--variant", "cpu", "--with-sources", "-o", bundle, project=project)
    print(f"bundle: {bundle.stat().st_size / 1e6:.0f} MB")
    program, support.ENVKIT = support.ENVKIT, str(root / "offline")
    (root / "offline").write_text(f"#!/bin/sh\nexec unshare -n {program} \"$@\"\n")
    (root / "offline").chmod(0o755)
    fresh = root / "store"
    loaded = json.loads(support.envkit("image", "load", "--no-reuse", "--json", bundle, project=project,
                                       store=fresh).stdout)
    support.check(loaded["sources"] > 50, f"only {loaded['sources']} source files came along")
    # Nothing of the image may help: only the sources stay.
    shutil.rmtree(fresh / "layers")
    shutil.rmtree(fresh / "images")
    offline = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project, store=fresh,
                                        timeout=3000).stdout)
    support.check(offline["config_digest"] == built["config_digest"], "built offline it is another image")
    support.check(offline["diff_ids"] == built["diff_ids"], "built offline it has other layers")
    support.check(len(offline["built"]) == len(built["diff_ids"]), offline["built"])
    # And with the bundle's layers there is nothing to build.
    other = root / "other"
    support.envkit("image", "load", bundle, project=project, store=other)
    offline = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project, store=other).stdout)
    support.check(offline["built"] == [] and offline["config_digest"] == built["config_digest"], offline["built"])
    support.envkit("run", "--engine", "oci", "--variant", "cpu", "--", "true", project=project, store=other)
finally:
    shutil.rmtree(root, ignore_errors=True)

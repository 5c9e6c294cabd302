"""envkit-train beside torch for Python in one image: the same weights, data and steps give the same losses
and weights to 1e-4, and each reads the other's safetensors."""

import json
import shutil

import support

project = support.new_example("python-accelerate")
shutil.copy(support.SOURCE / "tests/integration/reference_job.py", project / "reference_job.py")
image = json.loads(support.envkit("build", "--variant", "cpu", "--json", project=project).stdout)
support.check(image["profile"] == "python", image["profile"])
done = support.envkit("run", "--variant", "cpu", "--engine", "oci", "--", "python", "reference_job.py",
                      project=project)
for part in ("gpt", "resnet18", "resnet50"):
    for what in ("losses", "test losses", "weights"):
        support.check(f"{part}: {what}" in done.stdout, f"{part}: {what} are not compared\n{done.stdout}")
shutil.rmtree(project, ignore_errors=True)

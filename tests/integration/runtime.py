"""The runtime's unit tests, compiled and run where the image's own runtime is: in the builder root."""

import os
import shutil
import support

project = support.new_project()
for folder in ("runtime", "toolkit", "tests/runtime"):
    shutil.copytree(support.SOURCE / folder, project / folder)
script = """
set -e
cmake -S /workspace/runtime -B /workspace/build -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DENVKIT_RUNTIME_TESTS=ON -DENVKIT_CUDA=OFF \
  -DENVKIT_SITE_PACKAGES=/usr/local/lib/python3.13/dist-packages >/workspace/configure.log
ninja -C /workspace/build
ctest --test-dir /workspace/build --output-on-failure --no-tests=error
"""
support.envkit("build", "--variant", "cpu", "--run-in-builder", "--", "sh", "-c", script,
               project=project)
shutil.rmtree(project, ignore_errors=True)

"""The runtime's unit tests, and examples/custom-cpp-model on an installed runtime, compiled and run where
the image's own runtime is: in the builder root."""

import os
import shutil
import support

project = support.new_project()
for folder in ("runtime", "toolkit", "tests/runtime", "examples/custom-cpp-model"):
    shutil.copytree(support.SOURCE / folder, project / folder)
script = """
set -e
cmake -S /workspace/runtime -B /workspace/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=ON \
  -DENVKIT_RUNTIME_TESTS=ON -DENVKIT_CUDA=OFF \
  -DENVKIT_SITE_PACKAGES=/usr/local/lib/python3.13/dist-packages >/workspace/configure.log
ninja -C /workspace/build
cmake --install /workspace/build --prefix /workspace/prefix >/workspace/install.log
cmake --install /workspace/build --prefix /workspace/prefix --component headers >>/workspace/install.log
cmake -S /workspace/examples/custom-cpp-model -B /workspace/example -G Ninja \
  -DCMAKE_PREFIX_PATH=/workspace/prefix -DCMAKE_CXX_FLAGS="-Wall -Wextra -Wpedantic" >/workspace/example.log
ninja -C /workspace/example
ENVKIT_TEST_EXAMPLE=/workspace/example/sine \
ctest --test-dir /workspace/build --output-on-failure --no-tests=error
"""
support.envkit("build", "--variant", "cpu", "--run-in-builder", "--", "sh", "-c", script,
               project=project)
shutil.rmtree(project, ignore_errors=True)

#include "image/dockerfile.h"

#include "image/world.h"

namespace envkit {
namespace {

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a Dockerfile has the image's members of wheels, what is left out and commands' modes") {
  World world;
  ImagePlan plan = world.Plan();
  for (LayerPlan& layer : plan.layers) {
    if (layer.what == "torch") layer.members[0] = {"!torch/lib/libtorch_cuda.so"};
    if (layer.kind == "recipe") layer.files["usr/local/bin/tool"] = "#!/bin/sh\nexit 0\n";
  }
  LayerPlan no_cuda;
  no_cuda.what = no_cuda.kind = "no-cuda";
  no_cuda.left_out = {
      {"nvidia-cudnn-cu13", "9.26.0.51", "nvidia_cudnn_cu13-9.26.0.51-py3-none-any.whl", ""}};
  plan.layers.push_back(no_cuda);
  auto text = RenderDockerfile(world.project, plan);
  REQUIRE_MESSAGE(text, text.error().Text());
  CHECK(Has(*text, "'/image torch torch-1.0-py3-none-any.whl !torch/lib/libtorch_cuda.so'"));
  CHECK(Has(*text, "'/image nvidia-cudnn-cu13 9.26.0.51 nvidia_cudnn_cu13-9.26.0.51.dist-info'"));
  CHECK(Has(*text,
            "RUN sh /no-cuda.sh /usr/local/lib/python3.13/dist-packages "
            "/out/usr/local/lib/python3.13/dist-packages 9.26.0.51\n"));
  CHECK(Has(*text, "RUN chmod 755 '/usr/local/bin/tool'\n"));
  CHECK(!Has(*text, "compileall"));  // there is no Python in the image

  LayerPlan bytecode;
  bytecode.what = bytecode.kind = "bytecode";
  plan.layers.push_back(bytecode);
  text = RenderDockerfile(world.project, plan);
  REQUIRE(text);
  CHECK(Has(*text, "RUN python3 -m compileall "));
}

TEST_CASE("a Dockerfile fetches wheels from an index or a URL, and says what it cannot have") {
  World world;
  LockedWheel& wheel = world.lock.wheels[0];
  wheel.from = "https://wheels.example/torch-1.0-py3-none-any.whl";
  const auto text = RenderDockerfile(world.project, world.Plan());
  REQUIRE(text);
  CHECK(Has(*text, "'torch @ https://wheels.example/torch-1.0-py3-none-any.whl --hash=sha256:" +
                       wheel.sha256 + "'"));
  const std::string next =
      "  Put the wheel on an index ([index] in envkit.toml), then envkit lock; or send the image\n"
      "  itself:  envkit image push\n";
  wheel.from = "wheels/torch-1.0-py3-none-any.whl";
  CHECK(TextOf(RenderDockerfile(world.project, world.Plan())) ==
        "error: a Dockerfile cannot have torch-1.0-py3-none-any.whl: it is the project's own "
        "wheels/torch-1.0-py3-none-any.whl\n" +
            next);
  wheel.from = "sdist:torch-1.0.tar.gz";
  CHECK(TextOf(RenderDockerfile(world.project, world.Plan())) ==
        "error: a Dockerfile cannot have torch-1.0-py3-none-any.whl: it is built from source "
        "here\n" +
            next);

  wheel.from.clear();
  ImagePlan plan = world.Plan();
  plan.layers[0].kind = "os";
  plan.layers[0].debs.clear();
  world.project.environment.base = "oci:base@sha256:1";
  CHECK(TextOf(RenderDockerfile(world.project, plan)) ==
        "error: base = \"oci:base@sha256:1\": a Dockerfile can be written for Debian bases\n"
        "  With another image as the base, docker's users begin with FROM its name.\n");
}

}  // namespace envkit

#include "image/dockerfile.h"

#include <fmt/format.h>

#include <cstdlib>
#include <map>

#include "base/process.h"
#include "image/world.h"

namespace envkit {
namespace fs = std::filesystem;
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

TEST_CASE("a Dockerfile's wheels are installed as the layers' are, to the byte") {
  World world;
  const std::string info = "tool-1.0.dist-info/", data = "tool-1.0.data/";
  LayerPlan layer;
  layer.site = "usr/local/lib/python3.13/dist-packages";
  layer.mtime = 1;
  layer.wheels = {
      world.AddWheel("tool", 1,
                     {{"tool/__init__.py", "pass\n"},
                      {"tool/_c.cpython-313.so", "elf"},
                      {"tool/libx.so.1", "elf"},
                      {"tool/run.sh", "#!/bin/sh\n", 0755},
                      {"tool/a, \"b\".txt", "comma"},
                      {"tool/\u00fc.txt", "name in UTF-8"},
                      {"tool/tests/test_x.py", "left out\n"},
                      {"tool/tests/keep.py", "left out too\n"},
                      {data + "scripts/python-one", "#!pythonw -E\nx\n"},
                      {data + "scripts/sh-one", "#!/bin/sh\n"},
                      {data + "data/share/doc", "doc"},
                      {data + "headers/tool.h", "// h\n"},
                      {data + "purelib/extra.py", "pass\n"},
                      {info + "INSTALLER", "pip\n"},
                      {info + "METADATA", "Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n"},
                      {info + "entry_points.txt",
                       "[other]\nno = this:one\n[console_scripts]\ntool = tool.cli:main\n"
                       "Tool2=tool.cli:Class.run [extra]\n[gui_scripts]\nwindow = w:main\n"}}),
      world.AddWheel("part", 1, {{"part/a.py", "a\n"}, {"part/b.py", "b\n"}})};
  layer.members = {{"!tool/tests/*"}, {"part/a.py"}};
  const auto content = OpenWheels(layer, world.store);
  REQUIRE_MESSAGE(content, content.error().Text());
  const fs::path ours = world.scratch / "ours/fs", theirs = world.scratch / "theirs";
  REQUIRE(MakeDirectories(ours));
  REQUIRE(WriteWheels(layer, *content, ours, {}));

  std::string members;
  REQUIRE(MakeDirectories(world.scratch / "wheels"));
  for (std::size_t at = 0; at < layer.wheels.size(); ++at) {
    const LockedWheel& wheel = layer.wheels[at];
    fs::copy_file(world.store.DownloadPath(wheel.sha256, wheel.file),
                  world.scratch / "wheels" / wheel.file);
    for (const std::string& pattern : layer.members[at]) {
      members += theirs.string() + " " + wheel.name + " " + wheel.file + " " + pattern + "\n";
    }
  }
  WriteFiles(world.scratch.path(), {{"members", members}, {"left-out", ""}});
  const char* source = std::getenv("ENVKIT_SOURCE_DIR");
  REQUIRE(source);
  const auto ran = RunForOutput(
      {.argv = {"python3", std::string(source) + "/images/scripts/install-wheels.py", layer.site,
                (world.scratch / "members").string(), (world.scratch / "left-out").string(),
                (world.scratch / "wheels").string()}});
  REQUIRE_MESSAGE(ran, ran.error().Text());
  const auto below = [](const fs::path& tree) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(tree)) {
      if (!entry.is_regular_file()) continue;
      const auto mode = static_cast<unsigned>(entry.status().permissions());
      files[entry.path().lexically_relative(tree).string()] =
          fmt::format("{:o} {}", mode, ReadFile(entry.path()).value());
    }
    return files;
  };
  const auto expected = below(ours);
  CHECK(expected.size() > 15);
  CHECK(expected.contains("usr/local/bin/Tool2"));
  CHECK(below(theirs) == expected);
}

}  // namespace envkit

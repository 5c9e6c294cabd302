#include "image/layer.h"

#include <sys/stat.h>

#include "image/world.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

LayerPlan PlanOf(const World& world, const std::vector<LockedWheel>& wheels) {
  LayerPlan plan = *FindKind(world.Plan(), "wheel");
  plan.wheels = wheels;
  plan.members.assign(wheels.size(), {});
  return plan;
}

}  // namespace

TEST_CASE("a wheel's files lie where pip would put them") {
  World world;
  const LockedWheel wheel = world.AddWheel("some-tool", 1,
                                           {{"tool/__init__.py", "pass\n"},
                                            {"tool/core.so", "elf"},
                                            {"tool/run.sh", "#!/bin/sh\n", 0744},
                                            {"tool-1.0.dist-info/RECORD", "record"},
                                            {"tool-1.0.data/purelib/pure.py", "pure"},
                                            {"tool-1.0.data/platlib/plat.py", "plat"},
                                            {"tool-1.0.data/scripts/tool", "#!python\n", 0755},
                                            {"tool-1.0.data/data/share/t.txt", "data"},
                                            {"tool-1.0.data/headers/tool.h", "header"}});
  const LayerPlan plan = PlanOf(world, {wheel});
  const auto content = OpenWheels(plan, world.store);
  REQUIRE_MESSAGE(content, content.error().Text());
  const fs::path tree = world.scratch / "tree";
  fs::create_directory(tree);
  std::uint64_t written = 0;
  const auto layer =
      WriteWheels(plan, *content, tree, [&](std::uint64_t bytes) { written += bytes; });
  REQUIRE_MESSAGE(layer, layer.error().Text());
  CHECK(written == content->bytes);
  const fs::path site = tree / "usr/local/lib/python3.13/dist-packages";
  CHECK(ReadFile(site / "tool-1.0.dist-info/RECORD").value() == "record");
  CHECK(ReadFile(site / "pure.py").value() == "pure");
  CHECK(ReadFile(site / "plat.py").value() == "plat");
  CHECK(ReadFile(tree / "usr/local/bin/tool").value() == "#!python\n");
  CHECK(ReadFile(tree / "usr/local/share/t.txt").value() == "data");
  CHECK(ReadFile(tree / "usr/local/include/some-tool/tool.h").value() == "header");
  CHECK(!fs::exists(site / "tool-1.0.data"));
  const auto mode = [&](const fs::path& file) {
    struct stat status;
    REQUIRE(stat(file.c_str(), &status) == 0);
    return status.st_mode & 07777;
  };
  CHECK(mode(site / "tool/core.so") == 0755);
  CHECK(mode(site / "tool/run.sh") == 0755);
  CHECK(mode(site / "tool/__init__.py") == 0644);
}

TEST_CASE("members are chosen by patterns, and a pattern without a file is an error") {
  World world;
  const LayerPlan torch = world.Plan("cuda").layers[1];
  const auto content = OpenWheels(torch, world.store);
  REQUIRE(content);
  REQUIRE(content->files.size() == 2);
  CHECK(content->files[0].entry.name == "torch/lib/libtorch_cpu.so");
  CHECK(content->files[1].entry.name == "torch/lib/libtorch_cuda.so");
  const auto rest = OpenWheels(torch, world.store, {{"*_cpu.so"}});
  REQUIRE(rest);
  REQUIRE(rest->files.size() == 1);
  CHECK(rest->files[0].entry.name == "torch/lib/libtorch_cuda.so");

  LayerPlan wrong = torch;
  wrong.members[0].push_back("torch/lib/libmissing.so");
  CHECK(TextOf(OpenWheels(wrong, world.store)) ==
        "error: torch-1.0-py3-none-any.whl has no file torch/lib/libmissing.so\n"
        "  The recipe in images/profiles does not fit this version of the wheel.\n");
}

TEST_CASE("two wheels with different files at one path are refused, with both names") {
  World world;
  const LockedWheel one = world.AddWheel("one", 1, {{"nvidia/lib.so", "1"}, {"shared.py", "s"}});
  const LockedWheel two = world.AddWheel("two", 1, {{"nvidia/lib.so", "2"}, {"shared.py", "s"}});
  const LockedWheel same = world.AddWheel("same", 1, {{"shared.py", "s"}});
  const std::string expected =
      "error: two wheels have different files at "
      "usr/local/lib/python3.13/dist-packages/nvidia/lib.so\n"
      "  one-1.0-py3-none-any.whl\n"
      "  two-1.0-py3-none-any.whl\n"
      "  Only one of them can be in the image: leave out one in envkit.toml, then envkit lock.\n";
  CHECK(TextOf(OpenWheels(PlanOf(world, {one, two}), world.store)) == expected);

  const auto both = OpenWheels(PlanOf(world, {one, same}), world.store);
  REQUIRE(both);  // the same file twice is one file
  CHECK(both->files.size() == 2);

  // Across layers, one of which was made long ago.
  LayerPlan old = PlanOf(world, {one});
  old.key = "old";
  const auto content = OpenWheels(old, world.store);
  REQUIRE(content);
  const fs::path directory = world.scratch / "layer";
  REQUIRE(MakeDirectories(directory / "fs"));
  const auto layer = WriteWheels(old, *content, directory / "fs", {});
  REQUIRE(layer);
  const auto published =
      PublishLayer(world.store, old, directory, *layer, OwnedFiles(old, *content));
  REQUIRE(published);
  auto owned = OwnedFiles(*published);
  REQUIRE(owned);
  CHECK(owned->size() == 2);
  const LayerPlan fresh = PlanOf(world, {two});
  const auto added = OpenWheels(fresh, world.store);
  REQUIRE(added);
  for (OwnedFile& file : OwnedFiles(fresh, *added)) owned->push_back(std::move(file));
  CHECK(TextOf(RejectCollisions(*owned)) == expected);
}

TEST_CASE("a file that is another wheel's directory is refused") {
  World world;
  const LockedWheel one = world.AddWheel("one", 1, {{"thing", "file"}});
  const LockedWheel two = world.AddWheel("two", 1, {{"thing/inside", "file"}});
  const LayerPlan plan = PlanOf(world, {one, two});
  const auto content = OpenWheels(plan, world.store);
  REQUIRE(content);
  CHECK(TextOf(WriteWheels(plan, *content, world.scratch / "tree", {})) ==
        "error: usr/local/lib/python3.13/dist-packages/thing is a file in "
        "one-1.0-py3-none-any.whl and a directory in two-1.0-py3-none-any.whl\n");
}

TEST_CASE("a wheel that is damaged or strange is an error with its name") {
  World world;
  const LockedWheel strange = world.AddWheel("strange", 1, {{"strange-1.0.data/magic/x", "x"}});
  CHECK(TextOf(OpenWheels(PlanOf(world, {strange}), world.store)) ==
        "error: strange-1.0-py3-none-any.whl has strange-1.0.data/magic/x, and no rule says where "
        "that belongs\n");
  const LockedWheel broken = world.AddWheel("broken", 1, {{"x", "x"}});
  REQUIRE(WriteFileAtomic(world.store.DownloadPath(broken.sha256, broken.file), "no zip"));
  const std::string text = TextOf(OpenWheels(PlanOf(world, {broken}), world.store));
  CHECK(text.starts_with("error: reading broken-1.0-py3-none-any.whl: "));
}

TEST_CASE("a layer is found by its key when all of it is there") {
  World world;
  const ImagePlan plan = world.Plan();
  const LayerPlan& os = *FindKind(plan, "os");
  CHECK(!FindLayer(world.store, os.key, os.what));
  world.ProvideSystems(plan);
  const auto layer = FindLayer(world.store, os.key, os.what);
  REQUIRE(layer);
  CHECK(layer->what == "debian");
  CHECK(ReadFile(layer->tree / "usr/lib/libc.so.6").value() == "libc");
  CHECK(LayerTime(*layer).value() == 1'700'000'000);
  REQUIRE(RemoveTree(layer->tree.parent_path()));
  CHECK(!FindLayer(world.store, os.key, os.what));
}

}  // namespace envkit

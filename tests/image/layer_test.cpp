#include "image/layer.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "image/manifest.h"
#include "image/wheel_record.h"
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
                                            {"some-tool-1.0.dist-info/entry_points.txt",
                                             "[console_scripts]\nrun-tool = tool.core:main\n"},
                                            {"tool-1.0.data/purelib/pure.py", "pure"},
                                            {"tool-1.0.data/platlib/plat.py", "plat"},
                                            {"tool-1.0.data/scripts/tool", "#!python -O\nx\n"},
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
  CHECK(ReadFile(site / "pure.py").value() == "pure");
  CHECK(ReadFile(site / "plat.py").value() == "plat");
  CHECK(ReadFile(tree / "usr/local/bin/tool").value() == "#!/usr/bin/python3 -O\nx\n");
  CHECK(ReadFile(tree / "usr/local/bin/run-tool").value().find("from tool.core import main\n") !=
        std::string::npos);
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
  CHECK(mode(tree / "usr/local/bin/tool") == 0755);
  CHECK(mode(tree / "usr/local/bin/run-tool") == 0755);

  // RECORD says what is there, with the hashes of what was changed on the way.
  CHECK(ReadFile(site / "some-tool-1.0.dist-info/INSTALLER").value() == "envkit\n");
  const std::string text = ReadFile(site / "some-tool-1.0.dist-info/RECORD").value();
  const auto record = ParseRecord(text, "some-tool");
  REQUIRE(record);
  std::size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(tree)) {
    if (entry.is_regular_file()) ++files;
  }
  CHECK(record->size() == files);
  for (const RecordedFile& listed : *record) {
    CAPTURE(listed.path);
    CHECK(fs::exists(site / listed.path));
    if (IsRecordItself(listed.path)) continue;
    CHECK(Sha256OfFile(site / listed.path).value() == listed.sha256);
  }
  CHECK(text.find("../../../bin/run-tool,sha256=") != std::string::npos);
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
  REQUIRE(both);                           // the same file twice is one file
  CHECK(both->files.size() == 2 + 2 * 2);  // and of each wheel RECORD and INSTALLER

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
  CHECK(owned->size() == 2 + 2);
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

TEST_CASE("a wheel is checked against its RECORD once, and a build believes the mark alone") {
  World world;
  const auto written = [&](const LockedWheel& wheel) {
    static int number = 0;
    const LayerPlan plan = PlanOf(world, {wheel});
    const auto content = OpenWheels(plan, world.store);
    REQUIRE(content);
    const fs::path tree = world.scratch / fmt::format("layer{}/fs", ++number);
    REQUIRE(MakeDirectories(tree));
    const auto layer = WriteWheels(plan, *content, tree, {});
    const std::string manifest = ReadFile(tree.parent_path() / kManifestName).value_or("");
    return layer ? layer->diff_id + "\n" + manifest : TextOf(layer);
  };
  const LockedWheel good = world.AddWheel("good", 1, {{"x.py", "pass\n"}, {"y.py", ""}});
  const std::string hashed = written(good);
  CHECK_FALSE(RecordChecked(world.store, good.sha256, good.file));
  CheckRecord(world.store, good.sha256, good.file);
  CHECK(RecordChecked(world.store, good.sha256, good.file));
  CHECK(written(good) == hashed);

  const LockedWheel liar = world.AddWheel(
      "liar", 1,
      {{"x.py", "pass\n"},
       {"liar-1.0.dist-info/RECORD", RecordText({{"x.py", Sha256Of("other"), 5}}, "")}});
  CheckRecord(world.store, liar.sha256, liar.file);
  CHECK_FALSE(RecordChecked(world.store, liar.sha256, liar.file));
  CHECK(written(liar).find("another sha256 for x.py") != std::string::npos);
  // With a mark that it never got: what is not hashed cannot be found.
  REQUIRE(WriteFileAtomic(
      world.store.DownloadPath(liar.sha256, liar.file).parent_path() / "record-holds", ""));
  CHECK(written(liar).find(Sha256Of("other")) != std::string::npos);

  const LockedWheel broken = world.AddWheel("broken", 1, {{"x", "x"}});
  REQUIRE(WriteFileAtomic(world.store.DownloadPath(broken.sha256, broken.file), "no zip"));
  CheckRecord(world.store, broken.sha256, broken.file);
  CHECK_FALSE(RecordChecked(world.store, broken.sha256, broken.file));
}

TEST_CASE("a wheel that was made to do harm is found, and named") {
  World world;
  const auto said = [&](const std::string& name, const std::vector<ZipFile>& files) {
    const LockedWheel wheel = world.AddWheel(name, 1, files);
    const LayerPlan plan = PlanOf(world, {wheel});
    const auto content = OpenWheels(plan, world.store);
    if (!content) return TextOf(content);
    const fs::path tree = world.scratch / ("tree-" + name);
    fs::create_directory(tree);
    return TextOf(WriteWheels(plan, *content, tree, {}));
  };
  const std::string harm = "\n  The archive is damaged or was made to do harm: do not use it.\n";
  CHECK(said("up", {{"x/../../../etc/passwd", "root"}}) ==
        "error: reading up-1.0-py3-none-any.whl: up-1.0-py3-none-any.whl: the entry "
        "\"x/../../../etc/passwd\" has a path that could leave its directory" +
            harm);
  CHECK(said("root", {{"/etc/passwd", "root"}}) ==
        "error: reading root-1.0-py3-none-any.whl: root-1.0-py3-none-any.whl: the entry "
        "\"/etc/passwd\" has a path that could leave its directory" +
            harm);
  CHECK(said("scheme", {{"scheme-1.0.data/scripts/../../x", "x"}}).find("could leave") !=
        std::string::npos);
  CHECK(said("link", {{"x", "/etc/passwd", S_IFLNK | 0777}}) ==
        "error: reading link-1.0-py3-none-any.whl: link-1.0-py3-none-any.whl: the entry \"x\" is a "
        "symbolic link" +
            harm);
  CHECK(said("bomb", {{"zeros", std::string(120'000'000, '\0')}}) ==
        "error: bomb-1.0-py3-none-any.whl has 117 kB and would unpack to 120 MB\n"
        "  That is a zip bomb rather than a package: do not use it.\n");

  const std::string liar =
      "\n  The wheel is not what its builder made: do not use it. Another version or index may "
      "have "
      "a good one.\n";
  const std::string other = RecordText({{"x.py", Sha256Of("other"), 5}}, "");
  CHECK(said("hash", {{"x.py", "pass\n"}, {"hash-1.0.dist-info/RECORD", other}}) ==
        "error: hash-1.0-py3-none-any.whl: its RECORD has another sha256 for x.py than the file "
        "that is in it" +
            liar);
  CHECK(said("command", {{"command-1.0.data/scripts/x", "#!python\n"},
                         {"command-1.0.dist-info/RECORD",
                          RecordText({{"command-1.0.data/scripts/x", Sha256Of("o"), 1}}, "")}}) ==
        "error: command-1.0-py3-none-any.whl: its RECORD has another sha256 for "
        "command-1.0.data/scripts/x than the file that is in it" +
            liar);
  CHECK(said("more", {{"x.py", "other"}, {"y.py", "y"}, {"more-1.0.dist-info/RECORD", other}}) ==
        "error: more-1.0-py3-none-any.whl: its RECORD does not list y.py" + liar);
  CHECK(said("two", {{"one-1.0.dist-info/RECORD", ""}, {"two-1.0.dist-info/RECORD", ""}}) ==
        "error: two-1.0-py3-none-any.whl: it has both one-1.0.dist-info and two-1.0.dist-info" +
            liar);
  CHECK(said("none", {{"x.py", "x"}, {"deep/none-1.0.dist-info/RECORD.jws", ""}}) == "no error");
  CHECK(said("words", {{"x.py", "x"}, {"words-1.0.dist-info/RECORD", "x.py,sha256=AAA,1\n"}}) ==
        "error: words-1.0-py3-none-any.whl: RECORD has a hash of x.py that is none: sha256=AAA\n");
  CHECK(said("csv", {{"x.py", "x"}, {"csv-1.0.dist-info/RECORD", "x.py\n"}}) ==
        "error: csv-1.0-py3-none-any.whl: RECORD has the line \"x.py\"\n");
  CHECK(said("shell", {{"shell-1.0.dist-info/entry_points.txt",
                        "[console_scripts]\nx = os:system('id') or os.getpid\n"}}) ==
        "error: shell-1.0-py3-none-any.whl: the command \"x = os:system('id') or os.getpid\" in "
        "its entry_points.txt makes no program\n");
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

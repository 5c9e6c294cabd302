// Sources: which ones uv cannot do without, what is locked of them, and how they are built again.
#include "image/sdist.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "image/world.h"
#include "resolve_server.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

std::string Words(const std::string& because) {
  return "error: No solution found when resolving dependencies\n  cause: Because " + because +
         "\n\nhint: Wheels are required for `My_Pkg` because building from source is disabled for "
         "all packages (i.e., with `--no-build`)\n";
}

// What a build leaves, made by the test instead of a sandbox.
struct Builds {
  World world;
  LocalServer server{{}};
  std::string content = "x = 1\n";
  int exit_code = 0;
  std::string log = "gcc: fatal error: no such file\n";
  std::vector<std::string> ran;
  std::vector<LockedDeb> debs = {{"python3",
                                  "3.13",
                                  "amd64",
                                  "trixie",
                                  "pool/python3.deb",
                                  std::string(64, 'd'),
                                  7,
                                  {kSdistRoot}}};
  LockedSource source;
  LockedWheel backend;

  Builds() {
    // The sdist: "srconly-0.5/" with a pyproject.toml, as tar makes it.
    const fs::path tree = world.scratch / "sdist";
    WriteFiles(tree / "srconly-0.5",
               {{"pyproject.toml", "[build-system]\nrequires = [\"backend>=1\"]\n"},
                {"srconly.py", "x = 1\n"}});
    ProcessSpec tar;
    tar.argv = {"tar", "-C", tree.string(), "-czf", (tree / "s.tar.gz").string(), "srconly-0.5"};
    REQUIRE(RunForOutput(tar));
    const std::string bytes = *ReadFile(tree / "s.tar.gz");
    source.name = "srconly";
    source.wheel = "srconly-0.5-py3-none-any.whl";
    source.file = "srconly-0.5.tar.gz";
    source.sha256 = Sha256Of(bytes);
    source.size = bytes.size();
    server.Set("/simple/srconly/", "<a href='/f/" + source.file + "#sha256=" + source.sha256 +
                                       "'>" + source.file + "</a>");
    server.Set("/f/" + source.file, bytes);
    setenv("UV_DEFAULT_INDEX", (server.Url() + "/simple").c_str(), 1);
    setenv("NO_PROXY", "127.0.0.1", 1);
    backend = world.AddWheel("backend", 100, {{"backend.py", "pass\n"}});
    source.requires_files = {backend.file};
    // The system that builds run in is there already: its key is that of its packages.
    const std::string key = Sha256Of("sdist 1  " + debs[0].sha256);
    WriteFiles(world.store.data / "roots" / key / "fs", {{"usr/bin/python3", "python"}});
  }
  ~Builds() { unsetenv("UV_DEFAULT_INDEX"); }

  RunInRoot Run() {
    return [this](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
      ran.push_back(sandbox.argv.back());
      CHECK(sandbox.lower.size() == 2);
      CHECK(fs::exists(sandbox.lower[0] / "usr/bin/python3"));
      CHECK(fs::exists(sandbox.lower[1] / "usr/local/lib/python3.13/dist-packages/backend.py"));
      CHECK(fs::exists(sandbox.binds[0].host / "srconly.py"));
      CHECK(sandbox.env.at("SOURCE_DATE_EPOCH") == "315532800");
      if (exit_code != 0) return BuildSandboxResult{exit_code, log};
      MakeZip(sandbox.binds[1].host / source.wheel, {{"srconly.py", content}});
      return BuildSandboxResult{};
    };
  }
  // A lock whose image has the wheel that comes of it.
  ImagePlan Locked(const std::string& sha256) {
    LockedWheel wheel{"srconly", "0.5", source.wheel, sha256, 9, "sdist:" + source.file};
    world.lock.wheels.push_back(wheel);
    world.lock.sources = {source};
    world.lock.build_wheels = {backend};
    world.lock.debs.insert(world.lock.debs.end(), debs.begin(), debs.end());
    ImagePlan plan;
    LayerPlan layer;
    layer.kind = "wheel";
    layer.wheels = {wheel};
    plan.layers = {layer};
    return plan;
  }
  Result<void> Ensure(const ImagePlan& plan) {
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    Terminal terminal(options);
    return EnsureSdists(world.project, world.lock, plan, world.store, Run(), terminal);
  }
  std::string WheelHash() {
    MakeZip(world.scratch / "expected.whl", {{"srconly.py", content}});
    return *Sha256OfFile(world.scratch / "expected.whl");
  }
};

}  // namespace

TEST_CASE("which package comes as source alone, of uv's words") {
  const auto find = [](const std::string& because) {
    const auto source = FindSourceOnly(Words(because));
    REQUIRE(source);
    CHECK(source->name == "my-pkg");
    return source->bounds;
  };
  CHECK(find("My_Pkg==0.5 has no usable wheels and only My_Pkg==0.5 is available") == "==0.5");
  CHECK(find("all versions of My_Pkg have no usable wheels and you require My_Pkg") == "");
  CHECK(find("My_Pkg>=0.4,<2\n         has no usable wheels and you require it") == ">=0.4,<2");
  CHECK_FALSE(FindSourceOnly("error: No solution found\n  cause: you require a>3\n"));
  CHECK_FALSE(FindSourceOnly("a==1 has no usable wheels"));
}

TEST_CASE("the newest sdist within the bounds, final releases first") {
  std::vector<IndexFile> files;
  for (const char* name :
       {"my_pkg-0.9.tar.gz", "my-pkg-0.10.tar.gz", "my.pkg-1.0rc1.tar.gz",
        "my_pkg-0.10.post1.tar.gz", "my_pkg-2.0-py3-none-any.whl", "other-9.tar.gz",
        "my_pkg-3.0.zip", "my_pkg-0.10.dev3.tar.gz", "nonsense.tar.gz"}) {
    files.push_back({name, "https://example.com/f", std::string(64, 'a'), 1});
  }
  const auto newest = [&](const std::string& bounds) {
    const auto found = NewestSdist(files, "my-pkg", bounds);
    return found ? found->version : "";
  };
  CHECK(newest("") == "0.10.post1");
  CHECK(newest("==0.9") == "0.9");
  CHECK(newest("==0.9.0") == "0.9");
  CHECK(newest("==0.10") == "0.10");
  CHECK(newest("<0.10") == "0.9");
  CHECK(newest(">=0.9,<0.10") == "0.9");
  CHECK(newest(">0.10") == "1.0rc1");
  CHECK(newest("==7") == "");
  files = {{"my_pkg-1.tar.gz", "https://example.com/f", "", 1}};
  CHECK(newest("") == "");  // without a hash nothing could be verified
}

TEST_CASE("an old source is built where it is wished, not where newer wheels do not fit") {
  const std::vector<IndexFile> files = {{"p-0.1.tar.gz", "", std::string(64, 'a'), 1},
                                        {"p-0.9-py3-none-any.whl", "", "", 1},
                                        {"p-1.0.tar.gz", "", std::string(64, 'b'), 1},
                                        {"q-7-py3-none-any.whl", "", "", 1}};
  const Sdist old{"0.1", files[0]}, newest{"1.0", files[2]};
  CHECK(WorthBuilding(files, {"p", "", "you require p"}, newest));
  CHECK_FALSE(WorthBuilding(files, {"p", "==0.1", "p==0.1 has no usable wheels"}, old));
  CHECK(WorthBuilding(files, {"p", "==0.1", "you require p==0.1, we"}, old));
  CHECK(WorthBuilding(files, {"p", "==0.1", "a==1 depends on p==0.1"}, old));
  CHECK(WorthBuilding({files[0]}, {"p", "", ""}, old));
}

TEST_CASE("what a build requires stands in pyproject.toml") {
  Scratch scratch;
  CHECK(BuildRequirements(scratch.path()) == std::vector<std::string>{"setuptools", "wheel"});
  const auto read = [&](const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch / "pyproject.toml", text));
    return BuildRequirements(scratch.path());
  };
  CHECK(read("[build-system]\nrequires = [\"hatchling>=1\", \"cython\"]\n") ==
        std::vector<std::string>{"hatchling>=1", "cython"});
  CHECK(read("[project]\n") == std::vector<std::string>{"setuptools", "wheel"});
  CHECK(read("[build-system]\nrequires = []\n")->empty());
  for (const char* bad : {"-r /etc/passwd", "a\\n--index-url x"}) {
    const auto refused = read("[build-system]\nrequires = [\"" + std::string(bad) + "\"]\n");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.starts_with("its [build-system] requires what is no requirement: "));
  }
}

TEST_CASE("a locked source is fetched, built offline with its locked wheels, and compared") {
  Builds builds;
  const std::string sha256 = builds.WheelHash();
  const ImagePlan plan = builds.Locked(sha256);
  const auto done = builds.Ensure(plan);
  REQUIRE_MESSAGE(done, done.error().Text());
  CHECK(builds.ran == std::vector<std::string>{"wheel"});
  CHECK(fs::exists(builds.world.store.DownloadPath(sha256, builds.source.wheel)));
  REQUIRE(builds.Ensure(plan));
  CHECK(builds.ran.size() == 1);
  CHECK(fs::is_empty(builds.world.store.Temp()));
}

TEST_CASE("a build that fails, or gives something else, says so") {
  Builds builds;
  const std::string sha256 = builds.WheelHash();
  const ImagePlan plan = builds.Locked(sha256);
  builds.exit_code = 1;
  const auto failed = builds.Ensure(plan);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().Text() ==
        "error: building srconly-0.5.tar.gz: its build ended with exit code 1\n"
        "  gcc: fatal error: no such file\n"
        "  All that it said: " +
            (builds.world.store.data / "sdist.log").string() +
            "\n"
            "  Builds have no network, no GPU and no nvcc. Where it needs one, make the wheel "
            "yourself and name it:\n"
            "  packages = [\"./wheels/….whl\"]\n");
  builds.log = "Traceback:\nModuleNotFoundError: No module named 'torch'\n";
  const auto module = builds.Ensure(plan);
  REQUIRE_FALSE(module);
  CHECK(
      module.error().Text() ==
      "error: building srconly-0.5.tar.gz: its build imports torch, which its pyproject.toml does "
      "not require\n"
      "  Make a wheel of it once, for CPython 3.13 on x86_64, and name that in [environment] "
      "packages:\n"
      "    pip wheel --no-deps srconly==0.5 -w wheels\n"
      "    packages = [\"./wheels/….whl\"]\n");
  builds.exit_code = 0;
  builds.content = "x = 2\n";
  const auto other = builds.Ensure(plan);
  REQUIRE_FALSE(other);
  CHECK(other.error().Text() ==
        "error: the wheel that srconly-0.5.tar.gz gives here is not the locked one\n"
        "locked  " +
            sha256 + "\nbuilt   " + builds.WheelHash() +
            "\n"
            "  Its build is not the same each time. Keep a wheel of it in the project:\n"
            "  packages = [\"./wheels/….whl\"]\n");
  builds.source.wheel = "another-0.5-py3-none-any.whl";
  CHECK(builds.Ensure(plan).error().Text() ==
        "error: building srconly-0.5.tar.gz: its build left no wheel of it\n");
  builds.world.lock.sources.clear();
  const auto unknown = builds.Ensure(plan);
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().what ==
        "envkit.lock does not say what srconly-0.5-py3-none-any.whl is built from");
}

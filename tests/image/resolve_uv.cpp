// uv where none is installed: the pinned wheel, from the index or by pip, and what uv's default is.
#include <doctest/doctest.h>
#include <sys/utsname.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "base/scratch.h"
#include "image/uv.h"
#include "resolve_server.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

constexpr char kFile[] = "uv-9.9.9-py3-none-any.whl";

class UvWorkplace {
 public:
  UvWorkplace() {
    REQUIRE(MakeDirectories(store.data / "tmp"));
    REQUIRE(MakeDirectories(store.data / "locks"));
    REQUIRE(MakeDirectories(store.cache));
    // Too old to be taken, wherever another one may be installed.
    Program("uv", "#!/bin/sh\necho uv 0.1.0\n");
    // pip, in short: it puts the file that is asked for into the directory after -d.
    Program("pip",
            "while [ $# -gt 0 ]; do case $1 in -d) d=$2;; -r) cp \"$2\" \"$FAKE/pip.asked\";; esac;"
            " shift; done\n[ -e \"$FAKE/pip.fails\" ] && { cat \"$FAKE/pip.fails\" >&2; exit 1; }\n"
            "mkdir -p \"$d\" && cp \"$FAKE/wheel\" \"$d/uv-9.9.9-py3-none-any.whl\"\n");
    Wheel("uv-9.9.9.data/scripts/uv",
          "#!/bin/sh\ncase $1 in --version) echo uv 9.9.9;; *) echo \"$@\" >> \"$FAKE/uv.called\"; "
          "cat \"$FAKE/uv.says\";; esac\n");
    Write("uv.says", "--index-url http://example.com/simple\n\n");
    Program("python3", "#!/bin/sh\nexec sh \"$FAKE/bin/pip\" \"$@\"\n");
    Set("FAKE", scratch.path().string());
    Set("PATH", (scratch / "bin").string() + ":" + std::getenv("PATH"));
    Set("ENVKIT_SHARE", (scratch / "share").string());
    Pin();
  }
  ~UvWorkplace() {
    for (const auto& [name, value] : kept_) {
      value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
    }
  }
  // A wheel with one member, made before python3 is our own stand-in.
  void Wheel(const std::string& member, const std::string& content) {
    Write("content", content);
    ProcessSpec spec;
    spec.argv = {"/usr/bin/env",
                 "PATH=/usr/local/bin:/usr/bin:/bin",
                 "python3",
                 "-c",
                 "import sys, zipfile\n"
                 "with zipfile.ZipFile(sys.argv[1], 'w') as z: z.write(sys.argv[2], sys.argv[3])",
                 (scratch / "wheel").string(),
                 (scratch / "content").string(),
                 member};
    REQUIRE(RunForOutput(spec));
  }
  void Pin() {
    utsname system{};
    uname(&system);
    const auto wheel = ReadFile(scratch / "wheel");
    REQUIRE(wheel);
    sha256 = Sha256Of(*wheel);
    Write("share/images/uv.toml", "least = \"0.9.0\"\n[" + std::string(system.machine) +
                                      "]\nfile = \"" + kFile + "\"\nsha256 = \"" + sha256 +
                                      "\"\nsize = " + std::to_string(wheel->size()) + "\n");
  }
  void Write(const std::string& name, const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch / name, text));
  }
  void Program(const std::string& name, const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch / "bin" / name, text, 0755));
  }
  std::string Read(const std::string& name) const {
    const auto text = ReadFile(scratch / name);
    return text ? *text : "";
  }
  Result<fs::path> Ensure(const PythonIndexes& indexes = {}) {
    return EnsureUv(indexes, store, terminal);
  }
  std::string Failure() {
    const auto program = Ensure();
    REQUIRE_FALSE(program);
    return program.error().Text();
  }

  Scratch scratch;
  Store store{scratch / "cache", scratch / "data"};
  Terminal terminal{[] {
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    return options;
  }()};
  std::string sha256;

 private:
  void Set(const std::string& name, const std::string& value) {
    const char* before = std::getenv(name.c_str());
    kept_.emplace(name, before == nullptr ? std::nullopt : std::optional<std::string>(before));
    setenv(name.c_str(), value.c_str(), 1);
  }
  std::map<std::string, std::optional<std::string>> kept_;
};

}  // namespace

TEST_CASE("the uv on PATH is taken where it is new enough") {
  UvWorkplace work;
  work.Program("uv", "#!/bin/sh\necho uv 0.9.0\n");
  CHECK(work.Ensure() == work.scratch / "bin/uv");
  // Also where no wheel is pinned for the machine.
  work.Write("share/images/uv.toml", "least = \"0.9.0\"\n");
  CHECK(work.Ensure() == work.scratch / "bin/uv");
  work.Program("uv", "#!/bin/sh\necho uv 0.8.99\n");
  CHECK(work.Failure().find("uv is not installed, and none is pinned for ") != std::string::npos);
}

TEST_CASE("the pinned uv comes from the user's index, once") {
  UvWorkplace work;
  LocalServer server({{"/simple/uv/", "<a href='/f/" + std::string(kFile) + "'>uv</a>"},
                      {"/f/" + std::string(kFile), work.Read("wheel")}});
  PythonIndexes indexes;
  indexes.main = server.Url() + "/simple";
  const auto program = work.Ensure(indexes);
  REQUIRE_MESSAGE(program, program.error().Text());
  CHECK(*program == work.store.cache / "tools" / work.sha256 / "uv");
  ProcessSpec spec;
  spec.argv = {program->string(), "--version"};
  CHECK(RunForOutput(spec) == "uv 9.9.9\n");
  CHECK(work.Read("pip.asked").empty());
  const std::size_t asked = server.Requests().size();
  CHECK(work.Ensure(indexes));
  CHECK(server.Requests().size() == asked);
}

TEST_CASE("without any index pip fetches uv, and uv tells its default, which is remembered") {
  UvWorkplace work;
  const auto indexes = CompleteIndexes({}, work.store, work.terminal);
  REQUIRE_MESSAGE(indexes, indexes.error().Text());
  CHECK(indexes->main == "http://example.com/simple");
  CHECK(indexes->Describe() == "http://example.com/simple (uv's default)");
  CHECK(work.Read("pip.asked") == "uv==9.9.9 --hash=sha256:" + work.sha256 + "\n");
  CHECK(work.Read("uv.called").find("--emit-index-url") != std::string::npos);
  work.Write("uv.called", "");
  CHECK(CompleteIndexes({}, work.store, work.terminal)->main == "http://example.com/simple");
  CHECK(work.Read("uv.called").empty());

  PythonIndexes given;
  given.main = "http://example.org/simple";
  CHECK(CompleteIndexes(given, work.store, work.terminal)->main == given.main);
}

TEST_CASE("what can go wrong with uv says so") {
  UvWorkplace work;
  work.Write("pip.fails", "ERROR: No matching distribution found for uv==9.9.9\n");
  CHECK(work.Failure() ==
        "error: fetching uv, which resolves Python packages: pip could not fetch "
        "uv-9.9.9-py3-none-any.whl\n"
        "ERROR: No matching distribution found for uv==9.9.9\n"
        "  Check the network, or install uv, or name your index: UV_DEFAULT_INDEX, uv.toml or "
        "pip.conf.\n");
  CHECK(work.Ensure().error().code == ExitCode::kMissing);
  // Retries say one thing five times; its reason is shown once, and the proxy without its password.
  work.Write("pip.fails",
             "WARNING: Retrying (Retry(total=1)) after connection broken by 'ProxyError('Cannot "
             "connect to proxy.', NewConnectionError('<pip.HTTPSConnection object at 0x7f>: Failed "
             "to establish a new connection: [Errno 111] Connection refused'))': /simple/uv/\n"
             "WARNING: Retrying (Retry(total=0)) after connection broken by 'ProxyError('Cannot "
             "connect to proxy.', NewConnectionError('<pip.HTTPSConnection object at 0x7e>: Failed "
             "to establish a new connection: [Errno 111] Connection refused'))': /simple/uv/\n"
             "ERROR: No matching distribution found for uv==9.9.9\n");
  setenv("https_proxy", "http://ana:secret@127.0.0.1:9", 1);
  const std::string refused = work.Failure();
  unsetenv("https_proxy");
  CHECK(refused ==
        "error: fetching uv, which resolves Python packages: pip could not fetch "
        "uv-9.9.9-py3-none-any.whl\n"
        "ProxyError('Cannot connect to proxy.', NewConnectionError('Failed to establish a new "
        "connection: [Errno 111] Connection refused'))\n"
        "  The proxy is http://127.0.0.1:9 (https_proxy).\n"
        "  Check the network, or install uv, or name your index: UV_DEFAULT_INDEX, uv.toml or "
        "pip.conf.\n");
  fs::remove(work.scratch / "pip.fails");

  const std::string pinned = work.sha256;
  const std::string wheel = work.Read("wheel");
  work.Write("wheel", "something else");
  CHECK(work.Failure() ==
        "error: fetching uv, which resolves Python packages: "
        "uv-9.9.9-py3-none-any.whl has the wrong sha256\nexpected  " +
            pinned + "\ngot       " + Sha256Of("something else") + "\n");
  CHECK_FALSE(fs::exists(work.store.DownloadPath(pinned, kFile)));

  work.Wheel("uv-9.9.9.data/scripts/other", "x");
  work.Pin();
  CHECK(work.Failure() == "error: fetching uv, which resolves Python packages: " +
                              work.store.DownloadPath(work.sha256, kFile).string() +
                              " holds no uv\n");

  work.Write("wheel", wheel);
  work.Pin();
  work.Write("uv.says", "nothing to say\n");
  const auto indexes = CompleteIndexes({}, work.store, work.terminal);
  REQUIRE_FALSE(indexes);
  CHECK(indexes.error().Text() ==
        "error: uv names no default index\nnothing to say\n"
        "  Name your index: UV_DEFAULT_INDEX, uv.toml or pip.conf.\n");
}

// From envkit.toml to envkit.lock, with stand-ins for uv and apt on PATH: what they are told, and
// what is made of what they say.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/files.h"
#include "base/scratch.h"
#include "image/resolve.h"
#include "resolve_server.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

std::string Hash(char digit) { return std::string(64, digit); }

// uv writes what `pylock` holds, and notes how it was called; apt prints what `uris` holds.
constexpr char kUv[] = R"(#!/bin/sh
[ "$1" = --version ] && { echo "uv 1.0.0"; exit 0; }
{ echo "$@"; cat requirements.in; env | grep '^UV_' | sort; } > "$FAKE/uv.called"
[ -e pylock.toml ] && cp pylock.toml "$FAKE/uv.preferred"
[ -e "$FAKE/uv.fails" ] && { cat "$FAKE/uv.fails" >&2; exit 2; }
cp "$FAKE/pylock" pylock.toml
)";
constexpr char kApt[] = R"(#!/bin/sh
echo "$@" >> "$FAKE/apt.called"
case $1 in
  update) [ -e "$FAKE/apt.fails" ] && { cat "$FAKE/apt.fails" >&2; exit 100; }; cp "$APT_CONFIG" "$FAKE/apt.conf" ;;
  install) cat "$FAKE/uris" ;;
esac
exit 0
)";

class Workplace {
 public:
  Workplace() {
    Program("uv", kUv);
    Program("apt-get", kApt);
    Program("apt-config",
            "#!/bin/sh\necho 'Acquire::http::Proxy \"http://example.com:3128\";'\n"
            "echo 'APT::Update::Post-Invoke:: \"touch /nonexistent\";'\n");
    Set("PATH", (scratch_ / "bin").string() + ":" + Get("PATH"));
    Set("FAKE", scratch_.path().string());
    Set("ENVKIT_STORE", (scratch_ / "store").string());
    Set("ENVKIT_SHARE", std::string(Get("ENVKIT_SOURCE_DIR")));
    Set("ENVKIT_DEBIAN_MIRROR", "http://example.com/debian");
    Set("UV_DEFAULT_INDEX", "http://ana:secret@example.com/simple");
    Set("UV_INDEX_URL", "http://example.com/older");
    Pylock("2.15.0", "13.2.2");
    Write("uris", Uri("libc6", "2.41-1", '1') + Uri("zlib1g", "1:1.3", '2'));
    Toml("");
  }
  ~Workplace() {
    for (const auto& [name, value] : kept_) {
      if (value) {
        setenv(name.c_str(), value->c_str(), 1);
      } else {
        unsetenv(name.c_str());
      }
    }
  }
  static std::string Uri(const std::string& name, const std::string& version, char hash) {
    return "'http://example.com/debian/pool/main/x/" + name + "_1_amd64.deb' " + name + "_" +
           version + "_amd64.deb 10 SHA256:" + Hash(hash) + "\n";
  }
  void Pylock(const std::string& torch, const std::string& cuda, const std::string& runtime = "") {
    std::string text = Package("torch", torch, "cp313-cp313-manylinux_2_28_x86_64", 'a');
    if (!cuda.empty()) text += Package("cuda-toolkit", cuda, "py3-none-any", 'b');
    if (!runtime.empty()) {
      text += Package("nvidia-cuda-runtime-cu12", runtime, "py3-none-any", 'c');
    }
    Write("pylock", text);
  }
  void Toml(const std::string& environment) {
    Write("project/envkit.toml",
          "schema = 1\n[project]\nname = \"p\"\n[environment]\n" + environment);
  }
  void Write(const std::string& name, const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch_ / name, text));
  }
  std::string Read(const std::string& name) const {
    const auto text = ReadFile(scratch_ / name);
    return text ? *text : "";
  }
  void Remove(const std::string& name) { fs::remove(scratch_ / name); }
  // As on a machine without any setting of pip's or uv's.
  void NoIndex() {
    for (const char* name : {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL",
                             "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_CONFIG_FILE"})
      Set(name, "");
    Set("UV_NO_CONFIG", "1");
    Set("PIP_CONFIG_FILE", "/dev/null");
  }
  Result<LockReport> Update(const LockRequest& request = {}) {
    const auto project = LoadProject(scratch_ / "project");
    REQUIRE(project);
    const Recipes recipes{{"builder", {"builder", {"g++"}, {"cuda-toolkit[crt]"}, {}}},
                          {"train", {"train", {"zlib1g"}, {}, {}}}};
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    Terminal terminal(options);
    return UpdateLock(*project, recipes, request, terminal);
  }
  std::string Failure(const LockRequest& request = {}) {
    const auto report = Update(request);
    REQUIRE_FALSE(report);
    return report.error().Text();
  }

 private:
  static const char* Get(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  }
  void Set(const std::string& name, const std::string& value) {
    const char* before = std::getenv(name.c_str());
    kept_.emplace(name, before == nullptr ? std::nullopt : std::optional<std::string>(before));
    setenv(name.c_str(), value.c_str(), 1);
  }
  void Program(const std::string& name, const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch_ / "bin" / name, text, 0755));
  }
  static std::string Package(const std::string& name, const std::string& version,
                             const std::string& tag, char hash) {
    std::string file = name;
    std::replace(file.begin(), file.end(), '-', '_');
    file += "-" + version + "-" + tag + ".whl";
    return "[[packages]]\nname = \"" + name + "\"\nversion = \"" + version +
           "\"\nwheels = [{ url = \"http://example.com/" + file +
           "\", upload-time = 2026-10-28T02:51:00Z, size = 9, hashes = { sha256 = \"" + Hash(hash) +
           "\" } }]\n";
  }

  Scratch scratch_;
  std::map<std::string, std::optional<std::string>> kept_;
};

}  // namespace

TEST_CASE("envkit.toml becomes envkit.lock") {
  Workplace work;
  work.Toml("packages = [\"six>1\"]\nsystem = [\"git\"]\n");
  const auto report = work.Update();
  REQUIRE_MESSAGE(report, report.error().Text());
  CHECK(report->resolved);
  CHECK(report->changed);
  CHECK(report->lock.torch == "2.15.0");
  CHECK(report->lock.cuda == "13.2");
  CHECK(report->lock.source_date_epoch == 1793155860);
  REQUIRE(report->lock.debs.size() == 2);
  CHECK(report->lock.debs[1].version == "1:1.3");
  CHECK(report->lock.debs[1].roots == std::vector<std::string>{"builder", "train"});
  const auto written = ParseLock(work.Read("project/envkit.lock"), "envkit.lock");
  REQUIRE(written);
  CHECK(written->Digest() == report->lock.Digest());
  // No host's name is in it.
  CHECK(work.Read("project/envkit.lock").find("example.com") == std::string::npos);

  const std::string uv = work.Read("uv.called");
  CHECK(uv.find("torch==2.15.*\ncuda-toolkit[crt]\nsix>1\n") != std::string::npos);
  CHECK(uv.find("UV_DEFAULT_INDEX=http://ana:secret@example.com/simple\n") != std::string::npos);
  CHECK(uv.substr(0, uv.find('\n')).find("example.com") == std::string::npos);
  CHECK(uv.find("UV_INDEX_URL") == std::string::npos);
  const std::string apt = work.Read("apt.called");
  CHECK(apt.find("install -qq --print-uris ?essential ?priority(required) g++\n") !=
        std::string::npos);
  CHECK(apt.find("?priority(required) zlib1g git\n") != std::string::npos);
  // The host's way to the network is apt's, its hooks are not.
  CHECK(work.Read("apt.conf").find("Acquire::http::Proxy \"http://example.com:3128\";\n") == 0);
  CHECK(work.Read("apt.conf").find("Invoke") == std::string::npos);
  CHECK(work.Read("store/tmp").empty());
  CHECK(fs::is_empty(fs::path(std::getenv("ENVKIT_STORE")) / "tmp"));
}

TEST_CASE("an unchanged input leaves the lock alone") {
  Workplace work;
  REQUIRE(work.Update());
  work.Remove("uv.called");
  const std::string before = work.Read("project/envkit.lock");
  const auto again = work.Update();
  REQUIRE(again);
  CHECK_FALSE(again->resolved);
  CHECK(work.Read("uv.called").empty());
  CHECK(work.Read("project/envkit.lock") == before);
  const auto check = work.Update({true, std::nullopt});
  REQUIRE(check);
  CHECK_FALSE(check->resolved);
}

TEST_CASE("a stale lock names the change, and is never mended by a check") {
  Workplace work;
  CHECK(work.Failure({true, std::nullopt}) ==
        "error: envkit.lock does not fit envkit.toml\nthere is no envkit.lock\n  envkit lock\n");
  REQUIRE(work.Update());
  work.Toml("torch = \"2.14\"\n");
  const std::string before = work.Read("project/envkit.lock");
  const auto check = work.Update({true, std::nullopt});
  REQUIRE_FALSE(check);
  CHECK(check.error().code == ExitCode::kFailed);
  CHECK(check.error().Text() ==
        "error: envkit.lock does not fit envkit.toml\n"
        "environment.torch: \"2.15\" → \"2.14\"\n"
        "  envkit lock\n");
  CHECK(work.Read("project/envkit.lock") == before);
}

TEST_CASE("locked versions are kept unless an upgrade is asked for") {
  Workplace work;
  REQUIRE(work.Update());
  CHECK(work.Read("uv.preferred").empty());
  work.Toml("packages = [\"six\"]\n");
  REQUIRE(work.Update());
  const std::string preferred = work.Read("uv.preferred");
  CHECK(preferred.find("name = \"cuda-toolkit\"\nversion = \"13.2.2\"") != std::string::npos);
  CHECK(preferred.find("name = \"torch\"\nversion = \"2.15.0\"") != std::string::npos);

  work.Pylock("2.15.1", "13.2.2");
  const auto one = work.Update({false, "Torch"});
  REQUIRE(one);
  CHECK(work.Read("uv.preferred").find("torch") == std::string::npos);
  CHECK(work.Read("uv.preferred").find("cuda-toolkit") != std::string::npos);
  CHECK(one->diff == "- torch 2.15.0\n+ torch 2.15.1");

  work.Remove("uv.preferred");
  work.Remove("uv.called");
  work.Write("uris", Workplace::Uri("libc6", "2.41-2", '3'));
  const auto system = work.Update({false, "system"});
  REQUIRE(system);
  CHECK(work.Read("uv.called").empty());
  CHECK(system->lock.wheels.size() == 2);
  CHECK(system->lock.source_date_epoch == 1793155860);
  CHECK(system->diff == "- libc6 2.41-1\n+ libc6 2.41-2\n- zlib1g 1:1.3");

  const auto all = work.Update({false, ""});
  REQUIRE(all);
  CHECK(work.Read("uv.preferred").empty());
  CHECK_FALSE(all->changed);
  CHECK(work.Failure({false, "nosuch"}) ==
        "error: --upgrade nosuch: no such package is in envkit.lock\n"
        "  Name one of its wheels, or system for the Debian part.\n");
}

TEST_CASE("a damaged lock is made anew; a check says what is wrong with it") {
  Workplace work;
  work.Write("project/envkit.lock", "<<<<<<< HEAD\n");
  CHECK(work.Failure({true, std::nullopt}).find("envkit.lock:1:1: error:") != std::string::npos);
  const auto report = work.Update();
  REQUIRE(report);
  CHECK(report->changed);
}

TEST_CASE("CUDA follows from the build of torch that the index has") {
  Workplace work;
  work.Toml("cuda = \"12.6\"\n");
  CHECK(
      work.Failure() ==
      "envkit.toml:5:8: error: this index's build of PyTorch 2.15.0 is for CUDA 13.2, not 12.6\n"
      "    5 | cuda = \"12.6\"\n"
      "      |        ^^^^^^\n"
      "  Choose cuda = \"13.2\" or \"auto\", or an index that has the other build ([index] in this "
      "file).\n"
      "  The index is http://example.com/simple (UV_DEFAULT_INDEX).\n");
  CHECK(work.Read("project/envkit.lock").empty());
  work.Toml("cuda = \"13.2\"\n");
  CHECK(work.Update());
  work.Toml("cuda = \"cpu\"\n");
  const auto cpu = work.Update();
  REQUIRE(cpu);
  CHECK(cpu->lock.cuda == "13.2");

  work.Pylock("2.15.0+cpu", "");
  work.Toml("cuda = \"auto\"\n");
  CHECK(work.Failure().starts_with(
      "envkit.toml:5:8: error: the index's PyTorch 2.15.0 has no CUDA in it: torch-2.15.0+cpu-"));
}

TEST_CASE("a pair that never existed is refused before anything is resolved") {
  Workplace work;
  work.Toml("torch = \"2.8\"\ncuda = \"12.1\"\n");
  CHECK(work.Failure() ==
        "envkit.toml:6:8: error: PyTorch 2.8 has no build for CUDA 12.1\n"
        "    6 | cuda = \"12.1\"\n"
        "      |        ^^^^^^\n"
        "  It was built for CUDA 12.6, 12.8 (default index) and 12.9.\n"
        "  The nearest that exists is cuda = \"12.6\"; the default index does not serve it: name "
        "one that does in [index].\n"
        "  On the default index the nearest is cuda = \"12.8\".\n"
        "  Details: envkit matrix --torch 2.8\n");
  work.Toml("torch = \"2.6\"\nbase = \"docker://x@sha256:" + Hash('a') + "\"\npython = \"3.14\"\n");
  CHECK(work.Failure().starts_with(
      "envkit.toml:5:9: error: PyTorch 2.6.0 has no wheel for Python 3.14\n"));
  CHECK(work.Read("uv.called").empty());
  CHECK(work.Read("apt.called").empty());
  CHECK(work.Read("project/envkit.lock").empty());
}

TEST_CASE("a build that the default index does not serve needs an index that does") {
  Workplace work;
  work.NoIndex();
  work.Toml("torch = \"2.11\"\ncuda = \"12.8\"\n");
  CHECK(work.Failure() ==
        "envkit.toml:6:8: error: PyTorch 2.11 for CUDA 12.8 is not on the default index\n"
        "    6 | cuda = \"12.8\"\n"
        "      |        ^^^^^^\n"
        "  Name an index that has it in [index].\n"
        "  The default index serves cuda = \"13.0\" for this version.\n"
        "  Details: envkit matrix --torch 2.11\n");
  CHECK(work.Read("uv.called").empty());
  // With one, its answer counts.
  work.Toml("torch = \"2.11\"\ncuda = \"12.8\"\n[index]\nmine = \"http://example.com/simple\"\n");
  CHECK(work.Failure().find("is for CUDA 13.2, not 12.8") != std::string::npos);
  CHECK_FALSE(work.Read("uv.called").empty());
}

TEST_CASE("auto takes what this machine's driver runs") {
  Workplace work;
  LockRequest here;
  here.machine.driver = "550.54.14";
  const std::string remedy =
      "  Take torch = \"2.10\" with CUDA 12.8, the newest of the default index that driver "
      "550.54.14 runs,\n"
      "  or update the driver to 580 or newer.\n"
      "  To lock for other machines, write cuda = \"13.2\".\n";
  work.Toml("torch = \"2.15\"\n");
  // An index of the user's own may have any build: it is asked first.
  CHECK(work.Failure(here) ==
        "envkit.toml:5:9: error: this machine cannot run the index's build of PyTorch 2.15.0: CUDA "
        "13.2 needs NVIDIA driver 580 or newer, and this is 550.54.14\n"
        "    5 | torch = \"2.15\"\n"
        "      |         ^^^^^^\n" +
            remedy);
  CHECK(work.Read("project/envkit.lock").empty());
  work.Pylock("2.15.0", "12.6.3");
  CHECK(work.Update(here)->lock.cuda == "12.6");

  work.NoIndex();
  work.Remove("uv.called");
  work.Toml("torch = \"2.15\"\nsystem = [\"git\"]\n");
  CHECK(work.Failure(here) ==
        "envkit.toml:5:9: error: this machine cannot run PyTorch 2.15: CUDA 13.2 needs NVIDIA "
        "driver 580 or newer, and this is 550.54.14\n"
        "    5 | torch = \"2.15\"\n"
        "      |         ^^^^^^\n" +
            remedy);
  CHECK(work.Read("uv.called").empty());
  // The Debian part has nothing to do with it, and a lock that fits is left alone.
  work.Toml("torch = \"2.15\"\n");
  here.upgrade = "system";
  CHECK(work.Update(here));
}

TEST_CASE("a CUDA that is written down is locked for other machines too") {
  Workplace work;
  LockRequest here;
  here.machine.driver = "550.54.14";
  work.Toml("torch = \"2.15\"\ncuda = \"13.2\"\n");
  CHECK(work.Update(here)->lock.cuda == "13.2");
}

TEST_CASE("a torch of CUDA 12 gets the toolkit of its own CUDA") {
  Workplace work;
  work.Toml("torch = \"2.10\"\n");
  // What uv says to the first question: the newest toolkit beside torch's own runtime.
  work.Pylock("2.10.0", "13.5.0", "12.8.90");
  const auto report = work.Update();
  REQUIRE_MESSAGE(report, report.error().Text());
  CHECK(report->lock.cuda == "12.8");
  CHECK(work.Read("uv.called").find("\ncuda-toolkit[nvcc]==12.8.*\n") != std::string::npos);
}

TEST_CASE("what uv or apt cannot do leaves the old lock in place") {
  Workplace work;
  REQUIRE(work.Update());
  const std::string before = work.Read("project/envkit.lock");
  work.Write("uv.fails", "error: No solution found\n  cause: you require six>99\n");
  CHECK(work.Failure({false, ""}) ==
        "error: locking: uv could not resolve the Python packages\n"
        "No solution found\n"
        "  cause: you require six>99\n"
        "  Change torch, python or packages in [environment] of envkit.toml so that they fit "
        "together.\n");
  work.Remove("uv.fails");
  work.Write("apt.fails", "E: Failed to fetch: Could not connect\n");
  const auto offline = work.Update({false, ""});
  REQUIRE_FALSE(offline);
  CHECK(offline.error().code == ExitCode::kMissing);
  CHECK(offline.error().Text() ==
        "error: locking: apt could not resolve the Debian packages\n"
        "E: Failed to fetch: Could not connect\n"
        "  The mirror is http://example.com/debian (ENVKIT_DEBIAN_MIRROR).\n"
        "  Check the network and its proxy, or name another mirror: ENVKIT_DEBIAN_MIRROR.\n");
  CHECK(work.Read("project/envkit.lock") == before);
}

TEST_CASE("a diff names what differs, a line each") {
  Lock before;
  before.wheels = {{"a", "1", "a-1.whl", Hash('1'), 0}, {"b", "1", "b-1.whl", Hash('2'), 0}};
  Lock after = before;
  CHECK(LockDiff(before, after).empty());
  after.wheels[0].version = "2";
  after.wheels[1].sha256 = Hash('3');
  after.debs = {{"libc6", "2", "amd64", "trixie", "pool/x", Hash('4'), 1, {"train"}}};
  CHECK(LockDiff(before, after) == "- a 1\n+ a 2\n~ b 1 (another file)\n+ libc6 2");
  CHECK(LockDiff(after, before) == "- a 2\n+ a 1\n~ b 1 (another file)\n- libc6 2");
}

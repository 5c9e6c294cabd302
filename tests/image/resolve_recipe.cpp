// The image profiles.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/files.h"
#include "base/scratch.h"
#include "image/recipe.h"

using namespace envkit;

namespace {

std::string Source() {
  const char* source = std::getenv("ENVKIT_SOURCE_DIR");
  return source != nullptr ? source : "../..";
}

bool Has(const std::vector<std::string>& list, const std::string& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

TEST_CASE("envkit's own profiles") {
  const auto recipes = LoadRecipes(Source() + "/images");
  REQUIRE(recipes);
  REQUIRE(recipes->contains("train"));
  REQUIRE(recipes->contains("builder"));
  const Recipe& train = recipes->at("train");
  CHECK(train.profile == "train");
  CHECK(Has(train.debian, "libstdc++6"));
  for (const std::string& package : train.debian)
    CHECK(package.find("python") == std::string::npos);
  // The cpu variant is these three wheels and no other.
  std::vector<std::string> cpu;
  for (const WheelSelection& wheel : train.wheels) {
    CHECK((wheel.variant == "both" || wheel.variant == "cuda" || wheel.variant == "aarch64"));
    CHECK_FALSE(wheel.members.empty());
    if (wheel.variant == "both") cpu.push_back(wheel.name);
  }
  CHECK(std::count_if(train.wheels.begin(), train.wheels.end(),
                      [](const WheelSelection& wheel) { return wheel.if_locked; }) == 4);
  std::sort(cpu.begin(), cpu.end());
  CHECK(cpu == std::vector<std::string>{"nvidia-cuda-cupti", "nvidia-cuda-runtime", "torch"});
}

TEST_CASE("a profile is its file") {
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "profiles/x.toml",
                          "debian = [\"b\", \"a\"]\nrequirements = [\"r\"]\n"
                          "[wheels.both]\nt = []\n[wheels.cpu]\nu = [\"x/*\"]\n"));
  REQUIRE(WriteFileAtomic(scratch / "profiles/notes.txt", "not one"));
  const auto recipes = LoadRecipes(scratch.path());
  REQUIRE(recipes);
  REQUIRE(recipes->size() == 1);
  const Recipe& x = recipes->at("x");
  CHECK(x.debian == std::vector<std::string>{"b", "a"});
  CHECK(x.requirements == std::vector<std::string>{"r"});
  REQUIRE(x.wheels.size() == 2);
  CHECK(x.wheels[0].name == "t");
  CHECK(x.wheels[0].members.empty());
  CHECK(x.wheels[1].variant == "cpu");
  CHECK(x.wheels[1].members == std::vector<std::string>{"x/*"});
}

TEST_CASE("mistakes in a profile have a place") {
  const Scratch scratch;
  const std::string file = (scratch / "profiles/x.toml").string();
  REQUIRE(WriteFileAtomic(file, "debain = []\n[wheels.gpu]\nt = []\n"));
  const auto recipes = LoadRecipes(scratch.path());
  REQUIRE_FALSE(recipes);
  CHECK(recipes.error().Text().find(file + ":1:1: error:") != std::string::npos);
  CHECK(recipes.error().Text().find(file + ":2:") != std::string::npos);
}

TEST_CASE("without profiles there is nothing to build") {
  const Scratch scratch;
  const auto recipes = LoadRecipes(scratch.path());
  REQUIRE_FALSE(recipes);
  CHECK(recipes.error().Text() ==
        "error: no image profiles in " + (scratch / "profiles").string() +
            "\n  They are part of envkit: install it again, or let ENVKIT_SHARE name the directory "
            "that holds images/ and runtime/.\n");
}

TEST_CASE("the digest covers what is locked, in any order, and nothing else") {
  Recipes recipes{{"train", {"train", {"a", "b"}, {"x", "y"}, {}}}};
  const std::string digest = RecipesDigest(recipes);
  recipes["train"].debian = {"b", "a"};
  recipes["train"].requirements = {"y", "x"};
  recipes["train"].wheels = {{"torch", "both", {"*"}}};
  CHECK(RecipesDigest(recipes) == digest);
  recipes["train"].debian.emplace_back("c");
  CHECK(RecipesDigest(recipes) != digest);
  recipes["train"].debian.pop_back();
  recipes["train"].requirements.emplace_back("z");
  CHECK(RecipesDigest(recipes) != digest);
}

TEST_CASE("envkit's own files are where ENVKIT_SHARE says, else beside the program") {
  const Scratch scratch;
  const char* before = std::getenv("ENVKIT_SHARE");
  const std::string kept = before != nullptr ? before : "";
  setenv("ENVKIT_SHARE", scratch.path().c_str(), 1);
  const auto missing = ShareDirectory();
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == ExitCode::kMissing);
  CHECK(missing.error().Text() ==
        "error: envkit's own files are not in " + scratch.path().string() +
            "\n  Install it again, or let ENVKIT_SHARE name the directory that holds images/ and "
            "runtime/.\n");
  REQUIRE(MakeDirectories(scratch / "images"));
  CHECK(ShareDirectory() == scratch.path());
  unsetenv("ENVKIT_SHARE");
  CHECK(ShareDirectory());
  if (!kept.empty()) setenv("ENVKIT_SHARE", kept.c_str(), 1);
}

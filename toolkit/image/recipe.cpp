#include "image/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/toml.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

std::vector<std::string> Values(const std::optional<Located<std::vector<TomlString>>>& strings) {
  std::vector<std::string> values;
  if (strings) {
    for (const TomlString& string : strings->value) values.push_back(string.value);
  }
  return values;
}

std::vector<std::string> Sorted(std::vector<std::string> values) {
  std::sort(values.begin(), values.end());
  return values;
}

Result<Recipe> ReadRecipe(const fs::path& file) {
  ENVKIT_TRY(const std::string text, ReadFile(file));
  TomlDocument document(text, file.string());
  TomlTable root = document.Root();
  Recipe recipe;
  recipe.profile = file.stem().string();
  recipe.debian = Values(root.Strings("debian"));
  recipe.requirements = Values(root.Strings("requirements"));
  TomlTable wheels = root.Table("wheels");
  for (const char* key : {"both", "cpu", "cuda", "cuda-if-locked"}) {
    TomlTable table = wheels.Table(key);
    if (!table) continue;
    const bool if_locked = std::string_view(key) == "cuda-if-locked";
    for (const TomlString& name : table.Keys()) {
      recipe.wheels.push_back(
          {name.value, if_locked ? "cuda" : key, Values(table.Strings(name.value)), if_locked});
    }
  }
  wheels.RejectUnknownKeys();
  root.RejectUnknownKeys();
  ENVKIT_CHECK(document.Check());
  return recipe;
}

}  // namespace

Result<Recipes> LoadRecipes(const fs::path& directory) {
  Recipes recipes;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory / "profiles", error)) {
    if (entry.path().extension() != ".toml") continue;
    auto recipe = ReadRecipe(entry.path());
    if (!recipe) return Wrap(recipe.error(), "reading the image profiles");
    recipes.emplace(recipe->profile, std::move(*recipe));
  }
  if (error || recipes.empty()) {
    return Missing(fmt::format("no image profiles in {}", (directory / "profiles").string()),
                   "They are part of envkit: install it again, or let ENVKIT_SHARE name the "
                   "directory that holds images/ and runtime/.");
  }
  return recipes;
}

std::string RecipesDigest(const Recipes& recipes) {
  nlohmann::json json;
  for (const auto& [profile, recipe] : recipes) {
    json[profile] = {{"debian", Sorted(recipe.debian)},
                     {"requirements", Sorted(recipe.requirements)}};
  }
  return Sha256Of(json.dump());
}

Result<fs::path> ShareDirectory() {
  std::error_code error;
  fs::path share;
  if (const char* given = std::getenv("ENVKIT_SHARE"); given != nullptr && *given != '\0') {
    share = fs::absolute(given, error);
  } else {
    share = fs::read_symlink("/proc/self/exe", error).parent_path().parent_path() / "share/envkit";
  }
  if (error || !fs::is_directory(share / "images", error)) {
    return Missing(fmt::format("envkit's own files are not in {}", share.string()),
                   "Install it again, or let ENVKIT_SHARE name the directory that holds images/ "
                   "and runtime/.");
  }
  return share;
}

}  // namespace envkit

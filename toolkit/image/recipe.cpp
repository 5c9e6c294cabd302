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

std::map<std::string, std::string> Texts(TomlTable table) {
  std::map<std::string, std::string> texts;
  if (!table) return texts;
  for (const TomlString& key : table.Keys()) {
    if (const auto value = table.String(key.value)) texts[key.value] = value->value;
  }
  return texts;
}

void Append(std::vector<std::string>& list, const std::vector<std::string>& more) {
  for (const std::string& one : more) {
    if (std::find(list.begin(), list.end(), one) == list.end()) list.push_back(one);
  }
}

struct RecipeFile {
  Recipe recipe;
  std::string extends;  // the file's stem of another one, or empty
};

Result<RecipeFile> ReadRecipe(const fs::path& file, const std::set<std::string>& options) {
  ENVKIT_TRY(const std::string text, ReadFile(file));
  TomlDocument document(text, file.string());
  TomlTable root = document.Root();
  RecipeFile read;
  Recipe& recipe = read.recipe;
  recipe.profile = file.stem().string();
  if (const auto extends = root.String("extends")) read.extends = extends->value;
  if (const auto closure = root.Bool("closure")) recipe.closure = closure->value;
  recipe.debian = Values(root.Strings("debian"));
  recipe.requirements = Values(root.Strings("requirements"));
  recipe.files = Texts(root.Table("files"));
  recipe.env = Texts(root.Table("env"));
  TomlTable wheels = root.Table("wheels");
  for (const char* key : {"both", "aarch64", "cpu", "cuda", "cuda-if-locked"}) {
    TomlTable table = wheels.Table(key);
    if (!table) continue;
    const bool if_locked = std::string_view(key) == "cuda-if-locked";
    for (const TomlString& name : table.Keys()) {
      recipe.wheels.push_back(
          {name.value, if_locked ? "cuda" : key, Values(table.Strings(name.value)), if_locked});
    }
  }
  wheels.RejectUnknownKeys();
  TomlTable left_out = root.Table("left_out");
  for (const char* variant : {"cpu", "cuda"}) {
    if (auto names = Values(left_out.Strings(variant)); !names.empty()) {
      recipe.left_out[variant] = std::move(names);
    }
  }
  left_out.RejectUnknownKeys();
  TomlTable choices = root.Table("options");
  for (const TomlString& name : choices ? choices.Keys() : std::vector<TomlString>{}) {
    TomlTable option = choices.Table(name.value);
    const auto debian = Values(option.Strings("debian"));
    const auto requirements = Values(option.Strings("requirements"));
    option.RejectUnknownKeys();
    if (!options.contains(name.value)) continue;
    Append(recipe.debian, debian);
    Append(recipe.requirements, requirements);
  }
  root.RejectUnknownKeys();
  ENVKIT_CHECK(document.Check());
  return read;
}

// What NAME is with all that it extends.
Result<Recipe> Complete(const std::map<std::string, RecipeFile>& files, const std::string& name,
                        std::vector<std::string> above = {}) {
  const auto there = files.find(name);
  const bool loop = std::find(above.begin(), above.end(), name) != above.end();
  if (there == files.end() || loop) {
    return Fail(loop ? fmt::format("the image profile {} extends itself", name)
                     : fmt::format("the image profile {} extends {}, and there is no such one",
                                   above.back(), name));
  }
  Recipe recipe = there->second.recipe;
  if (!there->second.extends.empty()) {
    above.push_back(name);
    ENVKIT_TRY(Recipe base, Complete(files, there->second.extends, std::move(above)));
    base.profile = recipe.profile;
    Append(base.debian, recipe.debian);
    Append(base.requirements, recipe.requirements);
    for (const auto& [directory, place] : recipe.files) base.files[directory] = place;
    base.wheels.insert(base.wheels.end(), recipe.wheels.begin(), recipe.wheels.end());
    base.closure = base.closure || recipe.closure;
    for (const auto& [variant, names] : recipe.left_out) Append(base.left_out[variant], names);
    for (const auto& [variable, value] : recipe.env) base.env[variable] = value;
    recipe = std::move(base);
  }
  recipe.chain.push_back(name);
  return recipe;
}

}  // namespace

Result<Recipes> LoadRecipes(const fs::path& directory, const std::set<std::string>& options) {
  std::map<std::string, RecipeFile> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory / "profiles", error)) {
    if (entry.path().extension() != ".toml") continue;
    auto file = ReadRecipe(entry.path(), options);
    if (!file) return Wrap(file.error(), "reading the image profiles");
    files.emplace(file->recipe.profile, std::move(*file));
  }
  if (error || files.empty()) {
    return Missing(fmt::format("no image profiles in {}", (directory / "profiles").string()),
                   "They are part of envkit: install it again, or let ENVKIT_SHARE name the "
                   "directory that holds images/ and runtime/.");
  }
  Recipes recipes;
  for (const auto& [name, file] : files) {
    ENVKIT_TRY(recipes[name], Complete(files, name));
  }
  return recipes;
}

std::set<std::string> ProfileOptions(const Project& project) {
  std::set<std::string> options;
  if (project.environment.cuda_compiler) options.insert("cuda_compiler");
  return options;
}

std::string RecipesDigest(const Recipes& recipes) {
  nlohmann::json json;
  for (const auto& [profile, recipe] : recipes) {
    json[profile] = {{"debian", Sorted(recipe.debian)},
                     {"requirements", Sorted(recipe.requirements)}};
    if (recipe.closure) json[profile]["closure"] = true;
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

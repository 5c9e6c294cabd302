#include "image/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/text.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

// Part of every key. Raise the number where the same inputs shall give another result.
constexpr int kFormat = 1;
constexpr std::uint64_t kOwnLayer = 50'000'000;  // wheels above this size
constexpr std::size_t kBuckets = 8;              // for the others, where they are many
// A wheel's layer depends on the wheel alone, so that locks and projects share it.
constexpr std::int64_t kWheelTime = 315'532'800;  // 1980-01-01, where zip's time starts

json DebKeys(const std::vector<LockedDeb>& debs) {
  json keys = json::array();
  for (const LockedDeb& deb : debs) keys.push_back(deb.sha256);
  std::sort(keys.begin(), keys.end());
  return keys;
}

json WheelKeys(const LayerPlan& layer) {
  json keys = json::array();
  for (std::size_t index = 0; index < layer.wheels.size(); ++index) {
    keys.push_back({{"name", layer.wheels[index].name},
                    {"sha256", layer.wheels[index].sha256},
                    {"members", layer.members[index]}});
  }
  return keys;
}

std::string KeyOf(const LayerPlan& layer, json more = {}) {
  const json key = {
      {"format", kFormat},         {"kind", layer.kind}, {"mtime", layer.mtime},
      {"site", layer.site},        {"more", more},       {"debs", DebKeys(layer.debs)},
      {"wheels", WheelKeys(layer)}};
  return Sha256Of(key.dump());
}

Result<const Recipe*> FindRecipe(const Recipes& recipes, const std::string& profile) {
  if (const auto found = recipes.find(profile); found != recipes.end() && profile != "builder") {
    return &found->second;
  }
  std::vector<std::string> known;
  for (const auto& [name, recipe] : recipes) {
    if (name != "builder") known.push_back(name);
  }
  return Usage(fmt::format("there is no image profile \"{}\"", profile),
               fmt::format("This envkit has {}.", JoinOr(known, "and")));
}

std::vector<LockedDeb> DebsOf(const Lock& lock, const std::string& root) {
  std::vector<LockedDeb> debs;
  for (const LockedDeb& deb : lock.debs) {
    if (std::find(deb.roots.begin(), deb.roots.end(), root) != deb.roots.end()) debs.push_back(deb);
  }
  return debs;
}

struct Selected {
  LockedWheel wheel;
  std::vector<std::string> members;
};

// By name; several selections of one wheel are one.
Result<std::vector<Selected>> SelectWheels(const Recipe& recipe, const Lock& lock,
                                           const std::string& variant) {
  std::map<std::string, Selected> selected;
  for (const WheelSelection& selection : recipe.wheels) {
    if (selection.variant != "both" && selection.variant != variant) continue;
    const auto wheel =
        std::find_if(lock.wheels.begin(), lock.wheels.end(),
                     [&](const LockedWheel& locked) { return locked.name == selection.name; });
    if (wheel == lock.wheels.end()) {
      return Usage(fmt::format("the {} image needs the wheel {}, and envkit.lock has none",
                               recipe.profile, selection.name),
                   "envkit lock");
    }
    const auto [there, added] =
        selected.emplace(selection.name, Selected{*wheel, selection.members});
    if (added) continue;
    std::vector<std::string>& members = there->second.members;
    if (members.empty() || selection.members.empty()) {
      members.clear();  // all of it
    } else {
      members.insert(members.end(), selection.members.begin(), selection.members.end());
    }
  }
  std::vector<Selected> wheels;
  for (auto& [name, one] : selected) {
    std::sort(one.members.begin(), one.members.end());
    wheels.push_back(std::move(one));
  }
  return wheels;
}

void AddWheel(LayerPlan& layer, Selected wheel) {
  layer.wheels.push_back(std::move(wheel.wheel));
  layer.members.push_back(std::move(wheel.members));
}

LayerPlan WheelLayer(std::string what, const std::string& site) {
  LayerPlan layer;
  layer.what = std::move(what);
  layer.kind = "wheel";
  layer.mtime = kWheelTime;
  layer.site = site;
  return layer;
}

std::vector<LayerPlan> WheelLayers(std::vector<Selected> wheels, const std::string& site) {
  std::vector<LayerPlan> layers;
  std::vector<Selected> small;
  for (Selected& wheel : wheels) {
    if (wheel.wheel.size > kOwnLayer) {
      layers.push_back(WheelLayer(wheel.wheel.name, site));
      AddWheel(layers.back(), std::move(wheel));
    } else {
      small.push_back(std::move(wheel));
    }
  }
  if (small.size() <= kBuckets) {
    if (small.empty()) return layers;
    LayerPlan& libraries = layers.emplace_back(WheelLayer("libraries", site));
    for (Selected& wheel : small) AddWheel(libraries, std::move(wheel));
    return layers;
  }
  // By name, so that a new version of one wheel touches one layer.
  std::map<unsigned long, LayerPlan> buckets;
  for (Selected& wheel : small) {
    const unsigned long bucket =
        std::stoul(Sha256Of(wheel.wheel.name).substr(0, 8), nullptr, 16) % kBuckets + 1;
    const auto there =
        buckets.try_emplace(bucket, WheelLayer(fmt::format("libraries-{}", bucket), site));
    AddWheel(there.first->second, std::move(wheel));
  }
  for (auto& [number, bucket] : buckets) layers.push_back(std::move(bucket));
  return layers;
}

Result<void> AddFile(const fs::path& file, const std::string& name,
                     std::map<std::string, std::string>& files) {
  ENVKIT_TRY(files[name], ReadFile(file));
  return {};
}

// Regular files below DIRECTORY that are not hidden, named PREFIX/….
Result<void> AddFiles(const fs::path& directory, const std::string& prefix,
                      std::map<std::string, std::string>& files) {
  std::error_code error;
  fs::recursive_directory_iterator it(directory, error);
  for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
    if (it->path().filename().native().starts_with('.')) {
      it.disable_recursion_pending();
      continue;
    }
    if (!it->is_regular_file(error)) continue;
    const std::string name = it->path().string().substr(directory.string().size() + 1);
    ENVKIT_CHECK(AddFile(it->path(), fmt::format("{}/{}", prefix, name), files));
  }
  if (error) {
    return Missing(fmt::format("reading {}: {}", directory.string(), error.message()),
                   "This envkit is not completely installed.");
  }
  return {};
}

std::string DigestOf(const std::map<std::string, std::string>& files) {
  Sha256 hash;
  for (const auto& [name, content] : files) {
    hash.Update(fmt::format("{} {}\n", name, content.size()));
    hash.Update(content);
  }
  return hash.Hex();
}

// What runtime/CMakeLists.txt compiles.
Result<std::string> RuntimeSourcesDigest() {
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  std::map<std::string, std::string> files;
  ENVKIT_CHECK(AddFiles(share / "runtime", "runtime", files));
  for (const char* name : {"host", "launch"}) {
    ENVKIT_CHECK(AddFiles(share / "toolkit" / name, name, files));
  }
  for (const char* name : {"result.h", "result.cpp", "text.h", "text.cpp", "toml.h", "toml.cpp"}) {
    ENVKIT_CHECK(AddFile(share / "toolkit/base" / name, name, files));
  }
  return DigestOf(files);
}

}  // namespace

Result<std::map<std::string, std::string>> RootfsFiles() {
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  std::map<std::string, std::string> files;
  ENVKIT_CHECK(AddFiles(share / "images/rootfs", "", files));
  std::map<std::string, std::string> named;
  for (auto& [name, content] : files) named.emplace(name.substr(1), std::move(content));
  return named;
}

Result<ImagePlan> PlanImage(const Project& project, const Lock& lock, const Recipes& recipes,
                            const std::string& profile, const std::string& variant) {
  if (variant != "cpu" && variant != "cuda") {
    return Usage(fmt::format("there is no image variant \"{}\"", variant), "It is cpu or cuda.");
  }
  if (variant == "cuda" && lock.inputs.cuda == "cpu") {
    return Usage("the project is for CPUs alone: envkit.toml has cuda = \"cpu\"",
                 "Set cuda = \"auto\" in [environment], then envkit lock.");
  }
  ENVKIT_TRY(const Recipe* recipe, FindRecipe(recipes, profile));
  const auto builder = recipes.find("builder");
  if (builder == recipes.end()) {
    return Missing("the recipe images/profiles/builder.toml is missing",
                   "This envkit is not completely installed.");
  }

  ImagePlan plan;
  plan.name = project.name;
  plan.profile = profile;
  plan.variant = variant;
  plan.architecture = "amd64";
  plan.lock_digest = lock.Digest();
  plan.source_date_epoch = lock.source_date_epoch;
  const std::string site = fmt::format("usr/local/lib/python{}/dist-packages", lock.python);

  LayerPlan os;
  os.what = "debian";
  os.kind = "os";
  os.mtime = lock.source_date_epoch;
  os.debs = DebsOf(lock, profile);
  if (os.debs.empty()) {
    return Usage(fmt::format("envkit.lock has no Debian packages for the {} image", profile),
                 "envkit lock");
  }
  plan.layers.push_back(std::move(os));

  ENVKIT_TRY(std::vector<Selected> wheels, SelectWheels(*recipe, lock, variant));
  for (LayerPlan& layer : WheelLayers(std::move(wheels), site)) {
    plan.layers.push_back(std::move(layer));
  }

  LayerPlan rootfs;
  rootfs.what = rootfs.kind = "recipe";
  rootfs.mtime = lock.source_date_epoch;
  ENVKIT_TRY(const auto rootfs_files, RootfsFiles());
  rootfs.key = KeyOf(rootfs, DigestOf(rootfs_files));
  plan.layers.push_back(std::move(rootfs));

  LayerPlan runtime;
  runtime.what = runtime.kind = "runtime";
  runtime.mtime = lock.source_date_epoch;
  runtime.site = site;
  runtime.debs = DebsOf(lock, "builder");
  ENVKIT_TRY(std::vector<Selected> headers, SelectWheels(builder->second, lock, variant));
  for (Selected& wheel : headers) AddWheel(runtime, std::move(wheel));
  ENVKIT_TRY(const std::string sources, RuntimeSourcesDigest());
  runtime.key = KeyOf(runtime, {sources, variant});
  plan.layers.push_back(std::move(runtime));

  for (LayerPlan& layer : plan.layers) {
    if (layer.key.empty()) layer.key = KeyOf(layer);
  }
  return plan;
}

std::string PlanKey(const ImagePlan& plan) {
  json layers = json::array();
  for (const LayerPlan& layer : plan.layers) layers.push_back({layer.what, layer.key});
  const json key = {{"format", kFormat},
                    {"name", plan.name},
                    {"profile", plan.profile},
                    {"variant", plan.variant},
                    {"architecture", plan.architecture},
                    {"lock", plan.lock_digest},
                    {"epoch", plan.source_date_epoch},
                    {"layers", layers}};
  return Sha256Of(key.dump());
}

const LayerPlan* FindKind(const ImagePlan& plan, std::string_view kind) {
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind == kind) return &layer;
  }
  return nullptr;
}

BuilderPlan PlanBuilder(const ImagePlan& plan) {
  const LayerPlan& runtime = *FindKind(plan, "runtime");
  BuilderPlan builder;
  LayerPlan root;
  root.kind = "builder";
  root.mtime = runtime.mtime;
  root.debs = runtime.debs;
  builder.root_key = KeyOf(root);
  builder.root_debs = root.debs;

  builder.torch = runtime;
  builder.torch.what = "torch headers";
  builder.torch.kind = "builder";
  builder.torch.mtime = kWheelTime;
  builder.torch.debs.clear();
  for (const LockedWheel& wheel : builder.torch.wheels) {
    std::vector<std::string>& except = builder.except.emplace_back();
    for (const LayerPlan& layer : plan.layers) {
      if (layer.kind != "wheel") continue;
      for (std::size_t index = 0; index < layer.wheels.size(); ++index) {
        if (layer.wheels[index].sha256 != wheel.sha256) continue;
        except = layer.members[index];
        if (except.empty()) except = {"*"};
      }
    }
  }
  builder.torch.key = KeyOf(builder.torch, builder.except);
  return builder;
}

}  // namespace envkit

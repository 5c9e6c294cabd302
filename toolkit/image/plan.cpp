#include "image/plan.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/text.h"
#include "image/base_image.h"
#include "image/wheel_name.h"
#include "matrix/version.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

// Part of every key. Raise the number where the same inputs shall give another result.
constexpr int kPlanFormat = 1;
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
      {"format", kPlanFormat},     {"kind", layer.kind}, {"mtime", layer.mtime},
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
  std::string group;  // the lowest profile of the chain that needs it
};

// What an image has of the locked wheels.
struct Wheels {
  std::vector<Selected> selected;     // by name
  std::vector<LockedWheel> left_out;  // by name
};

// The wheels that something in RECIPE's image needs, all of them whole.
Result<std::map<std::string, Selected>> Closure(const Recipe& recipe, const Lock& lock) {
  std::map<std::string, Selected> closure;
  if (!recipe.closure) return closure;
  for (const LockedWheel& wheel : lock.wheels) {
    const auto needs = [&](const std::string& profile) {
      return std::find(wheel.roots.begin(), wheel.roots.end(), profile) != wheel.roots.end();
    };
    const auto group = std::find_if(recipe.chain.begin(), recipe.chain.end(), needs);
    if (group != recipe.chain.end()) closure[wheel.name] = {wheel, {}, *group};
  }
  if (closure.empty()) {
    return Usage(
        fmt::format("envkit.lock does not say which wheels the {} image needs", recipe.profile),
        "It was made by an older envkit. Make it anew: envkit lock");
  }
  return closure;
}

// Several selections of one wheel are one.
Result<Wheels> SelectWheels(const Recipe& recipe, const Lock& lock, const std::string& variant) {
  ENVKIT_TRY(auto selected, Closure(recipe, lock));
  const int cuda = IsVersion(lock.cuda) ? MajorOf(lock.cuda) : 13;
  std::set<std::string> named;
  for (const WheelSelection& selection : recipe.wheels) {
    if (selection.variant != "both" && selection.variant != variant &&
        selection.variant != lock.inputs.architecture) {
      continue;
    }
    const std::string name = NameForCuda(selection.name, cuda);
    const auto wheel = std::find_if(lock.wheels.begin(), lock.wheels.end(),
                                    [&](const LockedWheel& locked) { return locked.name == name; });
    if (wheel == lock.wheels.end() && selection.if_locked) continue;
    if (recipe.closure && !selected.contains(name)) continue;
    if (wheel == lock.wheels.end()) {
      return Usage(fmt::format("the {} image needs the wheel {}, and envkit.lock has none",
                               recipe.profile, name),
                   "envkit lock");
    }
    const bool first = named.insert(name).second;
    const auto there = selected.try_emplace(name, Selected{*wheel, {}, ""}).first;
    std::vector<std::string>& members = there->second.members;
    if (first) {
      members = selection.members;
    } else if (members.empty() || selection.members.empty()) {
      members.clear();  // all of it
    } else {
      members.insert(members.end(), selection.members.begin(), selection.members.end());
    }
  }
  Wheels wheels;
  const auto left_out = recipe.left_out.find(variant);
  for (auto& [name, one] : selected) {
    if (left_out != recipe.left_out.end() && !named.contains(name) &&
        MatchesAny(left_out->second, name)) {
      wheels.left_out.push_back(std::move(one.wheel));
      continue;
    }
    std::sort(one.members.begin(), one.members.end());
    wheels.selected.push_back(std::move(one));
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

// LIBRARIES names the layers of small wheels.
std::vector<LayerPlan> WheelLayers(std::vector<Selected> wheels, const std::string& site,
                                   const std::string& libraries) {
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
    LayerPlan& layer = layers.emplace_back(WheelLayer(libraries, site));
    for (Selected& wheel : small) AddWheel(layer, std::move(wheel));
    return layers;
  }
  // By name, so that a new version of one wheel touches one layer.
  std::map<unsigned long, LayerPlan> buckets;
  for (Selected& wheel : small) {
    const unsigned long bucket =
        std::stoul(Sha256Of(wheel.wheel.name).substr(0, 8), nullptr, 16) % kBuckets + 1;
    const auto there =
        buckets.try_emplace(bucket, WheelLayer(fmt::format("{}-{}", libraries, bucket), site));
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
  for (const char* name : {"host", "launch", "symptoms"}) {
    ENVKIT_CHECK(AddFiles(share / "toolkit" / name, name, files));
  }
  for (const char* name : {"result.h", "result.cpp", "text.h", "text.cpp", "toml.h", "toml.cpp"}) {
    ENVKIT_CHECK(AddFile(share / "toolkit/base" / name, name, files));
  }
  return DigestOf(files);
}

// The files of the recipe layer: those of images/rootfs, then what RECIPE adds.
Result<std::map<std::string, std::string>> RecipeFiles(const Recipe& recipe) {
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  std::map<std::string, std::string> files;
  auto add = [&](const std::string& directory, const std::string& place) -> Result<void> {
    std::map<std::string, std::string> found;
    ENVKIT_CHECK(AddFiles(share / directory, place, found));
    for (auto& [name, content] : found) {
      files[name.starts_with('/') ? name.substr(1) : name] = std::move(content);
    }
    return {};
  };
  ENVKIT_CHECK(add("images/rootfs", ""));
  for (const auto& [directory, place] : recipe.files) ENVKIT_CHECK(add(directory, place));
  if (const auto home = recipe.env.find("HOME"); home != recipe.env.end()) {
    files[home->second.substr(1) + "/"] = "";  // a directory
  }
  return files;
}

// The wheels' toolkit where build systems look for one. Since CUDA 13 all of it lies in one
// directory; its libraries lack the names that a linker looks for.
void AddCudaHome(const std::string& site, const std::string& cuda,
                 std::map<std::string, std::string>& files) {
  if (!IsVersion(cuda) || MajorOf(cuda) < 13) return;
  const std::string major = std::to_string(MajorOf(cuda));
  const std::string home = site + "/nvidia/cu" + major;
  files["usr/local/cuda@"] = "/" + home;
  // A symlink would make nvcc look for its headers beside the link.
  files["usr/local/bin/nvcc"] = "#!/bin/sh\nexec /usr/local/cuda/bin/nvcc \"$@\"\n";
  files[home + "/lib64@"] = "lib";
  for (const char* library :
       {"libcublas", "libcublasLt", "libcudart", "libnvJitLink", "libnvrtc"}) {
    files[fmt::format("{}/lib/{}.so@", home, library)] = fmt::format("{}.so.{}", library, major);
  }
}

// Python itself, whose version of the bytecode they have.
std::vector<LockedDeb> InterpreterDebs(const std::vector<LockedDeb>& debs) {
  std::vector<LockedDeb> interpreter;
  for (const LockedDeb& deb : debs) {
    if (deb.name.starts_with("python3.") || deb.name.starts_with("libpython3.")) {
      interpreter.push_back(deb);
    }
  }
  return interpreter;
}

// The bytecode of LAYERS' modules.
Result<LayerPlan> BytecodeLayer(const std::string& what,
                                const std::vector<const LayerPlan*>& layers,
                                const std::vector<LockedDeb>& os, const std::string& site) {
  LayerPlan bytecode;
  bytecode.what = what;
  bytecode.kind = "bytecode";
  bytecode.mtime = kWheelTime;
  bytecode.site = site;
  bytecode.debs = InterpreterDebs(os);
  for (const LayerPlan* layer : layers) {
    bytecode.sources.push_back(layer->key);
    bytecode.wheels.insert(bytecode.wheels.end(), layer->wheels.begin(), layer->wheels.end());
    bytecode.members.insert(bytecode.members.end(), layer->members.begin(), layer->members.end());
  }
  ENVKIT_TRY(const std::string script, ReadScript(kBytecodeScript));
  bytecode.key = KeyOf(bytecode, Sha256Of(script));
  return bytecode;
}

// Stand-ins for what the CPU variant leaves out.
Result<LayerPlan> NoCudaLayer(const std::vector<LayerPlan>& below,
                              std::vector<LockedWheel> left_out, const Lock& lock,
                              const std::string& site) {
  LayerPlan layer;
  layer.what = layer.kind = "no-cuda";
  layer.mtime = kWheelTime;
  layer.site = site;
  layer.debs = DebsOf(lock, "builder");
  layer.left_out = std::move(left_out);
  json more = json::array();
  for (const LockedWheel& wheel : layer.left_out) more.push_back({wheel.name, wheel.version});
  for (const LayerPlan& wheels : below) {
    if (wheels.kind != "wheel") continue;
    layer.sources.push_back(wheels.key);
    for (std::size_t index = 0; index < wheels.wheels.size(); ++index) {
      const std::string& name = wheels.wheels[index].name;
      if (name != "torch" && !name.starts_with("nvidia-")) continue;
      layer.wheels.push_back(wheels.wheels[index]);
      layer.members.push_back(wheels.members[index]);
    }
  }
  ENVKIT_TRY(const std::string script, ReadScript(kNoCudaScript));
  layer.key = KeyOf(layer, {more, Sha256Of(script)});
  return layer;
}

// Those that a lower profile of the chain has too are in layers of their own, the same for both.
Result<void> AddWheelLayers(ImagePlan& plan, const Recipe& recipe, Wheels wheels, const Lock& lock,
                            const std::string& site) {
  std::vector<std::string> groups = recipe.chain;
  if (!recipe.closure) groups = {""};
  std::size_t begin = plan.layers.size();
  std::vector<std::pair<std::string, std::size_t>> ends;  // group → its last layer's successor
  for (const std::string& group : groups) {
    std::vector<Selected> members;
    for (Selected& wheel : wheels.selected) {
      if (!recipe.closure || wheel.group == group) members.push_back(std::move(wheel));
    }
    for (LayerPlan& layer :
         WheelLayers(std::move(members), site,
                     recipe.closure ? fmt::format("{}-libraries", group) : "libraries")) {
      layer.key = KeyOf(layer);
      plan.layers.push_back(std::move(layer));
    }
    ends.emplace_back(group, plan.layers.size());
  }
  if (!wheels.left_out.empty()) {
    ENVKIT_TRY(LayerPlan layer, NoCudaLayer(plan.layers, std::move(wheels.left_out), lock, site));
    plan.layers.push_back(std::move(layer));
  }
  if (!recipe.closure) return {};
  // One for each layer of small wheels and one for torch, so that a new version of one wheel leaves
  // the others alone. Large wheels besides torch have few modules and change together with it.
  std::vector<LayerPlan> bytecode;
  const auto add = [&](const std::string& of,
                       const std::vector<const LayerPlan*>& layers) -> Result<void> {
    if (layers.empty()) return {};
    ENVKIT_TRY(bytecode.emplace_back(),
               BytecodeLayer(of + "-bytecode", layers, plan.layers[0].debs, site));
    return {};
  };
  for (const auto& [group, end] : ends) {
    std::vector<const LayerPlan*> large;
    for (std::size_t index = begin; index < end; ++index) {
      const LayerPlan& layer = plan.layers[index];
      if (layer.what == "torch" || layer.wheels.front().size <= kOwnLayer) {
        ENVKIT_CHECK(add(layer.what, {&layer}));
      } else {
        large.push_back(&layer);
      }
    }
    ENVKIT_CHECK(add(group, large));
    begin = end;
  }
  for (LayerPlan& layer : bytecode) plan.layers.push_back(std::move(layer));
  return {};
}

}  // namespace

bool MatchesAny(const std::vector<std::string>& patterns, const std::string& name) {
  bool any = false, chosen = false;
  for (const std::string& pattern : patterns) {
    const bool out = pattern.starts_with('!');
    const bool matches = fnmatch(pattern.c_str() + (out ? 1 : 0), name.c_str(), 0) == 0;
    if (out && matches) return false;
    any = any || !out;
    chosen = chosen || matches;
  }
  return chosen || (!any && !patterns.empty());
}

Result<std::string> ReadScript(std::string_view name) {
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  return ReadFile(share / "images/scripts" / name);
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
  plan.architecture = DebianArchitecture(project.architecture);
  plan.lock_digest = lock.Digest();
  plan.source_date_epoch = lock.source_date_epoch;
  const std::string site = fmt::format("usr/local/lib/python{}/dist-packages", lock.python);

  ENVKIT_TRY(const std::optional<BaseImage> base,
             ParseBase(project.environment.base, project.root));
  LayerPlan os;
  os.what = base ? "base" : "debian";
  os.kind = "os";
  os.mtime = lock.source_date_epoch;
  if (base) {
    os.base = project.environment.base;
    os.mtime = kWheelTime;  // it depends on the artefact alone
    os.key = KeyOf(os, {{"base", base->digest}});
  } else {
    os.debs = DebsOf(lock, profile);
  }
  if (!base && os.debs.empty()) {
    return Usage(fmt::format("envkit.lock has no Debian packages for the {} image", profile),
                 "envkit lock");
  }
  plan.layers.push_back(std::move(os));

  ENVKIT_TRY(Wheels wheels, SelectWheels(*recipe, lock, variant));
  ENVKIT_CHECK(AddWheelLayers(plan, *recipe, std::move(wheels), lock, site));

  LayerPlan rootfs;
  rootfs.what = rootfs.kind = "recipe";
  rootfs.mtime = lock.source_date_epoch;
  ENVKIT_TRY(rootfs.files, RecipeFiles(*recipe));
  if (project.environment.cuda_compiler && variant == "cuda" && recipe->profile == "dev") {
    AddCudaHome(site, lock.cuda, rootfs.files);
  }
  rootfs.key = KeyOf(rootfs, DigestOf(rootfs.files));
  plan.layers.push_back(std::move(rootfs));

  LayerPlan runtime;
  runtime.what = runtime.kind = "runtime";
  runtime.mtime = lock.source_date_epoch;
  runtime.site = site;
  runtime.debs = DebsOf(lock, "builder");
  ENVKIT_TRY(Wheels headers, SelectWheels(builder->second, lock, variant));
  for (Selected& wheel : headers.selected) AddWheel(runtime, std::move(wheel));
  ENVKIT_TRY(const std::string sources, RuntimeSourcesDigest());
  runtime.key = KeyOf(runtime, {sources, variant});
  plan.layers.push_back(std::move(runtime));

  plan.env = recipe->env;
  // Accelerate takes several ranks without GPUs for single ones otherwise.
  if (variant == "cpu" && recipe->closure) plan.env.insert({"ACCELERATE_USE_CPU", "true"});
  if (FindKind(plan, "recipe")->files.contains("usr/local/cuda@")) {
    plan.env.insert({"CUDA_HOME", "/usr/local/cuda"});
  }
  // What the NVIDIA container toolkit mounts of the driver.
  if (variant == "cuda") plan.env.insert({"NVIDIA_DRIVER_CAPABILITIES", "compute,utility"});

  for (LayerPlan& layer : plan.layers) {
    if (layer.key.empty()) layer.key = KeyOf(layer);
  }
  return plan;
}

std::string PlanKey(const ImagePlan& plan) {
  json layers = json::array();
  for (const LayerPlan& layer : plan.layers) layers.push_back({layer.what, layer.key});
  const json key = {{"format", kPlanFormat},
                    {"name", plan.name},
                    {"profile", plan.profile},
                    {"variant", plan.variant},
                    {"architecture", plan.architecture},
                    {"lock", plan.lock_digest},
                    {"epoch", plan.source_date_epoch},
                    {"env", plan.env},
                    {"layers", layers}};
  return Sha256Of(key.dump());
}

const LayerPlan* FindKind(const ImagePlan& plan, std::string_view kind) {
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind == kind) return &layer;
  }
  return nullptr;
}

std::string CudnnOf(const LayerPlan& no_cuda) {
  for (const LockedWheel& wheel : no_cuda.left_out) {
    if (wheel.name.starts_with("nvidia-cudnn")) return wheel.version;
  }
  return "0.0.0";
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

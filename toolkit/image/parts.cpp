#include "image/parts.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "base/files.h"
#include "base/parallel.h"
#include "host/facts.h"
#include "image/base_image.h"
#include "image/layer.h"
#include "image/system_tree.h"
#include "image/wheel_papers.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// What Debian packages grow to when they are installed; mmdebstrap holds all of it twice.
constexpr std::uint64_t kDebGrowth = 4;
constexpr std::uint64_t kWheelGrowth = 2;
constexpr std::uint64_t kWorthSaying = 1'000'000'000;

fs::path RootOf(const Store& store, const std::string& key) { return store.data / "roots" / key; }

std::uint64_t InstalledSize(const std::vector<LockedDeb>& debs) {
  std::uint64_t size = 0;
  for (const LockedDeb& deb : debs) size += deb.size * kDebGrowth;
  return size;
}

// Made from files that the lock names; the other kinds name those that their sources are made from.
bool IsLocked(const LayerPlan& layer) { return layer.kind == "os" || layer.kind == "wheel"; }

// One progress bar for everything that happens at the same time.
class Activity {
 public:
  Activity(Terminal& terminal, std::uint64_t total)
      : progress_(terminal.StartProgress("build", "layers", total)) {}

  void Begin(const std::string& name) {
    Change([&] { names_.insert(name); });
  }
  void End(const std::string& name) {
    Change([&] { names_.erase(name); });
  }
  void Add(std::uint64_t bytes) { progress_->Add(bytes); }

 private:
  template <class Edit>
  void Change(const Edit& edit) {
    const std::lock_guard guard(mutex_);
    edit();
    std::string label;
    for (const std::string& name : names_) label += (label.empty() ? "" : ", ") + name;
    if (!label.empty()) progress_->SetLabel(label);
  }

  std::mutex mutex_;
  std::set<std::string> names_;
  std::unique_ptr<Progress> progress_;
};

// Bytes of a bootstrap that says only which of its stages it is in.
class Stages {
 public:
  Stages(Activity& activity, std::uint64_t total)
      : activity_(activity), left_(total), total_(total) {}
  void Next() { Take(total_ / 16); }
  void All() { Take(left_); }

 private:
  void Take(std::uint64_t bytes) {
    bytes = std::min(bytes, left_);
    left_ -= bytes;
    activity_.Add(bytes);
  }
  Activity& activity_;
  std::uint64_t left_;
  std::uint64_t total_;
};

Result<fs::path> MakeLayerDirectory(const fs::path& work, const std::string& key) {
  const fs::path directory = work / key;
  ENVKIT_CHECK(MakeDirectories(directory / "fs"));
  if (chmod((directory / "fs").c_str(), 0755) != 0) {
    return FileFailure("making", directory / "fs", errno);
  }
  return directory;
}

struct Maker {
  const Store& store;
  const fs::path& work;
  Terminal& terminal;
  Activity& activity;
  const fs::path& project_root;

  Result<void> SystemTree(const std::vector<LockedDeb>& debs, std::int64_t mtime,
                          const std::string& what, const fs::path& directory) const {
    Stages stages(activity, InstalledSize(debs));
    const fs::path scratch = directory.string() + ".work";
    ENVKIT_CHECK(MakeDirectories(scratch));
    auto done =
        MakeSystemTree(debs, store, mtime, scratch, directory / "fs", [&](std::string_view status) {
          terminal.Detail(fmt::format("{}: {}", what, status));
          stages.Next();
        });
    if (!done) return Wrap(std::move(done).error(), fmt::format("making the {} layer", what));
    stages.All();
    return RemoveTree(scratch);
  }

  Result<void> SystemLayer(const LayerPlan& plan) const {
    ENVKIT_TRY(const FileLock lock, LockKey(store, plan.key, plan.what, terminal));
    if (FindLayer(store, plan.key, plan.what)) return {};
    activity.Begin(plan.what);
    ENVKIT_TRY(const fs::path directory, MakeLayerDirectory(work, plan.key));
    if (plan.base.empty()) {
      ENVKIT_CHECK(SystemTree(plan.debs, plan.mtime, plan.what, directory));
    } else {
      const fs::path scratch = directory.string() + ".work";
      ENVKIT_CHECK(MakeDirectories(scratch));
      auto made =
          MakeBaseTree(plan.base, project_root, plan.mtime, scratch, directory / "fs", terminal);
      if (!made) return Wrap(std::move(made).error(), "making the base layer");
    }
    ENVKIT_TRY(Layer layer, FinishTree(directory / "fs", plan.mtime, Modes::kKeep));
    ENVKIT_CHECK(PublishLayer(store, plan, directory, std::move(layer)));
    activity.End(plan.what);
    return {};
  }

  Result<void> WheelLayer(const LayerPlan& plan, const WheelContent& content) const {
    ENVKIT_TRY(const FileLock lock, LockKey(store, plan.key, plan.what, terminal));
    if (FindLayer(store, plan.key, plan.what)) return {};
    activity.Begin(plan.what);
    ENVKIT_TRY(const fs::path directory, MakeLayerDirectory(work, plan.key));
    ENVKIT_TRY(Layer layer, WriteWheels(plan, content, directory / "fs",
                                        [&](std::uint64_t bytes) { activity.Add(bytes); }));
    ENVKIT_CHECK(KeepWheelPapers(plan, content, directory));
    ENVKIT_CHECK(PublishLayer(store, plan, directory, std::move(layer), OwnedFiles(plan, content)));
    activity.End(plan.what);
    return {};
  }

  Result<void> BuilderRoot(const BuilderPlan& builder) const {
    const std::string& key = builder.root_key;
    ENVKIT_TRY(const FileLock lock, LockKey(store, key, "the builder", terminal));
    if (fs::exists(RootOf(store, key))) return {};
    activity.Begin("builder");
    ENVKIT_TRY(const fs::path directory, MakeLayerDirectory(work, key));
    ENVKIT_CHECK(SystemTree(builder.root_debs, builder.torch.mtime, "builder", directory));
    ENVKIT_CHECK(SyncFilesystem(directory));
    ENVKIT_CHECK(PublishDirectory(directory, RootOf(store, key)));
    activity.End("builder");
    return {};
  }

  Result<void> BuilderTorch(const LayerPlan& plan, const WheelContent& content) const {
    ENVKIT_TRY(const FileLock lock, LockKey(store, plan.key, plan.what, terminal));
    if (fs::exists(RootOf(store, plan.key))) return {};
    activity.Begin(plan.what);
    ENVKIT_TRY(const fs::path directory, MakeLayerDirectory(work, plan.key));
    ENVKIT_CHECK(WriteWheels(plan, content, directory / "fs",
                             [&](std::uint64_t bytes) { activity.Add(bytes); }));
    ENVKIT_CHECK(SyncFilesystem(directory));
    ENVKIT_CHECK(PublishDirectory(directory, RootOf(store, plan.key)));
    activity.End(plan.what);
    return {};
  }
};

// One thing that is made, and the keys of what it is made from.
struct Part {
  std::string key;
  std::vector<std::string> from;
  std::uint64_t cost = 0;  // bytes
  Task make;
};

// Other parts wait for it, or it takes long itself.
constexpr std::uint64_t kLong = UINT64_MAX;

// The largest first, so that none is left over at the end. What a part is made from is among PARTS
// or in the store.
std::vector<Step> Ordered(std::vector<Part> parts) {
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.cost > b.cost; });
  std::map<std::string, std::size_t> places;
  for (std::size_t index = 0; index < parts.size(); ++index) places[parts[index].key] = index;
  std::vector<Step> steps;
  for (Part& part : parts) {
    Step step{std::move(part.make)};
    for (const std::string& key : part.from) {
      if (const auto place = places.find(key); place != places.end()) {
        step.after.push_back(place->second);
      }
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

Result<void> Done(const Result<Layer>& made) {
  if (!made) return Unexpected(made.error());
  return {};
}

// The directories of the wheels that are unpacked.
struct WheelParts {
  WheelContents contents;
  std::optional<WheelContent> torch;  // of the builder
  std::uint64_t bytes = 0;
};

// Nothing is written before it is known that all of it fits.
Result<void> OpenWheelParts(const ImagePlan& plan, const BuilderPlan& builder,
                            const MissingParts& missing, const Store& store, WheelParts& parts) {
  std::vector<const LayerPlan*> layers;
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind == "wheel") layers.push_back(&layer);
  }
  std::vector<std::vector<OwnedFile>> files(layers.size());
  std::vector<std::optional<WheelContent>> contents(layers.size());
  std::vector<Task> opening;
  for (std::size_t index = 0; index < layers.size(); ++index) {
    opening.push_back([&, index]() -> Result<void> {
      if (const auto there = FindLayer(store, layers[index]->key, layers[index]->what)) {
        ENVKIT_TRY(files[index], OwnedFiles(*there));
      } else {
        ENVKIT_TRY(contents[index], OpenWheels(*layers[index], store));
      }
      return {};
    });
  }
  ENVKIT_CHECK(RunParallel(opening, ProbeHost().cpus));
  std::vector<OwnedFile> owned;
  for (std::size_t index = 0; index < layers.size(); ++index) {
    if (contents[index]) {
      parts.bytes += contents[index]->bytes;
      const auto kept =
          parts.contents.emplace(layers[index]->key, std::move(*contents[index])).first;
      files[index] = OwnedFiles(*layers[index], kept->second);
    }
    owned.insert(owned.end(), std::make_move_iterator(files[index].begin()),
                 std::make_move_iterator(files[index].end()));
  }
  ENVKIT_CHECK(RejectCollisions(owned));
  if (missing.builder_torch) {
    ENVKIT_TRY(parts.torch, OpenWheels(builder.torch, store, builder.except));
    parts.bytes += parts.torch->bytes;
  }
  return RequireFreeSpace(store.data, parts.bytes, "unpacking the wheels");
}

// Files to fetch, each once.
FetchRequest Request(const BuilderPlan& builder, const MissingParts& missing) {
  std::map<std::string, LockedWheel> wheels;
  std::map<std::string, LockedDeb> debs;
  auto add = [&](const LayerPlan& layer) {
    for (const LockedWheel& wheel : layer.wheels) wheels.emplace(wheel.sha256, wheel);
    for (const LockedDeb& deb : layer.debs) debs.emplace(deb.sha256, deb);
  };
  for (const LayerPlan* layer : missing.layers) {
    if (IsLocked(*layer)) add(*layer);
  }
  if (missing.builder_torch) add(builder.torch);
  if (missing.builder_root) {
    for (const LockedDeb& deb : builder.root_debs) debs.emplace(deb.sha256, deb);
  }
  FetchRequest request;
  for (auto& [sha256, wheel] : wheels) request.wheels.push_back(std::move(wheel));
  for (auto& [sha256, deb] : debs) request.debs.push_back(std::move(deb));
  return request;
}

}  // namespace

bool MissingParts::AnyLocked() const {
  return builder_root || builder_torch ||
         std::any_of(layers.begin(), layers.end(),
                     [](const LayerPlan* layer) { return IsLocked(*layer); });
}

MissingParts FindMissing(const ImagePlan& plan, const BuilderPlan& builder, const Store& store,
                         Wanted wanted) {
  MissingParts missing;
  for (const LayerPlan& layer : plan.layers) {
    if ((wanted == Wanted::kImage || layer.kind == "wheel") &&
        !FindLayer(store, layer.key, layer.what)) {
      missing.layers.push_back(&layer);
    }
  }
  const auto lacks = [&](const LayerPlan* layer) {
    return layer != nullptr && !FindLayer(store, layer->key, layer->what);
  };
  const bool runtime = wanted == Wanted::kBuilder || lacks(FindKind(plan, "runtime"));
  missing.builder_root =
      (runtime || lacks(FindKind(plan, "no-cuda"))) && !fs::exists(RootOf(store, builder.root_key));
  missing.builder_torch = runtime && !fs::exists(RootOf(store, builder.torch.key));
  return missing;
}

Result<FetchOutcome> FetchParts(const Project& project, const ImagePlan& plan,
                                const BuilderPlan& builder, const MissingParts& missing,
                                const Store& store, Terminal& terminal) {
  const bool systems =
      missing.builder_root ||
      std::any_of(missing.layers.begin(), missing.layers.end(), [](const LayerPlan* layer) {
        return layer->kind == "os" && !layer->debs.empty();
      });
  if (systems) ENVKIT_CHECK(CheckSystemTools());
  const FetchRequest request = Request(builder, missing);
  std::uint64_t download = 0;
  std::uint64_t unpacked = 0;
  auto count = [&](const auto& file, std::uint64_t growth) {
    unpacked += file.size * growth;
    if (!fs::exists(store.DownloadPath(file.sha256, file.file))) download += file.size;
  };
  for (const LockedWheel& wheel : request.wheels) count(wheel, kWheelGrowth);
  for (const LockedDeb& deb : request.debs) count(deb, 2 * kDebGrowth);
  if (download > kWorthSaying) {
    terminal.Step("fetch",
                  fmt::format("{} to download for the {} image; it needs about {} of disk",
                              HumanBytes(download), plan.variant, HumanBytes(download + unpacked)));
  }
  ENVKIT_CHECK(RequireFreeSpace(store.data, unpacked, "unpacking the layers"));
  return FetchLocked(project, request, store, terminal);
}

Result<void> MakeParts(const Project& project, const ImagePlan& plan, const BuilderPlan& builder,
                       const MissingParts& missing, const Store& store, const RunInRoot& run,
                       Terminal& terminal) {
  if (missing.layers.empty() && !missing.AnyLocked()) return {};
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  WheelParts wheels;
  if (missing.AnyLocked()) {
    ENVKIT_CHECK(OpenWheelParts(plan, builder, missing, store, wheels));
  }
  std::uint64_t total = wheels.bytes;
  if (missing.builder_root) total += InstalledSize(builder.root_debs);
  for (const LayerPlan* layer : missing.layers) {
    if (layer->kind == "os") total += InstalledSize(layer->debs);
  }
  Activity activity(terminal, total);
  const Maker maker{store, work.path(), terminal, activity, project.root};
  std::vector<Part> parts;
  std::vector<const LayerPlan*> bytecode;
  if (missing.builder_root) {
    parts.push_back({builder.root_key, {}, kLong, [&] { return maker.BuilderRoot(builder); }});
  }
  if (wheels.torch) {
    parts.push_back({builder.torch.key, {}, wheels.torch->bytes, [&] {
                       return maker.BuilderTorch(builder.torch, *wheels.torch);
                     }});
  }
  for (const LayerPlan* layer : missing.layers) {
    Part part{layer->key, {}, kLong, {}};
    if (layer->kind == "os") {
      part.make = [&maker, layer] { return maker.SystemLayer(*layer); };
    } else if (layer->kind == "wheel") {
      const auto content = wheels.contents.find(layer->key);
      if (content == wheels.contents.end()) continue;  // another build has made it meanwhile
      part.cost = content->second.bytes;
      part.make = [&maker, layer, &content = content->second] {
        return maker.WheelLayer(*layer, content);
      };
    } else if (layer->kind == "recipe") {
      part.cost = 0;
      part.make = [&, layer] {
        return Done(MakeRecipeLayer(*layer, store, work.path(), terminal));
      };
    } else if (layer->kind == "bytecode") {
      bytecode.push_back(layer);
      continue;
    } else if (layer->kind == "no-cuda") {
      part.from = layer->sources;
      part.from.push_back(builder.root_key);
      part.make = [&, layer] {
        return Done(MakeNoCudaLayer(plan, *layer, builder, store, work.path(), run, terminal));
      };
    } else if (layer->kind == "runtime") {
      part.from = {builder.root_key, builder.torch.key};
      for (const LayerPlan& other : plan.layers) {
        if (other.kind == "wheel") part.from.push_back(other.key);
      }
      part.make = [&] {
        return Done(MakeRuntimeLayer(plan, builder, store, work.path(), run, terminal));
      };
    } else {
      return Fail(fmt::format("nothing makes layers of the kind {}", layer->kind));
    }
    parts.push_back(std::move(part));
  }
  if (!bytecode.empty()) {
    parts.push_back({"bytecode", {plan.layers.front().key}, kLong, [&] {
                       activity.Begin("bytecode");
                       auto made = MakeBytecodeLayers(plan, bytecode, wheels.contents, store,
                                                      work.path(), run, terminal);
                       activity.End("bytecode");
                       return made;
                     }});
  }
  // Twice as many as processors: half of them wait for the disk, past the page cache. The one that
  // waits for bytecode's compiler is there besides.
  return RunSteps(Ordered(std::move(parts)), 2 * ProbeHost().cpus + (bytecode.empty() ? 0 : 1));
}

Result<Layer> MadeLayer(const LayerPlan& layer, const Store& store) {
  if (auto made = FindLayer(store, layer.key, layer.what)) return std::move(*made);
  return Fail(fmt::format("the layer {} vanished from {} during the build", layer.what,
                          store.data.string()),
              "Build again.");
}

Result<fs::path> MadeTree(const ImagePlan& plan, const std::string& key, const Store& store) {
  for (const LayerPlan& layer : plan.layers) {
    if (layer.key != key) continue;
    ENVKIT_TRY(const Layer made, MadeLayer(layer, store));
    return made.tree;
  }
  return Fail("a layer is made from one that is not in the plan");
}

Error GoneError(const Project& project, const std::vector<LockedDeb>& gone) {
  std::string names;
  for (std::size_t index = 0; index < gone.size() && index < 3; ++index) {
    names += fmt::format("{}{} {}", index == 0 ? "" : ", ", gone[index].name, gone[index].version);
  }
  if (gone.size() > 3) names += fmt::format(" and {} more", gone.size() - 3);
  Error error;
  error.code = ExitCode::kMissing;
  error.what = fmt::format("Debian's mirrors no longer have {}", names);
  error.next = fmt::format(
      "envkit lock --upgrade system locks what they have now and shows the difference; with\n"
      "system_policy = \"refresh\" in {} a build does that by itself.",
      project.file.filename().string());
  return error;
}

fs::path BuilderRoot(const BuilderPlan& builder, const Store& store) {
  return RootOf(store, builder.root_key) / "fs";
}

std::vector<fs::path> BuilderTrees(const ImagePlan& plan, const BuilderPlan& builder,
                                   const Store& store) {
  std::vector<fs::path> trees = {BuilderRoot(builder, store)};
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind != "wheel") continue;
    if (const auto made = FindLayer(store, layer.key, layer.what)) trees.push_back(made->tree);
  }
  trees.push_back(RootOf(store, builder.torch.key) / "fs");
  return trees;
}

}  // namespace envkit

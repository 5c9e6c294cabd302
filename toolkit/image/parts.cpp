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

// Bytes of a bootstrap that says only which of its steps it is in.
class Steps {
 public:
  Steps(Activity& activity, std::uint64_t total)
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
    Steps steps(activity, InstalledSize(debs));
    const fs::path scratch = directory.string() + ".work";
    ENVKIT_CHECK(MakeDirectories(scratch));
    auto done =
        MakeSystemTree(debs, store, mtime, scratch, directory / "fs", [&](std::string_view status) {
          terminal.Detail(fmt::format("{}: {}", what, status));
          steps.Next();
        });
    if (!done) return Wrap(std::move(done).error(), fmt::format("making the {} layer", what));
    steps.All();
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

// Files to fetch, each once.
FetchRequest Request(const BuilderPlan& builder, const MissingParts& missing) {
  std::map<std::string, LockedWheel> wheels;
  std::map<std::string, LockedDeb> debs;
  auto add = [&](const LayerPlan& layer) {
    for (const LockedWheel& wheel : layer.wheels) wheels.emplace(wheel.sha256, wheel);
    for (const LockedDeb& deb : layer.debs) debs.emplace(deb.sha256, deb);
  };
  for (const LayerPlan* layer : missing.layers) add(*layer);
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

MissingParts FindMissing(const ImagePlan& plan, const BuilderPlan& builder, const Store& store,
                         Wanted wanted) {
  MissingParts missing;
  for (const LayerPlan& layer : plan.layers) {
    const bool made_here =
        layer.kind == "wheel" || (layer.kind == "os" && wanted == Wanted::kImage);
    if (made_here && !FindLayer(store, layer.key, layer.what)) missing.layers.push_back(&layer);
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
  const bool systems = missing.builder_root ||
                       std::any_of(missing.layers.begin(), missing.layers.end(),
                                   [](const LayerPlan* layer) { return !layer->debs.empty(); });
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
                       const MissingParts& missing, const Store& store, const fs::path& work,
                       Terminal& terminal) {
  // The wheels' directories first: nothing is written before it is known that all of it fits.
  std::vector<OwnedFile> owned;
  std::map<const LayerPlan*, WheelContent> contents;
  std::uint64_t total = 0;
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind != "wheel") continue;
    std::vector<OwnedFile> files;
    if (const auto there = FindLayer(store, layer.key, layer.what)) {
      ENVKIT_TRY(files, OwnedFiles(*there));
    } else {
      ENVKIT_TRY(WheelContent content, OpenWheels(layer, store));
      total += content.bytes;
      const auto kept = contents.emplace(&layer, std::move(content)).first;
      files = OwnedFiles(layer, kept->second);
    }
    owned.insert(owned.end(), std::make_move_iterator(files.begin()),
                 std::make_move_iterator(files.end()));
  }
  ENVKIT_CHECK(RejectCollisions(owned));
  std::optional<WheelContent> torch;
  if (missing.builder_torch) {
    ENVKIT_TRY(torch, OpenWheels(builder.torch, store, builder.except));
    total += torch->bytes;
  }
  ENVKIT_CHECK(RequireFreeSpace(store.data, total, "unpacking the wheels"));

  if (missing.builder_root) total += InstalledSize(builder.root_debs);
  for (const LayerPlan* layer : missing.layers) total += InstalledSize(layer->debs);
  Activity activity(terminal, total);
  const Maker maker{store, work, terminal, activity, project.root};
  std::vector<std::pair<std::uint64_t, Task>> tasks;  // with what they cost
  if (missing.builder_root) {
    tasks.emplace_back(UINT64_MAX, [&] { return maker.BuilderRoot(builder); });
  }
  if (torch) {
    tasks.emplace_back(torch->bytes, [&] { return maker.BuilderTorch(builder.torch, *torch); });
  }
  for (const LayerPlan* layer : missing.layers) {
    if (layer->kind == "os") {
      tasks.emplace_back(UINT64_MAX - 1, [&, layer] { return maker.SystemLayer(*layer); });
    } else if (const auto content = contents.find(layer); content != contents.end()) {
      tasks.emplace_back(content->second.bytes, [&maker, layer, &content = content->second] {
        return maker.WheelLayer(*layer, content);
      });
    }
  }
  std::sort(tasks.begin(), tasks.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Task> ordered;
  ordered.reserve(tasks.size());
  for (auto& [cost, task] : tasks) ordered.push_back(std::move(task));
  // Twice as many as processors: half of them wait for the disk, past the page cache.
  return RunParallel(ordered, 2 * ProbeHost().cpus);
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

#include "image/prune.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "image/layer.h"
#include "image/plan.h"
#include "image/stored.h"
#include "project/lock.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// A download this young may belong to somebody who has only begun.
constexpr std::int64_t kYoung = 3600;

struct Needed {
  std::set<std::string> images, roots, downloads, data;
  // A project that cannot be read might need anything.
  bool all_roots = false, all_downloads = false, all_data = false;
};

std::int64_t TimeOf(const fs::path& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 ? status.st_mtime : 0;
}

std::uint64_t SizeOf(const fs::path& tree) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored) && !it->is_symlink(ignored)) bytes += it->file_size(ignored);
  }
  return bytes;
}

std::vector<fs::path> EntriesOf(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    entries.push_back(entry.path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

void NeedWhatPlansNeed(const Project& project, const Lock& lock, const Recipes& recipes,
                       const std::string& profile, Needed& needed) {
  const std::size_t dash = profile.rfind('-');
  if (dash == std::string::npos) return;
  const auto plan =
      PlanImage(project, lock, recipes, profile.substr(0, dash), profile.substr(dash + 1));
  if (!plan) {
    needed.all_roots = true;
    return;
  }
  const BuilderPlan builder = PlanBuilder(*plan);
  needed.roots.insert({builder.root_key, builder.torch.key});
}

Needed WhatProjectsNeed(const Store& store, const Recipes& recipes) {
  Needed needed;
  for (const KnownProject& known : KnownProjects(store)) {
    for (const auto& [profile, digest] : known.images) needed.images.insert(digest);
    const auto project = LoadProject(known.root);
    if (project) {
      for (const auto& [name, data] : project->data) {
        needed.data.insert(data.sha256);
        needed.downloads.insert(data.sha256);
      }
    } else {
      needed.all_data = needed.all_roots = needed.all_downloads = true;
    }
    const fs::path file = project ? LockFile(*project) : known.root / "envkit.lock";
    const auto text = ReadFile(file);
    const auto lock = text ? ParseLock(*text, file) : Fail("");
    if (!lock) {
      needed.all_roots = needed.all_downloads = true;
      continue;
    }
    for (const LockedWheel& wheel : lock->wheels) needed.downloads.insert(wheel.sha256);
    for (const LockedWheel& wheel : lock->build_wheels) needed.downloads.insert(wheel.sha256);
    for (const LockedSource& source : lock->sources) needed.downloads.insert(source.sha256);
    for (const LockedDeb& deb : lock->debs) needed.downloads.insert(deb.sha256);
    if (!project) continue;
    for (const auto& [profile, digest] : known.images) {
      NeedWhatPlansNeed(*project, *lock, recipes, profile, needed);
    }
  }
  return needed;
}

class Pruner {
 public:
  Pruner(const Store& store, const PruneRequest& request, std::int64_t now, Needed needed)
      : store_(store), request_(request), now_(now), needed_(std::move(needed)) {}

  Result<PruneReport> Run(const fs::path& trash) {
    trash_ = trash;
    for (const fs::path& lease : EntriesOf(store_.data / "leases")) {
      if (lease.filename() != "store") something_runs_ = something_runs_ || Runs(lease.filename());
    }
    ENVKIT_CHECK(Images());
    ENVKIT_CHECK(Layers());
    ENVKIT_CHECK(Roots());
    ENVKIT_CHECK(Unpacked());
    ENVKIT_CHECK(Downloads());
    ENVKIT_CHECK(Records());
    return std::move(report_);
  }

 private:
  bool OldEnough(const fs::path& path, std::int64_t least = 0) const {
    return now_ - TimeOf(path) >= std::max(request_.older_than.value_or(0), least);
  }

  // Out of the way at once; the work directory is emptied after the lock is released.
  Result<void> Remove(const fs::path& path) {
    if (request_.dry_run) return {};
    const fs::path aside = trash_ / fmt::format("{}", moved_++);
    if (rename(path.c_str(), aside.c_str()) == 0 || errno == ENOENT) return {};
    if (errno == EXDEV) return RemoveTree(path);
    return FileFailure("removing", path, errno);
  }
  Result<void> Remove(const fs::path& path, const char* kind, std::string what,
                      std::uint64_t bytes) {
    ENVKIT_CHECK(Remove(path));
    report_.removed.push_back({kind, std::move(what), bytes});
    report_.bytes += bytes;
    return {};
  }

  bool Runs(const std::string& digest) const {
    bool busy = false;
    const fs::path lease = store_.data / "leases" / digest;
    std::error_code error;
    if (!fs::exists(lease, error)) return false;
    const auto lock = FileLock::TryAcquire(lease, busy);
    return busy || !lock;
  }

  Result<void> Images() {
    for (const fs::path& file : EntriesOf(store_.data / "images")) {
      const std::string digest = file.stem().string();
      const auto image = ReadStoredImage(digest, store_);
      bool keep = image && needed_.images.contains(digest) && !request_.all;
      keep = keep || (image && !OldEnough(file));
      if (image && !keep && Runs(digest)) {
        keep = true;
        ++report_.running;
      }
      if (keep) {
        kept_images_.insert(digest);
        for (const Layer& layer : image->layers) kept_layers_.insert(layer.diff_id);
        continue;
      }
      // Its size is its layers', which others may have too.
      ENVKIT_CHECK(Remove(file, "image",
                          image ? fmt::format("{} {:.12}", ImageTag(*image), digest) : digest, 0));
    }
    return {};
  }

  Result<void> Layers() {
    for (const fs::path& plan : EntriesOf(store_.data / "plans")) {
      const auto digest = ReadFile(plan);
      if (!digest || !kept_images_.contains(*digest)) ENVKIT_CHECK(Remove(plan));
    }
    std::vector<fs::path> removed;
    for (const fs::path& layer : EntriesOf(store_.data / "layers")) {
      const std::string diff_id = layer.filename().string();
      if (kept_layers_.contains(diff_id)) continue;
      if (!OldEnough(layer)) {
        kept_layers_.insert(diff_id);
      } else {
        removed.push_back(layer);
      }
    }
    for (const fs::path& key : EntriesOf(store_.data / "keys")) {
      const auto diff_id = ReadFile(key);
      if (!diff_id || !kept_layers_.contains(*diff_id)) ENVKIT_CHECK(Remove(key));
    }
    for (const fs::path& layer : removed) {
      const std::string diff_id = layer.filename().string();
      std::string what = "?";
      if (const auto info = ReadFile(layer / "info.json")) {
        const auto json = nlohmann::json::parse(*info, nullptr, false);
        if (json.is_object()) what = json.value("what", what);
      }
      ENVKIT_CHECK(Remove(layer, "layer", fmt::format("{} {:.12}", what, diff_id),
                          LayerBytes(store_, diff_id).value_or(0)));
    }
    return {};
  }

  Result<void> Roots() {
    for (const fs::path& root : EntriesOf(store_.data / "roots")) {
      const bool keep = needed_.all_roots || needed_.roots.contains(root.filename().string());
      if ((keep && !request_.all) || !OldEnough(root)) continue;
      ENVKIT_CHECK(Remove(root, "builder", root.filename().string().substr(0, 12), SizeOf(root)));
    }
    return {};
  }

  Result<void> Unpacked() {
    for (const fs::path& data : EntriesOf(store_.data / "data")) {
      const bool keep = needed_.all_data || needed_.data.contains(data.filename().string());
      // A running job may have it mounted.
      if (something_runs_ || (keep && !request_.all) || !OldEnough(data)) continue;
      ENVKIT_CHECK(Remove(data, "data", data.filename().string().substr(0, 12), SizeOf(data)));
    }
    return {};
  }

  Result<void> Downloads() {
    for (const fs::path& download : EntriesOf(store_.cache / "downloads")) {
      const bool keep =
          needed_.all_downloads || needed_.downloads.contains(download.filename().string());
      if (keep && !request_.all) continue;
      bool old = true;
      std::string what = download.filename().string().substr(0, 12);
      for (const fs::path& file : EntriesOf(download)) {
        old = old && OldEnough(file, kYoung);
        what = file.filename().string();
      }
      if (!old || !OldEnough(download, kYoung)) continue;
      ENVKIT_CHECK(Remove(download, "download", what, SizeOf(download)));
    }
    return {};
  }

  // Of projects that are gone.
  Result<void> Records() {
    std::set<std::string> known;
    for (const KnownProject& project : KnownProjects(store_)) {
      known.insert(Sha256Of(project.root.string()) + ".json");
    }
    for (const fs::path& record : EntriesOf(store_.data / "projects")) {
      if (!known.contains(record.filename().string())) ENVKIT_CHECK(Remove(record));
    }
    return {};
  }

  const Store& store_;
  const PruneRequest& request_;
  std::int64_t now_;
  Needed needed_;
  fs::path trash_;
  std::size_t moved_ = 0;
  bool something_runs_ = false;
  std::set<std::string> kept_images_, kept_layers_;
  PruneReport report_;
};

}  // namespace

Result<FileLock> HoldStore(const Store& store) {
  return FileLock::AcquireShared(store.data / "leases" / "store");
}

Result<FileLock> HoldImage(const Store& store, const std::string& config_digest) {
  return FileLock::AcquireShared(store.data / "leases" / config_digest);
}

Result<PruneReport> PruneStore(const Store& store, const Recipes& recipes,
                               const PruneRequest& request, std::int64_t now, Terminal& terminal) {
  // Before the lock: it looks for what killed processes left, and that takes its time.
  ENVKIT_TRY(const WorkDirectory trash, WorkDirectory::Make(store));
  PruneReport report;
  {
    bool busy = false;
    const fs::path lease = store.data / "leases" / "store";
    auto lock = FileLock::TryAcquire(lease, busy);
    if (busy) {
      terminal.Step("wait", "another envkit builds, loads or exports an image");
      lock = FileLock::Acquire(lease);
    }
    if (!lock) return Unexpected(std::move(lock).error());
    Pruner pruner(store, request, now, WhatProjectsNeed(store, recipes));
    ENVKIT_TRY(report, pruner.Run(trash.path()));
  }
  return report;
}

std::string PruneText(const PruneReport& report, bool dry_run) {
  std::string text;
  for (const Pruned& one : report.removed) {
    text += fmt::format("{:<9} {:<60} {:>8}\n", one.kind, one.what,
                        one.kind == "image" ? "" : HumanBytes(one.bytes));
    while (text.ends_with(" \n")) text.erase(text.size() - 2, 1);
  }
  if (report.running > 0) {
    text += fmt::format(
        "{} left: {} now\n",
        report.running == 1 ? "1 image is" : fmt::format("{} images are", report.running),
        report.running == 1 ? "it runs" : "they run");
  }
  if (report.removed.empty()) return text + "nothing to remove: all of it is in use";
  return text + (dry_run ? "would free " : "freed ") + HumanBytes(report.bytes);
}

nlohmann::json PruneToJson(const PruneReport& report, bool dry_run) {
  nlohmann::json removed = nlohmann::json::array();
  for (const Pruned& one : report.removed) {
    removed.push_back({{"kind", one.kind}, {"what", one.what}, {"bytes", one.bytes}});
  }
  return {{"schema", 1},
          {"dry_run", dry_run},
          {"bytes", report.bytes},
          {"running", report.running},
          {"removed", removed}};
}

std::optional<std::int64_t> ParseAge(std::string_view text) {
  std::size_t digits = 0;
  while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') ++digits;
  if (digits == 0 || digits > 6) return std::nullopt;
  const std::int64_t number =
      std::strtoll(std::string(text.substr(0, digits)).c_str(), nullptr, 10);
  const std::string_view unit = text.substr(digits);
  if (unit == "d") return number * 86'400;
  if (unit == "h") return number * 3600;
  if (unit == "min") return number * 60;
  if (unit == "s") return number;
  return std::nullopt;
}

}  // namespace envkit

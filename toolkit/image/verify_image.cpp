#include "image/verify_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <system_error>
#include <thread>

#include "base/digest.h"
#include "base/files.h"
#include "host/facts.h"
#include "image/layer.h"
#include "image/plan.h"
#include "image/record.h"
#include "image/wheel_papers.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// Each index once, on as many threads as there are cores.
void ForEach(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::jthread> pool;
  const auto threads = static_cast<std::size_t>(std::max(ProbeHost().cpus, 1));
  for (std::size_t thread = 0; thread < std::min(threads, count); ++thread) {
    pool.emplace_back([&] {
      for (std::size_t index = next++; index < count; index = next++) work(index);
    });
  }
}

fs::path DirectoryOf(const Layer& layer) { return layer.tree.parent_path(); }

std::string Remedy(const Layer& layer) {
  return "envkit verify --repair makes it anew; by hand:  " + MakeAnew({&layer});
}

// Which package a path belongs to, for people.
class Owners {
 public:
  explicit Owners(const Layer& layer) {
    if (const auto files = OwnedFiles(layer)) {
      for (const OwnedFile& file : *files) owners_[file.path] = file.wheel;
    }
    std::error_code error;
    const fs::path lists = layer.tree / "var/lib/dpkg/info";
    for (const fs::directory_entry& entry : fs::directory_iterator(lists, error)) {
      if (entry.path().extension() != ".list") continue;
      const std::string text = ReadFile(entry.path()).value_or("");
      const std::string package = entry.path().stem().string();
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        if (end > at + 1) owners_[text.substr(at + 1, end - at - 1)] = package;
        at = end + 1;
      }
    }
  }
  std::string Of(const std::string& path) const {
    const auto owner = owners_.find(path);
    return owner == owners_.end() ? "" : fmt::format(" ({})", owner->second);
  }

 private:
  std::map<std::string, std::string> owners_;
};

// What is wrong with a layer whose tar is not what it was.
Check Damage(const Layer& layer, const TreeScan& scan) {
  Check check = {"store.layer." + layer.what,
                 fmt::format("the layer {} is not what was built", layer.what),
                 Verdict::kFail,
                 {},
                 Remedy(layer)};
  const Owners owners(layer);
  if (const auto manifest = ReadManifest(layer.tree)) {
    for (const TreeDifference& one : CompareTrees(*manifest, scan.entries)) {
      check.evidence.push_back(fmt::format("/{}{}: {}", one.path, owners.Of(one.path), one.what));
    }
  }
  check.evidence = Shorten(std::move(check.evidence));
  if (check.evidence.empty()) {
    check.evidence.emplace_back(
        "the store has no list of this layer's files that tells which of them changed");
  }
  check.evidence.push_back(
      fmt::format("its tar has sha256 {} instead of {}", scan.diff_id, layer.diff_id));
  return check;
}

// The scan of LAYER, or the check that failed.
struct LayerResult {
  std::optional<TreeScan> scan;
  std::optional<Check> failure;
};

LayerResult ScanLayer(const Layer& layer, bool quick) {
  auto failed = [&](const std::string& what, const std::string& evidence) {
    return LayerResult{
        {}, Check{"store.layer." + layer.what, what, Verdict::kFail, {evidence}, Remedy(layer)}};
  };
  std::error_code error;
  if (!fs::exists(layer.tree, error)) {
    return failed(fmt::format("the layer {} is missing", layer.what),
                  "there is no " + layer.tree.string());
  }
  auto mtime = LayerTime(layer);
  if (!mtime) {
    return failed(fmt::format("the layer {} is damaged", layer.what), mtime.error().what);
  }
  if (quick) return {};
  auto scan = ScanTree(layer.tree, *mtime);
  if (!scan) {
    return failed(fmt::format("the layer {} cannot be read", layer.what), scan.error().what);
  }
  if (scan->diff_id != layer.diff_id) return {{}, Damage(layer, *scan)};
  // It is what was built: the moment to note what that is, where an older envkit did not.
  if (!fs::exists(DirectoryOf(layer) / kManifestName, error)) {
    (void)WriteManifest(layer.tree, scan->entries);
  }
  return {std::move(*scan), {}};
}

// The files of one wheel in one layer against the wheel's RECORD.
void CheckWheel(const LayerPlan& plan, const LockedWheel& wheel, const Layer& layer,
                const TreeScan& scan, const std::vector<OwnedFile>& owned, const Store& store,
                std::vector<std::string>& wrong, std::vector<std::string>& unknown,
                std::size_t& files) {
  const auto papers = ReadWheelPapers(store, layer, wheel);
  if (!papers) {
    (papers.error().code == ExitCode::kMissing ? unknown : wrong).push_back(papers.error().what);
    return;
  }
  const auto record = ParseRecord(papers->record, wheel.file);
  if (!record) {
    wrong.push_back(record.error().what);
    return;
  }
  std::map<std::string, const RecordedFile*> recorded;
  for (const RecordedFile& file : *record) {
    if (const auto path = PlaceInImage(plan.site, wheel, file.path)) recorded[*path] = &file;
  }
  std::map<std::string_view, const TreeEntry*> there;
  for (const TreeEntry& entry : scan.entries) there[entry.path] = &entry;
  for (const OwnedFile& file : owned) {
    if (file.wheel != wheel.file) continue;
    const auto entry = there.find(file.path);
    const auto said = recorded.find(file.path);
    auto add = [&](const std::string& what) {
      wrong.push_back(fmt::format("/{} ({}): {}", file.path, wheel.file, what));
    };
    ++files;
    if (entry == there.end()) {
      add("is missing");
    } else if (said == recorded.end()) {
      add("RECORD does not name it");
    } else if (!said->second->sha256.empty() && entry->second->sha256 != said->second->sha256) {
      add(fmt::format("sha256 {} instead of RECORD's {}", entry->second->sha256,
                      said->second->sha256));
    }
  }
}

Check CheckWheels(const Image& image, const ImagePlan& plan, const Store& store,
                  const StoreCheck& scanned, bool quick) {
  Check check = {
      "lock.wheels", "the wheels' files have the hashes of their RECORDs", Verdict::kPass, {}};
  if (quick) {
    check.verdict = Verdict::kSkipped;
    check.evidence = {"left out by --quick"};
    return check;
  }
  std::vector<std::string> wrong, unknown;
  std::vector<const Layer*> layers;  // of WRONG
  std::size_t files = 0, wheels = 0;
  for (std::size_t index = 0; index < plan.layers.size() && index < image.layers.size(); ++index) {
    const LayerPlan& layer = plan.layers[index];
    const auto scan = scanned.scans.find(image.layers[index].diff_id);
    if (layer.kind != "wheel" || scan == scanned.scans.end()) continue;
    const auto owned = OwnedFiles(image.layers[index]);
    if (!owned) {
      wrong.push_back(owned.error().what);
      continue;
    }
    const std::size_t before = wrong.size();
    for (const LockedWheel& wheel : layer.wheels) {
      CheckWheel(layer, wheel, image.layers[index], scan->second, *owned, store, wrong, unknown,
                 files);
      ++wheels;
    }
    if (wrong.size() > before) layers.push_back(&image.layers[index]);
  }
  check.evidence = Shorten(wrong);
  if (!wrong.empty()) {
    check.verdict = Verdict::kFail;
    check.next = MakeAnew(layers);
    return check;
  }
  check.evidence = Shorten(unknown);
  if (!unknown.empty()) {
    check.verdict = Verdict::kSkipped;
    check.next =
        "These layers were built before their RECORDs were kept. Their tars are compared all the "
        "same.";
    return check;
  }
  check.evidence = {fmt::format("{} files of {} wheels", files, wheels)};
  return check;
}

Check CheckPackages(const Image& image, const ImagePlan& plan) {
  Check check = {"lock.packages", "the image was built from this lock", Verdict::kPass, {}};
  if (image.lock_digest != plan.lock_digest) {
    check.evidence.push_back(fmt::format("its lock has digest {}, envkit.lock has {}",
                                         image.lock_digest, plan.lock_digest));
  }
  auto text = [](const ImagePackage& package) {
    return fmt::format("{} {} sha256 {}", package.name, package.version, package.sha256);
  };
  std::vector<std::string> expected, found;
  for (const ImagePackage& package : PackagesOf(plan)) expected.push_back(text(package));
  for (const ImagePackage& package : image.packages) found.push_back(text(package));
  std::sort(expected.begin(), expected.end());
  std::sort(found.begin(), found.end());
  std::vector<std::string> missing, more;
  std::set_difference(expected.begin(), expected.end(), found.begin(), found.end(),
                      std::back_inserter(missing));
  std::set_difference(found.begin(), found.end(), expected.begin(), expected.end(),
                      std::back_inserter(more));
  for (const std::string& one : missing) check.evidence.push_back("only in the lock: " + one);
  for (const std::string& one : more) check.evidence.push_back("only in the image: " + one);
  check.evidence = Shorten(std::move(check.evidence));
  if (!check.evidence.empty()) {
    check.verdict = Verdict::kFail;
    check.next = "envkit build";
  } else {
    check.evidence = {fmt::format("{} packages, lock digest {}", found.size(), plan.lock_digest)};
  }
  return check;
}

Check CheckRecorded(const Image& image, const ImagePlan& plan, const Lock& lock) {
  Check check = {"lock.built",
                 "the digests are those that envkit.lock has on record",
                 Verdict::kSkipped,
                 {"envkit.lock has none of this image"}};
  for (const BuiltImage& built : lock.built) {
    if (built.profile != image.profile || built.variant != image.variant ||
        built.architecture != plan.architecture) {
      continue;
    }
    check.verdict = Verdict::kPass;
    check.evidence = {"config digest " + image.config_digest};
    if (built.config_digest == image.config_digest) return check;
    check.verdict = Verdict::kFail;
    check.evidence = {
        fmt::format("config digest {} instead of {}", image.config_digest, built.config_digest)};
    for (std::size_t index = 0; index < image.layers.size(); ++index) {
      const std::string recorded = index < built.diff_ids.size() ? built.diff_ids[index] : "none";
      if (image.layers[index].diff_id == recorded) continue;
      check.evidence.push_back(fmt::format("layer {}: {} instead of {}", image.layers[index].what,
                                           image.layers[index].diff_id, recorded));
    }
    check.next =
        "The same lock gave another image: another envkit, or a build that was tampered "
        "with.\nCompare `envkit version`; if the new image is right: envkit lock --record";
  }
  return check;
}

}  // namespace

std::string MakeAnew(const std::vector<const Layer*>& layers) {
  std::string directories;
  for (const Layer* layer : layers) directories += " " + DirectoryOf(*layer).string();
  return fmt::format("rm -rf{} && envkit build", directories);
}

ImageFiles::ImageFiles(const Image& image, const std::map<std::string, TreeScan>& scans) {
  for (auto layer = image.layers.rbegin(); layer != image.layers.rend(); ++layer) {
    Files& files = layers_.emplace_back(Files{layer->tree, {}});
    if (const auto scan = scans.find(layer->diff_id); scan != scans.end()) {
      files.entries = scan->second.entries;
    } else if (auto manifest = ReadManifest(layer->tree)) {
      files.entries = std::move(*manifest);
    }
  }
}

std::string ImageFiles::HashOf(const std::string& path) const {
  const std::string relative = path.substr(1);
  for (const Files& layer : layers_) {
    std::error_code error;
    if (!layer.entries) {
      const fs::path file = layer.tree / relative;
      if (!fs::is_regular_file(fs::symlink_status(file, error))) continue;
      return Sha256OfFile(file).value_or("");
    }
    const auto entry = std::lower_bound(
        layer.entries->begin(), layer.entries->end(), relative,
        [](const TreeEntry& one, const std::string& wanted) { return one.path < wanted; });
    if (entry != layer.entries->end() && entry->path == relative) return entry->sha256;
  }
  return "";
}

std::vector<std::string> Shorten(std::vector<std::string> lines, std::size_t count) {
  if (lines.size() <= count) return lines;
  const std::size_t left = lines.size() - count;
  lines.resize(count);
  lines.push_back(fmt::format("and {} more", left));
  return lines;
}

std::optional<std::string> BuiltDigest(const ImagePlan& plan, const Store& store) {
  const auto digest = ReadFile(store.data / "plans" / PlanKey(plan));
  if (!digest || !IsSha256(*digest)) return std::nullopt;
  return *digest;
}

StoreCheck CheckStore(const Image& image, bool quick, Terminal& terminal) {
  StoreCheck result;
  std::vector<LayerResult> results(image.layers.size());
  // Large ones first, so that no thread begins one when the others have ended.
  std::vector<std::size_t> order(image.layers.size());
  for (std::size_t index = 0; index < order.size(); ++index) order[index] = index;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return image.layers[a].bytes > image.layers[b].bytes;
  });
  {
    const auto progress = terminal.StartProgress("verify", "layers", image.Bytes());
    ForEach(order.size(), [&](std::size_t index) {
      const Layer& layer = image.layers[order[index]];
      results[order[index]] = ScanLayer(layer, quick);
      progress->Add(layer.bytes);
    });
    progress->Done();
  }
  Check sound = {"store.layers", "", Verdict::kPass, {}};
  std::size_t count = 0;
  std::uint64_t bytes = 0;
  for (std::size_t index = 0; index < results.size(); ++index) {
    const Layer& layer = image.layers[index];
    if (results[index].failure) {
      result.checks.push_back(std::move(*results[index].failure));
      result.damaged.push_back(&layer);
      continue;
    }
    ++count;
    bytes += layer.bytes;
    sound.evidence.push_back(
        fmt::format("{}: {}, {}", layer.what, layer.diff_id, HumanBytes(layer.bytes)));
    if (results[index].scan) result.scans[layer.diff_id] = std::move(*results[index].scan);
  }
  sound.what =
      quick ? fmt::format("{} layers are there (not hashed: --quick)", count)
            : fmt::format("{} layers, {}: every byte is what was built", count, HumanBytes(bytes));
  if (count > 0) result.checks.insert(result.checks.begin(), std::move(sound));
  return result;
}

Result<void> RemoveDamaged(const StoreCheck& check, const Store& store) {
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  for (const Layer* layer : check.damaged) {
    const fs::path directory = DirectoryOf(*layer);
    std::error_code error;
    if (!fs::exists(directory, error)) continue;
    // Under another name first: half a layer must never lie under a final one.
    fs::rename(directory, work.path() / directory.filename(), error);
    if (error) return FileFailure("removing", directory, error.value());
  }
  return {};
}

std::vector<Check> CheckLock(const Image& image, const ImagePlan& plan, const Lock& lock,
                             const Store& store, const StoreCheck& scanned, bool quick) {
  std::vector<Check> checks = {CheckPackages(image, plan), CheckRecorded(image, plan, lock),
                               CheckWheels(image, plan, store, scanned, quick)};
  const LayerPlan* os = FindKind(plan, "os");
  for (std::size_t index = 0; index < plan.layers.size() && index < image.layers.size(); ++index) {
    std::error_code error;
    if (&plan.layers[index] != os || !fs::exists(image.layers[index].tree, error)) continue;
    checks.push_back(CheckDebs(image.layers[index], os->debs, store, quick));
  }
  return checks;
}

}  // namespace envkit

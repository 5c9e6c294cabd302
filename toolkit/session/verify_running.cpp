#include "session/verify_running.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "engine/engine.h"
#include "image/build.h"
#include "image/manifest.h"
#include "image/stored.h"
#include "image/verify_image.h"
#include "session/environment.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The image of the store that the container was started from.
Result<Image> ImageOf(const RunningContainer& container, const Store& store) {
  if (KeepsImages(container.engine)) return LoadImageRecord(store, container.config_digest);
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(store.data / "images", error)) {
    auto image = LoadImageRecord(store, entry.path().stem().string());
    if (!image || image->layers.size() != container.layer_trees.size()) continue;
    bool same = true;
    for (std::size_t index = 0; index < image->layers.size(); ++index) {
      same = same && image->layers[index].tree == container.layer_trees[index];
    }
    if (same) return image;
  }
  return Missing("its layers are not those of an image in the store");
}

bool IsMounted(const RunningContainer& container, const std::string& path) {
  for (const std::string& mount : container.mounts) {
    if (path == mount || path.starts_with(mount + "/")) return true;
  }
  return false;
}

Check CheckLibraries(const RunningContainer& container, const Image& image) {
  Check check = {"running.libraries", "", Verdict::kPass, {}};
  std::map<std::string, MappedFile> files;
  for (const long pid : container.pids) {
    for (MappedFile& file : MappedFiles(pid)) {
      // The same file in all ranks is looked at once, unless one of them has another.
      auto [there, added] = files.emplace(file.path, file);
      if (!added && file.deleted) there->second = std::move(file);
    }
  }
  const ImageFiles built(image);
  std::size_t same = 0, mounted = 0;
  for (const auto& [path, file] : files) {
    if (IsMounted(container, path)) {
      ++mounted;
      continue;
    }
    const auto found = Sha256OfFile(file.file);
    const std::string expected = built.HashOf(path);
    if (found && *found == expected && !file.deleted) {
      ++same;
      continue;
    }
    check.verdict = Verdict::kFail;
    check.evidence.push_back(
        file.deleted
            ? fmt::format("{}: the file that is loaded is no longer the one at its place", path)
        : !found           ? found.error().what
        : expected.empty() ? fmt::format("{}: no layer of the image has it", path)
                           : fmt::format("{}: sha256 {} instead of {}", path, *found, expected));
  }
  check.what =
      fmt::format("{}: {} loaded programs and libraries are the image's", container.name, same);
  if (mounted > 0) {
    check.evidence.push_back(
        fmt::format("{} more come from mounts, which an image says nothing about", mounted));
  }
  if (files.empty()) {
    check.verdict = Verdict::kSkipped;
    check.what = fmt::format("{}: its processes cannot be looked at", container.name);
    check.next = "Run it as the user who started the container, or as root.";
    check.incomplete = true;
  }
  return check;
}

// Of a store that is not ours: nothing that we could compare it with.
bool IsForeign(const RunningContainer& container, const Store& store) {
  if (KeepsImages(container.engine)) return false;
  const std::string ours = (store.data / "layers").string() + "/";
  return container.layer_trees.empty() || !container.layer_trees[0].string().starts_with(ours);
}

}  // namespace

std::vector<Check> CheckContainer(const RunningContainer& container, const Store& store,
                                  const Lock* lock, const std::string& project) {
  std::vector<Check> checks;
  const std::string stop =
      KeepsImages(container.engine) ? container.engine + " stop " + container.name : "stop it";
  const auto image = ImageOf(container, store);
  Check of_image = {"running.image", "", Verdict::kPass, {}};
  if (image) {
    of_image.what = fmt::format("{} ({}) was started from {}", container.name, container.engine,
                                ImageTag(*image));
    of_image.evidence = {"config digest " + image->config_digest,
                         "lock digest " + image->lock_digest};
  } else {
    of_image.verdict = Verdict::kFail;
    of_image.what = fmt::format("{} ({}) was started from an image that this store does not know",
                                container.name, container.engine);
    of_image.evidence = {image.error().what};
    of_image.next = "Start it anew:  envkit run";
  }
  checks.push_back(std::move(of_image));
  if (image && lock != nullptr && image->name == project) {
    Check locked = {"running.lock",
                    fmt::format("{}: its image is of the current lock", container.name),
                    Verdict::kPass,
                    {"lock digest " + image->lock_digest}};
    if (image->lock_digest != lock->Digest()) {
      locked.verdict = Verdict::kFail;
      locked.what = fmt::format("{}: its image is of another lock", container.name);
      locked.evidence = {
          fmt::format("lock digest {} instead of {}", image->lock_digest, lock->Digest())};
      locked.next = fmt::format("{}, and start it anew: envkit.lock has changed since.", stop);
    }
    checks.push_back(std::move(locked));
  }

  Check files = {
      "running.files",
      fmt::format("{}: no file of the image was changed since it started", container.name),
      Verdict::kPass,
      {}};
  if (!container.changes.empty()) {
    files.verdict = Verdict::kFail;
    files.what = fmt::format("{}: {} of its files are not the image's", container.name,
                             container.changes.size());
    files.evidence = Shorten(container.changes);
    files.next = fmt::format("Changes vanish with the container: {}, and start it anew.", stop);
  }
  checks.push_back(std::move(files));
  if (image) checks.push_back(CheckLibraries(container, *image));
  return checks;
}

Result<void> VerifyRunning(const fs::path& directory, const std::string& container,
                           const std::string& engine, VerifyReport& report) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const auto found, FindRunning(engine));
  const auto env = LoadEnvironment(directory);
  std::string names;
  std::size_t looked_at = 0;
  for (const RunningContainer& one : found) {
    names += fmt::format("\n{}  {}", one.name, one.engine);
    const bool wanted = container.empty() || one.name == container || one.job == container ||
                        std::any_of(one.pids.begin(), one.pids.end(),
                                    [&](long pid) { return std::to_string(pid) == container; });
    if (!wanted || (container.empty() && IsForeign(one, store))) continue;
    ++looked_at;
    for (Check& check :
         CheckContainer(one, store, env ? &env->lock : nullptr, env ? env->project.name : "")) {
      report.checks.push_back(std::move(check));
    }
  }
  if (looked_at > 0) return {};
  if (found.empty() || container.empty()) {
    return Missing(found.empty() ? "nothing that envkit started runs here"
                                 : "nothing that runs here is of this store's images",
                   found.empty() ? "envkit run train starts something."
                                 : "Of other stores (ENVKIT_STORE):" + names);
  }
  return Usage(fmt::format("nothing that runs is called \"{}\"", container), "There are:" + names);
}

Check CheckEngineImage(const std::string& engine, const Image& image) {
  Check check = {"engine.image", engine + " has exactly this image", Verdict::kPass, {}};
  const auto inspected =
      RunForOutput({.argv = {engine, "image", "inspect", "sha256:" + image.config_digest}});
  json document = inspected ? json::parse(*inspected, nullptr, false) : json();
  if (document.is_array() && document.size() == 1) document = document.front();
  json layers = json::array();
  for (const Layer& layer : image.layers) layers.push_back("sha256:" + layer.diff_id);
  std::string id = document.is_object() ? document.value("Id", "") : "";
  if (id.starts_with("sha256:")) id.erase(0, 7);  // podman leaves it out
  const bool same = document.is_object() && id == image.config_digest &&
                    document.value("/RootFS/Layers"_json_pointer, json()) == layers;
  check.evidence = {fmt::format("id sha256:{}", image.config_digest),
                    fmt::format("{} layers with the same digests", image.layers.size())};
  if (!same) {
    check.verdict = Verdict::kFail;
    check.evidence = {inspected ? engine + " image inspect names other layers"
                                : inspected.error().what};
    check.next =
        fmt::format("{} image rm sha256:{}, then run this again", engine, image.config_digest);
  }
  return check;
}

}  // namespace envkit

// Images in. Whoever made the archive is not trusted to have made it well: names, sizes, digests
// and JSON are checked before they are used, and what is unpacked is bounded.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/archive.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/parallel.h"
#include "host/facts.h"
#include "image/canonical_tar.h"
#include "image/layer.h"
#include "image/oci_layout.h"
#include "image/outside.h"
#include "image/prune.h"
#include "image/stored.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr std::size_t kMostLayers = 127;

// A layer as the archive has it.
struct Incoming {
  std::string diff_id, what = "layer", digest;  // of the blob; empty in a docker archive
  fs::path blob;
  std::uint64_t blob_bytes = 0;
  std::string encoding;  // zstd | gzip | "" as the descriptor says
  std::vector<std::string> keys;
  json wheels;
};
struct IncomingImage {
  Image image;  // without trees
  std::vector<Incoming> layers;
};

Unexpected Damaged(const std::string& what) {
  return Fail(what, "The archive is damaged or was changed: get it again from where it was made.");
}

Result<json> ReadJson(const fs::path& file) {
  std::error_code error;
  const auto status = fs::symlink_status(file, error);
  if (error || !fs::is_regular_file(status)) {
    return Damaged(fmt::format("{} is missing", file.filename().string()));
  }
  if (fs::file_size(file, error) > kLargestImageJson) {
    return Damaged(fmt::format("{} is larger than any that is honest", file.filename().string()));
  }
  ENVKIT_TRY(const std::string text, ReadFile(file));
  json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object() && !parsed.is_array()) {
    return Damaged(fmt::format("{} is not JSON", file.filename().string()));
  }
  return parsed;
}

// "sha256:…" → the digits; "" where it is anything else.
std::string Digits(const std::string& digest) {
  if (!digest.starts_with("sha256:") || !IsSha256(digest.substr(7))) return "";
  return digest.substr(7);
}

Result<void> CheckBlob(const fs::path& blob, const std::string& digest, std::uint64_t bytes) {
  std::error_code error;
  const auto status = fs::symlink_status(blob, error);
  if (error || !fs::is_regular_file(status)) {
    return Damaged(fmt::format("the blob sha256:{} is missing", digest));
  }
  if (const std::uint64_t size = fs::file_size(blob, error); size != bytes) {
    return Damaged(fmt::format("the blob sha256:{} has {} bytes and not {}", digest, size, bytes));
  }
  ENVKIT_TRY(const std::string found, Sha256OfFile(blob));
  if (found == digest) return {};
  return Damaged(fmt::format("a blob has the sha256 {} and not {}", found, digest));
}

// A small blob that a descriptor names, checked and parsed.
Result<json> ReadBlob(const fs::path& layout, const json& descriptor, std::string_view what) {
  const std::string digest = Digits(TextIn(descriptor, "digest"));
  if (digest.empty() || !descriptor.contains("size") || !descriptor["size"].is_number_unsigned()) {
    return Damaged(fmt::format("the {}'s descriptor has no sha256 digest or no size", what));
  }
  const std::uint64_t bytes = descriptor["size"];
  if (bytes > kLargestImageJson) {
    return Damaged(fmt::format("the {} is larger than any that is honest", what));
  }
  const fs::path blob = layout / "blobs/sha256" / digest;
  ENVKIT_CHECK(CheckBlob(blob, digest, bytes));
  return ReadJson(blob);
}

Unexpected NotOurs(const std::string& why) {
  return Usage(fmt::format("this is not an image that envkit built: {}", why),
               "Another image can be what yours stands on: base = \"oci:DIR\" in envkit.toml.");
}

bool IsTagWord(const std::string& text) {
  return !text.empty() && text.size() <= 128 && text[0] != '.' && text[0] != '-' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
                  c == '-';
         });
}

// What is shown to people: no control characters from a stranger's archive.
bool IsShowable(const std::string& text) {
  return !text.empty() && text.size() <= 128 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

// What the config's labels say, and its layers' diff_ids.
Result<IncomingImage> FromConfig(const std::string& config_json) {
  const json config = json::parse(config_json, nullptr, false);
  IncomingImage incoming;
  Image& image = incoming.image;
  image.config_json = config_json;
  image.config_digest = Sha256Of(config_json);
  const auto labels = "/config/Labels"_json_pointer, diff_ids = "/rootfs/diff_ids"_json_pointer;
  if (!config.is_object() || !config.contains(labels) || !config[labels].is_object()) {
    return NotOurs("it has no labels");
  }
  image.name = TextIn(config[labels], "org.opencontainers.image.title");
  image.profile = TextIn(config[labels], "dev.envkit.profile");
  image.variant = TextIn(config[labels], "dev.envkit.variant");
  image.lock_digest = TextIn(config[labels], "dev.envkit.lock.digest");
  if (!IsTagWord(image.name) || !IsTagWord(image.profile) || !IsTagWord(image.variant) ||
      !IsSha256(image.lock_digest)) {
    return NotOurs("its labels name no profile, variant and lock");
  }
  if (!config.contains(diff_ids) || !config[diff_ids].is_array() ||
      config[diff_ids].size() > kMostLayers || config[diff_ids].empty()) {
    return Damaged("the image's config names no layers");
  }
  for (const json& diff_id : config[diff_ids]) {
    Incoming& layer = incoming.layers.emplace_back();
    layer.diff_id = Digits(diff_id.is_string() ? diff_id.get<std::string>() : "");
    if (layer.diff_id.empty()) return Damaged("the image's config has a diff_id that is none");
  }
  // docker archives have no annotations; the history says as much.
  const auto history = "/history"_json_pointer;
  if (config.contains(history) && config[history].is_array() &&
      config[history].size() == incoming.layers.size()) {
    for (std::size_t index = 0; index < incoming.layers.size(); ++index) {
      const std::string by = TextIn(config[history][index], "created_by");
      const std::string what = by.starts_with("envkit ") ? by.substr(7) : "";
      if (IsShowable(what)) incoming.layers[index].what = what;
    }
  }
  return incoming;
}

void TakeAnnotations(const json& descriptor, Incoming& layer) {
  const json annotations = descriptor.value("annotations", json::object());
  if (const std::string what = TextIn(annotations, "dev.envkit.layer.what"); IsShowable(what)) {
    layer.what = what;
  }
  const std::string keys = TextIn(annotations, "dev.envkit.layer.keys");
  for (std::size_t at = 0; at < keys.size();) {
    const std::size_t end = std::min(keys.find(',', at), keys.size());
    if (std::string key = keys.substr(at, end - at); IsSha256(key)) {
      layer.keys.push_back(std::move(key));
    }
    at = end + 1;
  }
  layer.wheels = json::parse(TextIn(annotations, "dev.envkit.layer.wheels"), nullptr, false);
}

std::vector<ImagePackage> PackagesOf(const json& manifest) {
  std::vector<ImagePackage> packages;
  const json list = json::parse(
      TextIn(manifest.value("annotations", json::object()), "dev.envkit.packages"), nullptr, false);
  if (!list.is_array()) return packages;
  for (const json& one : list) {
    if (one.is_array() && one.size() == 3 && one[0].is_string() && one[1].is_string() &&
        one[2].is_string() && IsShowable(one[0]) && IsShowable(one[1])) {
      packages.push_back({one[0], one[1], one[2]});
    }
  }
  return packages;
}

Result<IncomingImage> ReadLayout(const fs::path& layout) {
  ENVKIT_TRY(const json index, ReadJson(layout / "index.json"));
  const json manifests =
      index.is_object() ? index.value("manifests", json::array()) : json::array();
  if (!manifests.is_array() || manifests.size() != 1) {
    return Usage(
        fmt::format("index.json names {} images", manifests.is_array() ? manifests.size() : 0),
        "envkit loads archives of one image.");
  }
  ENVKIT_TRY(const json manifest, ReadBlob(layout, manifests[0], "manifest"));
  if (!manifest.is_object() || !manifest.contains("config") || !manifest.contains("layers") ||
      !manifest["layers"].is_array()) {
    return Damaged("the manifest names no config or no layers");
  }
  ENVKIT_CHECK(ReadBlob(layout, manifest["config"], "config"));
  ENVKIT_TRY(const std::string config,
             ReadFile(layout / "blobs/sha256" / Digits(TextIn(manifest["config"], "digest"))));
  ENVKIT_TRY(IncomingImage incoming, FromConfig(config));
  if (manifest["layers"].size() != incoming.layers.size()) {
    return Damaged(fmt::format("the manifest has {} layers, and the config {}",
                               manifest["layers"].size(), incoming.layers.size()));
  }
  for (std::size_t index_of = 0; index_of < incoming.layers.size(); ++index_of) {
    const json& descriptor = manifest["layers"][index_of];
    Incoming& layer = incoming.layers[index_of];
    layer.digest = Digits(TextIn(descriptor, "digest"));
    if (layer.digest.empty() || !descriptor.contains("size") ||
        !descriptor["size"].is_number_unsigned()) {
      return Damaged("a layer's descriptor has no sha256 digest or no size");
    }
    layer.blob = layout / "blobs/sha256" / layer.digest;
    layer.blob_bytes = descriptor["size"];
    const std::string type = TextIn(descriptor, "mediaType");
    layer.encoding = type.ends_with("zstd") ? "zstd" : type.ends_with("gzip") ? "gzip" : "";
    TakeAnnotations(descriptor, layer);
  }
  incoming.image.packages = PackagesOf(manifest);
  return incoming;
}

Result<IncomingImage> ReadDockerArchive(const fs::path& directory) {
  ENVKIT_TRY(const json manifest, ReadJson(directory / "manifest.json"));
  if (!manifest.is_array() || manifest.size() != 1 || !manifest[0].is_object()) {
    return Usage("manifest.json names no image, or several", "envkit loads archives of one image.");
  }
  const std::string config = TextIn(manifest[0], "Config");
  const json layers = manifest[0].value("Layers", json::array());
  if (!IsSafeRelativePath(config) || !layers.is_array()) {
    return Damaged("manifest.json names no config or no layers");
  }
  ENVKIT_CHECK(ReadJson(directory / config));
  ENVKIT_TRY(const std::string text, ReadFile(directory / config));
  ENVKIT_TRY(IncomingImage incoming, FromConfig(text));
  if (layers.size() != incoming.layers.size()) {
    return Damaged(fmt::format("manifest.json has {} layers, and the config {}", layers.size(),
                               incoming.layers.size()));
  }
  std::error_code error;
  for (std::size_t index = 0; index < layers.size(); ++index) {
    const std::string name = layers[index].is_string() ? layers[index].get<std::string>() : "";
    if (!IsSafeRelativePath(name)) return Damaged("manifest.json has a layer without a good name");
    incoming.layers[index].blob = directory / name;
    incoming.layers[index].blob_bytes = fs::file_size(directory / name, error);
    if (error) incoming.layers[index].blob_bytes = 0;
  }
  return incoming;
}

// The list of who owns which file of TREE, from [[wheel, number of files], …].
Result<std::string> OwnersOf(const json& wheels, const fs::path& tree) {
  if (!wheels.is_array() || wheels.empty()) return "";
  std::vector<std::string> files;
  std::error_code error;
  const std::size_t root = tree.string().size() + 1;
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_regular_file(error) && !it->is_symlink(error)) {
      files.push_back(it->path().string().substr(root));
    }
  }
  if (error) return FileFailure("reading", tree, error.value());
  std::sort(files.begin(), files.end());
  std::string list;
  std::size_t at = 0;
  for (const json& run : wheels) {
    if (!run.is_array() || run.size() != 2 || !run[0].is_string() || !run[1].is_number_unsigned()) {
      return Damaged("a layer's list of wheels is none");
    }
    const std::string wheel = run[0];
    if (wheel.find_first_of("\t\n/") != std::string::npos) {
      return Damaged("a layer's list of wheels has a bad name");
    }
    for (std::uint64_t left = run[1]; left > 0 && at < files.size(); --left, ++at) {
      list += fmt::format("{}\t{}\t{}\n", fs::file_size(tree / files[at], error), wheel, files[at]);
    }
  }
  if (at != files.size()) return Damaged("a layer's list of wheels does not fit its files");
  return list;
}

Result<void> TakeLayer(const Incoming& incoming, const Store& store, const fs::path& work) {
  const std::string name = fmt::format("the layer {}", incoming.what);
  if (!incoming.digest.empty()) {
    auto checked = CheckBlob(incoming.blob, incoming.digest, incoming.blob_bytes);
    if (!checked) return Wrap(std::move(checked).error(), name);
  } else if (std::error_code error;
             !fs::is_regular_file(fs::symlink_status(incoming.blob, error))) {
    return Damaged(fmt::format("{} is missing", name));
  }
  const fs::path directory = work / incoming.diff_id;
  ENVKIT_CHECK(MakeDirectories(directory / "fs"));
  auto time = FirstTarTime(incoming.blob);
  if (!time) return Wrap(std::move(time).error(), name);
  TarOptions options;
  options.max_bytes = kAlwaysAllowed + incoming.blob_bytes * kLargestGrowth;
  auto unpacked = ExtractTar(incoming.blob, directory / "fs", *time, options);
  if (!unpacked) return Wrap(std::move(unpacked).error(), name);
  if (chmod((directory / "fs").c_str(), 0755) != 0) {
    return FileFailure("unpacking", directory / "fs", errno);
  }
  Sha256 hash;
  Layer layer;
  ENVKIT_TRY(layer.bytes,
             WriteCanonicalTar(directory / "fs", *time, [&](const char* data, std::size_t size) {
               hash.Update(data, size);
               return Result<void>();
             }));
  layer.diff_id = hash.Hex();
  if (layer.diff_id != incoming.diff_id) {
    return Damaged(
        fmt::format("{} is not what the image's config says: its tree has the diff_id "
                    "{} and not {}",
                    name, layer.diff_id, incoming.diff_id));
  }
  ENVKIT_TRY(const std::string files, OwnersOf(incoming.wheels, directory / "fs"));
  ENVKIT_TRY(const Layer published,
             PublishTree(store, incoming.what, *time, directory, std::move(layer), files));
  if (incoming.digest.empty() || incoming.encoding.empty()) return {};
  return WriteCompressed(published, incoming.encoding,
                         {incoming.digest, incoming.blob_bytes, "as it was loaded"});
}

bool HasLayer(const Store& store, const std::string& diff_id) {
  std::error_code error;
  return fs::exists(store.LayerTree(diff_id).parent_path() / "info.json", error);
}

// DIRECTORY/sources/<sha256>/<file>: into the downloads, each checked.
Result<std::size_t> TakeSources(const fs::path& directory, const Store& store,
                                const fs::path& work) {
  std::size_t taken = 0;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory / "sources", error)) {
    const std::string sha256 = entry.path().filename().string();
    if (!IsSha256(sha256)) continue;
    std::error_code inner;
    for (const fs::directory_entry& file : fs::directory_iterator(entry.path(), inner)) {
      if (file.is_symlink(inner) || !file.is_regular_file(inner)) continue;
      const fs::path place = store.DownloadPath(sha256, file.path().filename().string());
      ++taken;
      if (fs::exists(place, inner)) continue;
      const fs::path copy = work / sha256;
      fs::copy_file(file.path(), copy, inner);
      if (inner) return FileFailure("writing", copy, inner.value());
      ENVKIT_TRY(const std::string found, Sha256OfFile(copy));
      if (found != sha256) {
        return Damaged(fmt::format("{} has the sha256 {} and not {}",
                                   file.path().filename().string(), found, sha256));
      }
      ENVKIT_CHECK(MakeDirectories(place.parent_path()));
      fs::rename(copy, place, inner);
      if (inner == std::errc::cross_device_link) {
        fs::copy_file(copy, place.string() + ".part", inner);
        if (!inner) fs::rename(place.string() + ".part", place, inner);
      }
      if (inner) return FileFailure("writing", place, inner.value());
    }
  }
  return taken;
}

// Only what an archive of an image has in it; the rest is not unpacked.
bool BelongsInArchive(std::string_view path) {
  return path == "index.json" || path == "oci-layout" || path == "manifest.json" ||
         path == "blobs" || path == "sources" || path.starts_with("blobs/") ||
         path.starts_with("sources/") || path.ends_with("/layer.tar") ||
         (path.ends_with(".json") && path.find('/') == std::string_view::npos) || IsSha256(path);
}

}  // namespace

Result<LoadReport> LoadImage(const fs::path& source, const Store& store, const LoadOptions& options,
                             Terminal& terminal) {
  std::error_code error;
  const auto status = fs::status(source, error);
  if (!fs::exists(status)) {
    return Usage(fmt::format("{} does not exist", source.string()));
  }
  ENVKIT_TRY(const FileLock hold, HoldStore(store));
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  fs::path directory = source;
  if (!fs::is_directory(status)) {
    directory = work.path() / "archive";
    const std::uint64_t size = fs::file_size(source, error);
    ENVKIT_CHECK(RequireFreeSpace(store.data, 3 * size, "unpacking the archive"));
    TarOptions tar;
    tar.keep = BelongsInArchive;
    tar.max_bytes = kAlwaysAllowed + size * kLargestGrowth;
    ENVKIT_CHECK(ExtractTar(source, directory, 0, tar));
  }
  const bool layout = fs::exists(directory / "oci-layout", error);
  if (!layout && !fs::exists(directory / "manifest.json", error)) {
    return Usage(fmt::format("{} is neither an OCI layout nor a docker archive", source.string()));
  }
  auto read = layout ? ReadLayout(directory) : ReadDockerArchive(directory);
  if (!read) return Wrap(std::move(read).error(), fmt::format("loading {}", source.string()));
  IncomingImage& incoming = *read;

  LoadReport report;
  std::vector<const Incoming*> missing;
  std::set<std::string> seen;
  std::uint64_t total = 0;
  for (const Incoming& layer : incoming.layers) {
    if (HasLayer(store, layer.diff_id) || !seen.insert(layer.diff_id).second) continue;
    missing.push_back(&layer);
    total += layer.blob_bytes;
  }
  std::sort(missing.begin(), missing.end(),
            [](const Incoming* a, const Incoming* b) { return a->blob_bytes > b->blob_bytes; });
  auto progress = terminal.StartProgress("load", ImageTag(incoming.image), total);
  std::vector<Task> tasks;
  tasks.reserve(missing.size());
  for (const Incoming* layer : missing) {
    tasks.emplace_back([&, layer]() -> Result<void> {
      ENVKIT_CHECK(TakeLayer(*layer, store, work.path()));
      progress->Add(layer->blob_bytes);
      return {};
    });
  }
  auto taken = RunParallel(tasks, ProbeHost().cpus);
  progress->Done();
  if (!taken) return Wrap(std::move(taken).error(), fmt::format("loading {}", source.string()));
  ENVKIT_TRY(report.sources, TakeSources(directory, store, work.path()));

  report.new_layers = missing.size();
  report.image = std::move(incoming.image);
  for (const Incoming& layer : incoming.layers) {
    ENVKIT_TRY(const std::uint64_t bytes, LayerBytes(store, layer.diff_id));
    report.image.layers.push_back(
        {layer.diff_id, layer.what, bytes, store.LayerTree(layer.diff_id), {}});
    if (!options.reuse) continue;
    for (const std::string& key : layer.keys) {
      // What was made here stays.
      if (!FindLayer(store, key, layer.what)) {
        ENVKIT_CHECK(WriteFileAtomic(store.data / "keys" / key, layer.diff_id));
      }
    }
  }
  ENVKIT_CHECK(StoreImage(report.image, store));
  return report;
}

}  // namespace envkit

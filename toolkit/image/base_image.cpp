#include "image/base_image.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "base/archive.h"
#include "base/digest.h"
#include "base/files.h"
#include "image/outside.h"
#include "image/registry.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr std::string_view kDigest = "@sha256:";

Result<std::string> CheckedBlob(const fs::path& layout, const std::string& digest) {
  if (!digest.starts_with("sha256:") || !IsSha256(digest.substr(7))) {
    return Fail("a descriptor of the base has no sha256 digest");
  }
  const fs::path blob = layout / "blobs/sha256" / digest.substr(7);
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(blob, error))) {
    return Fail(fmt::format("the base's blob {} is missing", digest));
  }
  ENVKIT_TRY(const std::string found, Sha256OfFile(blob));
  if ("sha256:" + found == digest) return blob.string();
  return Fail(fmt::format("the base's blob {} has the sha256 {}", digest, found),
              "It is damaged or was changed: get it again from where it was made.");
}

Result<json> CheckedJson(const fs::path& layout, const std::string& digest) {
  ENVKIT_TRY(const std::string blob, CheckedBlob(layout, digest));
  std::error_code error;
  if (fs::file_size(blob, error) > kLargestImageJson)
    return Fail("the base's manifest is too large");
  ENVKIT_TRY(const std::string text, ReadFile(blob));
  json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object()) return Fail(fmt::format("the base's blob {} is not JSON", digest));
  return parsed;
}

// The manifest itself, or the one for this machine where the digest is an index's.
Result<json> FindManifest(const fs::path& layout, const std::string& digest) {
  ENVKIT_TRY(json manifest, CheckedJson(layout, "sha256:" + digest));
  if (!manifest.contains("manifests") || !manifest["manifests"].is_array()) return manifest;
  const std::string architecture = DebianArchitecture(HostArchitecture());
  for (const json& entry : manifest["manifests"]) {
    if (!entry.is_object()) continue;
    const json platform = entry.value("platform", json::object());
    if (TextIn(platform, "architecture") == architecture && TextIn(platform, "os") == "linux") {
      return CheckedJson(layout, TextIn(entry, "digest"));
    }
  }
  return Fail("the base has no image for linux/" + architecture);
}

// One layer's own tree over what is there, with OCI's whiteouts. No path leads through a symlink:
// each directory is made sure of from the root on.
Result<void> Apply(const fs::path& layer, const fs::path& tree) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(layer, error)) {
    entries.push_back(entry.path());
  }
  if (error) return FileFailure("reading", layer, error.value());
  const auto is_opaque = [](const fs::path& path) { return path.filename() == ".wh..wh..opq"; };
  if (std::any_of(entries.begin(), entries.end(), is_opaque)) {
    for (const fs::directory_entry& old : fs::directory_iterator(tree, error)) {
      ENVKIT_CHECK(RemoveTree(old.path()));
    }
  }
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    if (!name.starts_with(".wh.")) continue;
    const std::string hidden = name.substr(4);
    if (!is_opaque(entry) && IsSafeRelativePath(hidden)) ENVKIT_CHECK(RemoveTree(tree / hidden));
  }
  for (const fs::path& entry : entries) {
    const fs::path place = tree / entry.filename();
    if (entry.filename().string().starts_with(".wh.")) continue;
    const bool directory = fs::is_directory(fs::symlink_status(entry, error));
    if (!directory || !fs::is_directory(fs::symlink_status(place, error))) {
      ENVKIT_CHECK(RemoveTree(place));
    }
    if (!directory) {
      if (rename(entry.c_str(), place.c_str()) != 0) return FileFailure("writing", place, errno);
      continue;
    }
    struct stat status {};
    if (stat(entry.c_str(), &status) != 0) return FileFailure("reading", entry, errno);
    if (mkdir(place.c_str(), 0700) != 0 && errno != EEXIST) {
      return FileFailure("making the directory", place, errno);
    }
    ENVKIT_CHECK(Apply(entry, place));
    if (chmod(place.c_str(), (status.st_mode & 07777) | 0700) != 0) {
      return FileFailure("setting the mode of", place, errno);
    }
  }
  return {};
}

// In an image of envkit's the system is the layer that says so; elsewhere all layers are it.
std::vector<json> SystemLayers(const json& manifest) {
  std::vector<json> all, system;
  const json layers = manifest.value("layers", json::array());
  if (!layers.is_array()) return all;
  for (const json& layer : layers) {
    all.push_back(layer);
    const json annotations = layer.is_object() ? layer.value("annotations", json()) : json();
    const std::string what = TextIn(annotations, "dev.envkit.layer.what");
    if (what == "debian" || what == "base") system.push_back(layer);
  }
  return system.empty() ? all : system;
}

}  // namespace

Result<std::optional<BaseImage>> ParseBase(const std::string& base, const fs::path& project_root) {
  BaseImage image;
  image.registry = base.starts_with("docker://");
  if (!image.registry && !base.starts_with("oci:")) return std::nullopt;
  image.place = base.substr(image.registry ? 9 : 4);
  const std::size_t at = image.place.rfind(kDigest);
  if (at != std::string::npos) {
    image.digest = image.place.substr(at + kDigest.size());
    image.place.resize(at);
  }
  if (IsSha256(image.digest)) return image;
  std::string next = "Write base = \"oci:DIR@sha256:…\", with the digest of its manifest.";
  if (const auto text = ReadFile(project_root / image.place / "index.json")) {
    const json index = json::parse(*text, nullptr, false);
    const auto first = "/manifests/0/digest"_json_pointer;
    if (index.is_object() && index.contains(first) && index[first].is_string()) {
      next = fmt::format("What is there now:  base = \"oci:{}@{}\"", image.place,
                         index[first].get<std::string>());
    }
  }
  return Usage(fmt::format("base = \"{}\" names no digest: builds would not know it again", base),
               next);
}

Result<void> MakeBaseTree(const std::string& base, const fs::path& project_root, std::int64_t mtime,
                          const fs::path& work, const fs::path& tree, Terminal& terminal) {
  ENVKIT_TRY(const auto image, ParseBase(base, project_root));
  if (!image) return Usage(fmt::format("base = \"{}\" is no OCI image", base));
  fs::path layout = project_root / image->place;
  if (image->registry) {
    ENVKIT_TRY(RegistryReference from, ParseReference(image->place + "@sha256:" + image->digest));
    layout = work / "layout";
    ENVKIT_CHECK(FetchLayout(from, layout, terminal));
  }
  ENVKIT_TRY(const json manifest, FindManifest(layout, image->digest));
  const std::vector<json> layers = SystemLayers(manifest);
  if (layers.empty()) return Fail("the base has no layers");
  for (std::size_t index = 0; index < layers.size(); ++index) {
    ENVKIT_TRY(const std::string blob, CheckedBlob(layout, TextIn(layers[index], "digest")));
    const fs::path one = work / fmt::format("layer-{}", index);
    TarOptions options;
    std::error_code error;
    options.max_bytes = kAlwaysAllowed + fs::file_size(blob, error) * kLargestGrowth;
    ENVKIT_CHECK(ExtractTar(blob, one, mtime, options));
    ENVKIT_CHECK(Apply(one, tree));
    ENVKIT_CHECK(RemoveTree(one));
  }
  return {};
}

}  // namespace envkit

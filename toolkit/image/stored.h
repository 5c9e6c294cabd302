// The images that the store has: written by a build or a load, listed and found by people's names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/image.h"
#include "image/store.h"

namespace envkit {

Result<void> StoreImage(const Image& image, const Store& store);
// The record of an image that was built. An error says what is wrong with it: kMissing where there
// is none, kFailed where it is damaged. Layers need not be there.
Result<Image> LoadImageRecord(const Store& store, const std::string& config_digest);
// By config digest; nullopt: not there, damaged, or layers are missing.
std::optional<Image> ReadStoredImage(const std::string& config_digest, const Store& store);

struct StoredImage {
  Image image;
  std::int64_t created = 0;           // Unix time
  std::vector<std::string> projects;  // roots of the projects whose current image it is, sorted
  std::uint64_t own_bytes = 0;        // of the layers that no other image has
};
Result<std::vector<StoredImage>> ListImages(const Store& store);  // newest first
// "mnist:train-cpu" (the newest of that tag), or a config digest's beginning, with or without
// "sha256:". kUsage: no such image, with the nearest; several that begin so.
Result<Image> FindStoredImage(std::string_view reference, const Store& store);

// {"images": […]} as docs/schemas/image-ls.json, and the table.
nlohmann::json ListToJson(const std::vector<StoredImage>& images);
std::string ListText(const std::vector<StoredImage>& images, std::int64_t now);

// Which layers stand for which recipes: layer key → diff_id.
std::multimap<std::string, std::string> KeysOfLayers(const Store& store);  // diff_id → key

// How large a layer was the last time that it was exported, and under which digest: an encoder of
// another version may give other bytes.
struct CompressedLayer {
  std::string digest;
  std::uint64_t bytes = 0;
  std::string encoder;
};
std::optional<CompressedLayer> ReadCompressed(const Layer& layer, std::string_view kind);
Result<void> WriteCompressed(const Layer& layer, std::string_view kind,
                             const CompressedLayer& compressed);

// Which projects use the store, so that `image prune` knows what is needed.
struct KnownProject {
  std::filesystem::path root;
  std::string name;
  std::map<std::string, std::string> images;  // "train-cpu" → config digest
};
// The project's current image of that profile and variant. A store that cannot be written to says
// nothing: the image is there all the same.
void RecordUse(const std::filesystem::path& project_root, const Image& image, const Store& store);
// Those whose envkit.lock is still there.
std::vector<KnownProject> KnownProjects(const Store& store);

}  // namespace envkit

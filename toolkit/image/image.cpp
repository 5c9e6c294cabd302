#include "image/image.h"

#include <fmt/format.h>

namespace envkit {

using nlohmann::json;

namespace {

json Known(const std::optional<std::uint64_t>& bytes) { return bytes ? json(*bytes) : json(); }

}  // namespace

std::string ImageTag(const Image& image) {
  return fmt::format("{}:{}-{}", image.name, image.profile, image.variant);
}

json ImageToJson(const Image& image) {
  json diff_ids = json::array();
  json layers = json::array();
  std::uint64_t compressed = 0;
  bool exported = true;  // all of it
  for (const Layer& layer : image.layers) {
    diff_ids.push_back(layer.diff_id);
    layers.push_back({{"diff_id", layer.diff_id},
                      {"what", layer.what},
                      {"bytes", layer.bytes},
                      {"compressed_bytes", Known(layer.compressed_bytes)}});
    compressed += layer.compressed_bytes.value_or(0);
    exported = exported && layer.compressed_bytes;
  }
  json packages = json::array();
  for (const ImagePackage& package : image.packages) {
    packages.push_back(
        {{"name", package.name}, {"version", package.version}, {"sha256", package.sha256}});
  }
  return {{"name", image.name},
          {"profile", image.profile},
          {"variant", image.variant},
          {"lock_digest", image.lock_digest},
          {"config_digest", image.config_digest},
          {"diff_ids", diff_ids},
          {"layers", layers},
          {"bytes", image.Bytes()},
          {"compressed_bytes", exported ? json(compressed) : json()},
          {"packages", packages}};
}

}  // namespace envkit

// A built image: plain data. Its identity is the ordered diff_ids and the config digest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace envkit {

struct Layer {
  std::string diff_id;  // sha256 of the canonical tar, 64 hex digits
  std::string what;     // "debian", "torch", "runtime", "recipe", …
  std::uint64_t bytes = 0;
  std::filesystem::path tree;                          // extracted, read-only by convention
  std::optional<std::uint64_t> compressed_bytes = {};  // nullopt until it was exported
};

struct ImagePackage {
  std::string name, version, sha256;  // of the wheel or the .deb
};

struct Image {
  std::string name;     // the project's name
  std::string profile;  // train | python | dev
  std::string variant;  // cpu | cuda
  std::string lock_digest;
  std::string config_digest;
  std::string config_json;    // the OCI image config, canonical bytes: sha256 = config_digest
  std::vector<Layer> layers;  // lowest first
  std::vector<ImagePackage> packages;

  std::uint64_t Bytes() const {
    std::uint64_t sum = 0;
    for (const Layer& layer : layers) sum += layer.bytes;
    return sum;
  }
};

nlohmann::json ImageToJson(const Image& image);  // as docs/schemas/image.json

// "mnist:train-cpu", the tag that docker shows.
std::string ImageTag(const Image& image);

}  // namespace envkit

// What takes the room in an image, down to files, and who needs it: a program or library that names
// it (NEEDED), one that loads it by name while running (images/loaded-by-name.toml), Debian's own
// reasons (essential, required, a dependency).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/image.h"

namespace envkit {

struct ContentFile {
  std::string path;  // in the image
  std::uint64_t bytes = 0;
  std::vector<std::string> needed_by;  // names of files, sorted; for shared libraries
};
struct ContentPackage {
  std::string name, version;  // name: "" for files of no package
  std::uint64_t bytes = 0;
  std::string because;             // "essential", "needed by libstdc++6", …; empty: see the files
  std::vector<ContentFile> files;  // largest first
};
struct ContentLayer {
  Layer layer;
  std::vector<ContentPackage> packages;  // largest first
};
Result<std::vector<ContentLayer>> ReadContents(const Image& image);

// The libraries of Python's packages that nothing in the image is known to need.
std::vector<ContentFile> Unexplained(const std::vector<ContentLayer>& layers);

// `image inspect`, with and without --tree. LAYERS empty: without.
std::string InspectText(const Image& image, const std::vector<ContentLayer>& layers);
nlohmann::json TreeToJson(const std::vector<ContentLayer>& layers);

// `image history`: the layers in order, and how many of the store's images have each.
struct LayerUse {
  Layer layer;
  std::size_t images = 0;
};
std::string HistoryText(const std::vector<LayerUse>& uses);
nlohmann::json HistoryToJson(const Image& image, const std::vector<LayerUse>& uses);

// `image diff A B`.
struct PackageChange {
  std::string name, before, after;  // versions; empty: not there
  std::int64_t bytes = 0;           // how much more B takes
};
struct LayerChange {
  std::string what, before, after;  // diff_ids; empty: not there
  std::int64_t bytes = 0;
};
struct ImageDiff {
  std::vector<LayerChange> layers;      // that differ
  std::vector<PackageChange> packages;  // that differ: version, or (same version) size
  std::uint64_t shared_bytes = 0;       // of the layers that both have
  std::int64_t bytes = 0;
};
Result<ImageDiff> DiffImages(const Image& before, const Image& after);
std::string DiffText(const Image& before, const Image& after, const ImageDiff& diff);
nlohmann::json DiffToJson(const Image& before, const Image& after, const ImageDiff& diff);

}  // namespace envkit

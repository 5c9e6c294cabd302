// What the files of a checkpoint say about themselves, checked: functions over text, without
// LibTorch, so that they can be fuzzed alone. FILE is for messages. All of them throw Failure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "../element_type.h"
#include "envkit/training_state.h"

namespace envkit {

struct SafetensorsEntry {
  std::string name;
  ElementType type{};
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes after the header
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry>
      entries;  // in the order of their bytes, which are DATA_SIZE without gaps
  std::map<std::string, std::string> metadata;
};

SafetensorsHeader ParseSafetensorsHeader(const std::filesystem::path& file, const std::string& text,
                                         std::uint64_t data_size);
// "F32" for kFloat32.
const char* SafetensorsName(ElementType type);

struct ManifestEntry {
  std::string name;  // of a file beside the manifest
  std::uint64_t bytes = 0;
  std::string crc32c;  // eight hexadecimal digits
};

std::vector<ManifestEntry> ParseManifest(const std::filesystem::path& file,
                                         const std::string& text);
TrainingState ParseTrainingState(const std::filesystem::path& file, const std::string& text);

// A tensor's name and the metadata of its file as elements [begin, end) of a tensor of SHAPE, which
// are COUNT; where NAME is no slice's, whole is true and the rest empty.
struct SliceName {
  bool whole = true;
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;
};
constexpr const char* kShapeKey = "shape:";
SliceName ParseSliceName(const std::filesystem::path& file, const std::string& name,
                         const std::map<std::string, std::string>& metadata, std::int64_t count);

// The number of elements; -1 where it is none.
std::int64_t ElementCount(const std::vector<std::int64_t>& shape);
// TEXT as a number that is not negative; -1 for anything else.
std::int64_t ParseCount(std::string_view text);

}  // namespace envkit

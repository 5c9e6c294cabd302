// What files of data say about themselves, checked: functions over bytes, without LibTorch, so that
// they can be fuzzed alone. FILE is for messages. All of them throw Failure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "../element_type.h"

namespace envkit {

// A numpy file's values: row-major, from byte BEGIN of the file to its end.
struct NpyLayout {
  ElementType type{};
  std::vector<std::int64_t> shape;
  std::size_t begin = 0;
};
NpyLayout ParseNpy(const std::filesystem::path& file, std::span<const std::uint8_t> bytes);

// The tokens of a .bin file; BYTES are aligned to 2. Each is below VOCABULARY, and there are more
// than CONTEXT.
std::span<const std::uint16_t> ParseTokens(const std::filesystem::path& file,
                                           std::span<const std::uint8_t> bytes,
                                           std::int64_t context, std::int64_t vocabulary);

// How many images a file of CIFAR-10 has, each a label below 10 and kCifarRecord - 1 pixels.
constexpr std::int64_t kCifarRecord = 1 + 3 * 32 * 32;
std::int64_t ParseCifar(const std::filesystem::path& file, std::span<const std::uint8_t> bytes);

}  // namespace envkit

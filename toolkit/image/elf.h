// What an ELF file says of itself: which libraries it needs by name (readelf -d), read from its
// headers alone.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace envkit {

struct ElfInfo {
  std::string soname;               // empty for programs
  std::vector<std::string> needed;  // in file order
};
// nullopt: no 64-bit little-endian ELF file, not dynamic, or damaged.
std::optional<ElfInfo> ReadElf(const std::filesystem::path& file);

}  // namespace envkit

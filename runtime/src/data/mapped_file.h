#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace envkit {

struct MappedBytes {
  std::shared_ptr<const void> owner;
  std::span<const std::uint8_t> data;
};

// A regular file's bytes, for reading; throws Failure.
MappedBytes MapFile(const std::filesystem::path& file);
[[noreturn]] void DamagedData(const std::filesystem::path& file, const std::string& what);

}  // namespace envkit

// A directory of a test's own, gone afterwards.
#pragma once

#include <filesystem>

#include "base/files.h"

namespace envkit {

class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& parent = std::filesystem::temp_directory_path())
      : path_(*MakeTempDirectory(parent, "envkit-test")) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { static_cast<void>(RemoveTree(path_)); }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace envkit

// A memory limit for what the oci engine starts: a cgroup beside or below our own, where the host
// lets us make one.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/result.h"

namespace envkit {

class MemoryCgroup {
 public:
  // kMissing where no cgroup can be made here, with the ways out.
  static Result<MemoryCgroup> Make(std::uint64_t bytes);
  Result<void> Join() const;  // moves the calling process there
  void Remove() const;        // once nothing runs in it

 private:
  std::filesystem::path directory_;
};

}  // namespace envkit

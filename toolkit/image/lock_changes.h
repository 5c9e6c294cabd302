// What a new lock changes, for people and for machines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image/store.h"
#include "project/lock.h"

namespace envkit {

struct LockChange {
  enum class Kind { kAdded, kRemoved, kChanged, kOtherFile };
  Kind kind = Kind::kChanged;
  bool debian = false;  // else a wheel
  std::string package;
  std::string before, after;  // versions; empty where there is none
  std::uint64_t bytes = 0;    // of the new files
};
// By name, wheels before Debian packages.
std::vector<LockChange> ChangesBetween(const Lock& before, const Lock& after);

// "~ torch 2.15.0 → 2.15.1 (539 MB)\n+ einops 0.8.1 (66 kB)\n- six 1.17.0": one line per change.
std::string LockDiff(const Lock& before, const Lock& after);

// Bytes of files that AFTER names and BEFORE does not.
struct NewFiles {
  std::uint64_t bytes = 0;
  std::uint64_t in_store = 0;  // of them
};
NewFiles FilesToFetch(const Lock& before, const Lock& after, const Store& store);
// "540 MB to download, of which 12 MB are in the store"; empty where there is nothing.
std::string DescribeFetch(const NewFiles& files);

}  // namespace envkit

// Is what the store holds what was built, and is what was built what the lock says? Nothing here
// runs anything of the image.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/build.h"
#include "image/check.h"
#include "image/image.h"
#include "image/manifest.h"
#include "image/store.h"

namespace envkit {

// The image that PLAN leads to: its digest, where it was built.
std::optional<std::string> BuiltDigest(const ImagePlan& plan, const Store& store);

struct StoreCheck {
  std::vector<Check> checks;
  std::vector<const Layer*> damaged;      // of IMAGE
  std::map<std::string, TreeScan> scans;  // by diff_id, of the others
};
// Hashes every layer again; where one is not what it was, names the files. QUICK: only looks
// whether all layers are there.
StoreCheck CheckStore(const Image& image, bool quick, Terminal& terminal);

// Removes the damaged layers, so that the next build makes them anew.
Result<void> RemoveDamaged(const StoreCheck& check, const Store& store);

// The image against PLAN, which comes from the lock: packages, recorded digests, the wheels'
// RECORDs, dpkg's lists. SCANS from CheckStore; without them nothing is hashed.
std::vector<Check> CheckLock(const Image& image, const ImagePlan& plan, const Lock& lock,
                             const Store& store, const StoreCheck& scanned, bool quick);

// Inside: the Debian layer's part of CheckLock.
Check CheckDebs(const Layer& layer, const std::vector<LockedDeb>& debs, const Store& store,
                bool quick);

// The commands that make layers anew, whether or not their tars have the right digests.
std::string MakeAnew(const std::vector<const Layer*>& layers);

// The sha256 that an image's files had when they were built.
class ImageFiles {
 public:
  // SCANS are preferred to the lists beside the layers, which are preferred to the files
  // themselves.
  explicit ImageFiles(const Image& image, const std::map<std::string, TreeScan>& scans = {});
  // Of what a container sees at PATH ("/usr/bin/x"); empty where no layer has a file there.
  std::string HashOf(const std::string& path) const;

 private:
  struct Files {
    std::filesystem::path tree;
    std::optional<std::vector<TreeEntry>> entries;  // sorted by path
  };
  std::vector<Files> layers_;  // highest first
};

// At most COUNT lines, then "and N more".
std::vector<std::string> Shorten(std::vector<std::string> lines, std::size_t count = 20);

}  // namespace envkit

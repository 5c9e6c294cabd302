// What is in a layer's tree, file by file. The diff_id says whether a layer is what was built; the
// list beside its tree, written when it was built, says which file is not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/canonical_tar.h"

namespace envkit {

inline constexpr char kManifestName[] = "manifest";

struct TreeScan {
  std::string diff_id;  // sha256 of the canonical tar
  std::uint64_t bytes = 0;
  std::vector<TreeEntry> entries;  // sorted by path
};
// Reads all of TREE once.
Result<TreeScan> ScanTree(const std::filesystem::path& tree, std::int64_t mtime);

// "f 0644 12 <sha256> usr/bin/x\n": one line an entry.
std::string ManifestLine(const TreeEntry& entry);
Result<std::vector<TreeEntry>> ParseManifest(std::string_view text);
// The list beside TREE.
Result<void> WriteManifest(const std::filesystem::path& tree,
                           const std::vector<TreeEntry>& entries);
Result<std::vector<TreeEntry>> ReadManifest(const std::filesystem::path& tree);

struct TreeDifference {
  std::string path;
  std::string what;  // "is missing", "other content: sha256 3f9a… instead of 7c21…", …
};
std::vector<TreeDifference> CompareTrees(const std::vector<TreeEntry>& expected,
                                         const std::vector<TreeEntry>& found);

}  // namespace envkit

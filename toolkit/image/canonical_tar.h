// The one tar that a tree of files can become: sorted by path (bytewise, a directory before its
// content), owner and group 0 without names, one mtime, ustar with pax records only where a name or
// a size does not fit. Two machines with the same files get the same bytes, for good.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/archive.h"
#include "base/digest.h"
#include "base/result.h"

namespace envkit {

// What a tar says of one path. SHA256 and SIZE are a file's, TARGET is a symlink's.
struct TreeEntry {
  std::string path;
  char type = 'f';  // f | d | l
  unsigned mode = 0;
  std::uint64_t size = 0;
  std::string sha256, target;
  bool operator==(const TreeEntry&) const = default;
};
using EntrySink = std::function<void(TreeEntry entry)>;

// The bytes of one entry after the other. Entries must come in order; paths have no leading "./"
// and no trailing "/".
class TarStream {
 public:
  // SEEN hears of each entry when it is complete; hashing the files by themselves as well costs
  // what hashing the tar does.
  TarStream(ByteSink sink, std::int64_t mtime, EntrySink seen = {})
      : sink_(std::move(sink)), mtime_(mtime), seen_(std::move(seen)) {}
  Result<void> Directory(std::string_view path, unsigned mode);
  Result<void> Symlink(std::string_view path, std::string_view target);
  // Then exactly SIZE bytes by Data, then EndFile. SHA256: their hash for SEEN, where it is known.
  Result<void> BeginFile(std::string_view path, unsigned mode, std::uint64_t size,
                         const std::string& sha256 = "");
  Result<void> Data(const char* data, std::size_t size);
  Result<void> EndFile();
  Result<void> Finish();
  std::uint64_t bytes() const { return bytes_; }

 private:
  Result<void> Write(std::string_view bytes);
  Result<void> Pad();
  Result<void> Header(std::string_view path, char type, unsigned mode, std::uint64_t size,
                      std::string_view target);

  ByteSink sink_;
  std::int64_t mtime_;
  EntrySink seen_;
  TreeEntry entry_;  // the file that is being written
  std::optional<Sha256> hash_;
  std::uint64_t bytes_ = 0;
  std::uint64_t left_ = 0;  // of the file that is being written
  std::string last_;
};

// All of TREE, permission bits as they are there. Hard links become copies; anything but files,
// directories and symlinks is left out. Returns the size of the tar.
Result<std::uint64_t> WriteCanonicalTar(const std::filesystem::path& tree, std::int64_t mtime,
                                        const ByteSink& sink, const EntrySink& seen = {});

}  // namespace envkit

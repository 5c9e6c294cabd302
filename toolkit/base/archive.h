// Archives read defensively: absolute names, "..", and anything that would leave the destination
// through a symlink are errors (libarchive for tar, libzip for zip, since wheels need random
// access).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

// True for a relative path that stays below its root: no "..", no leading "/", no NUL, no empty
// part.
bool IsSafeRelativePath(std::string_view path);

using ByteSink = std::function<Result<void>(const char* data, std::size_t size)>;

class ZipReader {
 public:
  struct Entry {
    std::string name;  // safe; directories are left out
    std::uint64_t size = 0;
    std::uint32_t mode = 0;  // Unix mode bits where the archive has them, else 0
    std::uint64_t index = 0;
  };
  static Result<ZipReader> Open(const std::filesystem::path& file);
  const std::vector<Entry>& entries() const { return entries_; }  // in archive order
  // Inflates one entry into SINK, checking CRC and length. One thread at a time per
  // reader, and not from within SINK.
  Result<void> Read(const Entry& entry, const ByteSink& sink) const;
  Result<std::string> ReadAll(const Entry& entry) const;

 private:
  // Deflate, by ISA-L: twice as fast as zlib, which is what libzip has.
  Result<void> Inflate(const Entry& entry, std::uint32_t crc, const ByteSink& sink) const;
  Result<void> Copy(const Entry& entry, const ByteSink& sink) const;
  Error Damaged(const Entry& entry, std::string_view words) const;

  struct State;
  std::shared_ptr<State> state_;
  std::vector<Entry> entries_;
};

struct TarOptions {
  bool device_nodes = false;  // they are skipped otherwise
  // Called per entry (path as stored, normalised); false leaves the entry out.
  std::function<bool(std::string_view path)> keep;
  std::uint64_t max_bytes = UINT64_MAX;  // an error once the files hold more than this
};
// Unpacks a tar (any compression libarchive knows) below DESTINATION. Ownership is the caller's,
// modes are kept (directories stay accessible to the owner), hard links become links, mtimes are
// set to `mtime`.
Result<void> ExtractTar(const std::filesystem::path& archive,
                        const std::filesystem::path& destination, std::int64_t mtime,
                        const TarOptions& options = {});
// The mtime of a tar's first entry; 0 where it is empty.
Result<std::int64_t> FirstTarTime(const std::filesystem::path& archive);

}  // namespace envkit

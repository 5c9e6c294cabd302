// Files that survive being killed at any moment: write to a temporary, fsync, rename.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace envkit {

// The error of a failed system call on FILE: "writing FILE: <strerror>". ENOSPC and EDQUOT give
// "the disk is full" with the path's file system and its free bytes (kMissing).
Unexpected FileFailure(std::string_view doing, const std::filesystem::path& file, int error);

Result<std::string> ReadFile(const std::filesystem::path& file);
// Parent directories are made. Readers see the old or the new content, never a part.
Result<void> WriteFileAtomic(const std::filesystem::path& file, std::string_view content,
                             int mode = 0644);
// For a directory that is published later, after SyncFilesystem: a file that nobody else looks at
// yet, and that a power failure may take. Parent directories are made; that FILE exists is an
// error.
Result<void> WriteNewFile(const std::filesystem::path& file, std::string_view content,
                          int mode = 0644);
Result<void> MakeDirectories(const std::filesystem::path& directory);
// A new empty directory "PARENT/PREFIX-XXXXXX".
Result<std::filesystem::path> MakeTempDirectory(const std::filesystem::path& parent,
                                                std::string_view prefix);
// Removes a tree even where directories in it are not writable; a missing one is fine.
Result<void> RemoveTree(const std::filesystem::path& tree);
// rename(2) then fsync of the parent; an existing destination directory that is not empty is fine
// (somebody else was first): then SOURCE is removed.
Result<void> PublishDirectory(const std::filesystem::path& source,
                              const std::filesystem::path& destination);
// syncfs(2) on the file system that holds PATH: one call instead of thousands of fsyncs.
Result<void> SyncFilesystem(const std::filesystem::path& path);
// Error kMissing "needs N GB on …, M GB are free" unless at least BYTES are free below PATH.
Result<void> RequireFreeSpace(const std::filesystem::path& path, std::uint64_t bytes,
                              std::string_view what_for);

// An advisory lock on a file (flock), made where it is missing; released by the destructor or by
// the process's death. Movable.
class FileLock {
 public:
  static Result<FileLock> Acquire(const std::filesystem::path& file);        // waits
  static Result<FileLock> AcquireShared(const std::filesystem::path& file);  // beside other sharers
  static Result<FileLock> TryAcquire(const std::filesystem::path& file, bool& busy);
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

 private:
  static Result<FileLock> Wait(const std::filesystem::path& file, int operation);
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

// "109 MB", "2.5 GB", "812 B": SI units, as download sizes are named everywhere else.
std::string HumanBytes(std::uint64_t bytes);
// "0.18 s", "58 s", "1 min 12 s".
std::string HumanSeconds(double seconds);
double SecondsSince(std::chrono::steady_clock::time_point start);

}  // namespace envkit

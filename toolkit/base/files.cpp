#include "base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "base/descriptor.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

fs::path NearestExisting(const fs::path& path) {
  std::error_code ignored;
  fs::path at = fs::absolute(path, ignored);
  while (!fs::exists(at, ignored) && at.has_relative_path()) at = at.parent_path();
  return at;
}

// The directory on which PATH's file system is mounted.
fs::path MountPoint(const fs::path& path) {
  std::error_code ignored;
  fs::path at = fs::canonical(NearestExisting(path), ignored);
  struct stat here {};
  if (at.empty() || stat(at.c_str(), &here) != 0) return path;
  while (at.has_relative_path()) {
    struct stat above {};
    if (stat(at.parent_path().c_str(), &above) != 0 || above.st_dev != here.st_dev) break;
    at = at.parent_path();
  }
  return at;
}

std::uint64_t FreeBytes(const fs::path& path) {
  struct statvfs info {};
  if (statvfs(NearestExisting(path).c_str(), &info) != 0) return 0;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

int SyncDirectory(const fs::path& directory) {
  const Descriptor fd(
      open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return errno;
  // Some network file systems cannot sync directories: nothing more can be done there.
  if (fsync(fd.get()) != 0 && errno != EINVAL && errno != EROFS) return errno;
  return 0;
}

std::string RandomSuffix() {
  static std::atomic<unsigned> counter{0};
  std::random_device device;
  const std::uint64_t value = (std::uint64_t{device()} << 32) | device();
  return fmt::format("{:x}{:x}", value & 0xffffffffffULL, counter++);
}

// All of CONTENT; 0 or errno.
int WriteTo(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t put = write(fd, content.data(), content.size());
    if (put >= 0) {
      content.remove_prefix(static_cast<std::size_t>(put));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

// Below a descriptor, so that nobody can lead us elsewhere by exchanging a directory for a symlink.
int RemoveBelow(int parent, const char* name) {
  if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return 0;
  if (errno != EISDIR && errno != EPERM && errno != EACCES) return errno;
  const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  int fd = openat(parent, name, flags);
  if (fd < 0 && errno == EACCES && fchmodat(parent, name, 0700, 0) == 0) {
    fd = openat(parent, name, flags);
  }
  if (fd < 0) return errno;
  struct stat info {};
  if (fstat(fd, &info) == 0 && (info.st_mode & 0300) != 0300) fchmod(fd, 0700);
  DIR* directory = fdopendir(fd);
  if (directory == nullptr) {
    const int error = errno;
    close(fd);
    return error;
  }
  int error = 0;
  // readdir is safe here: every thread has a DIR of its own.
  while (const dirent* entry = readdir(directory)) {  // NOLINT(concurrency-mt-unsafe)
    const std::string_view child = entry->d_name;
    if (child == "." || child == "..") continue;
    error = RemoveBelow(fd, entry->d_name);
    if (error != 0) break;
  }
  closedir(directory);
  if (error != 0) return error;
  return unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
}

int OpenLock(const fs::path& file) {
  return open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
}

// A holder may remove the lock file before it lets go: then we hold a lock that nobody else sees.
bool StillThere(int fd, const fs::path& file) {
  struct stat held {};
  struct stat named {};
  return fstat(fd, &held) == 0 && stat(file.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

Unexpected FileFailure(std::string_view doing, const fs::path& file, int error) {
  if (error == ENOSPC || error == EDQUOT) {
    const std::string mount = MountPoint(file).string();
    const std::string what =
        error == EDQUOT
            ? fmt::format("{} {}: the disk quota is used up on {}", doing, file.string(), mount)
            : fmt::format("{} {}: the disk is full: {} are free on {}", doing, file.string(),
                          HumanBytes(FreeBytes(file)), mount);
    return Missing(what, fmt::format("Free space on {}, then run the command again.", mount));
  }
  return Fail(fmt::format("{} {}: {}", doing, file.string(), std::strerror(error)));
}

Result<std::string> ReadFile(const fs::path& file) {
  const Descriptor fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return FileFailure("reading", file, errno);
  struct stat info {};
  std::string content;
  if (fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode)) {
    content.reserve(static_cast<std::size_t>(info.st_size));
  }
  std::array<char, 65536> buffer{};
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got == 0) return content;
    if (got > 0) {
      content.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (errno != EINTR) {
      return FileFailure("reading", file, errno);
    }
  }
}

Result<void> WriteNewFile(const fs::path& file, std::string_view content, int mode) {
  if (file.has_parent_path()) ENVKIT_CHECK(MakeDirectories(file.parent_path()));
  Descriptor fd(
      open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, static_cast<mode_t>(mode)));
  if (fd.get() < 0) return FileFailure("writing", file, errno);
  int error = WriteTo(fd.get(), content);
  if (fd.Close() != 0 && error == 0) error = errno;
  if (error != 0) return FileFailure("writing", file, error);
  return {};
}

Result<void> WriteFileAtomic(const fs::path& file, std::string_view content, int mode) {
  if (file.has_parent_path()) ENVKIT_CHECK(MakeDirectories(file.parent_path()));
  const fs::path temporary =
      file.parent_path() / fmt::format(".{}.{}.tmp", file.filename().string(), RandomSuffix());
  Descriptor fd(
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, static_cast<mode_t>(mode)));
  if (fd.get() < 0) return FileFailure("writing", file, errno);
  int error = WriteTo(fd.get(), content);
  if (error == 0 && fsync(fd.get()) != 0) error = errno;
  if (fd.Close() != 0 && error == 0) error = errno;
  if (error == 0 && rename(temporary.c_str(), file.c_str()) != 0) error = errno;
  if (error == 0) error = SyncDirectory(file.parent_path());
  if (error == 0) return {};
  auto failure = FileFailure("writing", file, error);
  unlink(temporary.c_str());
  return failure;
}

Result<void> MakeDirectories(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  // A path with a trailing slash, or another process that was first, can report an error and yet
  // leave the directory there.
  std::error_code ignored;
  if (error && !fs::is_directory(directory, ignored)) {
    return FileFailure("making the directory", directory, error.value());
  }
  return {};
}

Result<fs::path> MakeTempDirectory(const fs::path& parent, std::string_view prefix) {
  ENVKIT_CHECK(MakeDirectories(parent));
  std::string name = (parent / fmt::format("{}-XXXXXX", prefix)).string();
  if (mkdtemp(name.data()) == nullptr) return FileFailure("making the directory", name, errno);
  return fs::path(name);
}

Result<void> RemoveTree(const fs::path& tree) {
  const int error = RemoveBelow(AT_FDCWD, tree.c_str());
  // A parent that is missing or is a file means that the tree is not there either.
  if (error != 0 && error != ENOTDIR) return FileFailure("removing", tree, error);
  return {};
}

Result<void> PublishDirectory(const fs::path& source, const fs::path& destination) {
  if (destination.has_parent_path()) ENVKIT_CHECK(MakeDirectories(destination.parent_path()));
  if (rename(source.c_str(), destination.c_str()) != 0) {
    const int error = errno;
    if (error == ENOTEMPTY || error == EEXIST) return RemoveTree(source);
    return FileFailure(fmt::format("moving {} to", source.string()), destination, error);
  }
  if (const int error = SyncDirectory(destination.parent_path()); error != 0) {
    return FileFailure("writing", destination, error);
  }
  return {};
}

Result<void> SyncFilesystem(const fs::path& path) {
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || syncfs(fd.get()) != 0) return FileFailure("writing", path, errno);
  return {};
}

Result<void> RequireFreeSpace(const fs::path& path, std::uint64_t bytes,
                              std::string_view what_for) {
  const std::uint64_t free = FreeBytes(path);
  if (free >= bytes) return {};
  const std::string mount = MountPoint(path).string();
  return Missing(
      fmt::format("{} needs {} on {}, {} are free", what_for, HumanBytes(bytes), mount,
                  HumanBytes(free)),
      fmt::format("Free space on {}, or set ENVKIT_STORE to a directory on a larger disk.", mount));
}

Result<FileLock> FileLock::Acquire(const fs::path& file) { return Wait(file, LOCK_EX); }
Result<FileLock> FileLock::AcquireShared(const fs::path& file) { return Wait(file, LOCK_SH); }

Result<FileLock> FileLock::Wait(const fs::path& file, int operation) {
  if (file.has_parent_path()) ENVKIT_CHECK(MakeDirectories(file.parent_path()));
  while (true) {
    const int fd = OpenLock(file);
    if (fd < 0) return FileFailure("locking", file, errno);
    FileLock lock(fd);
    while (flock(fd, operation) != 0) {
      if (errno != EINTR) return FileFailure("locking", file, errno);
    }
    if (StillThere(fd, file)) return lock;
  }
}

Result<FileLock> FileLock::TryAcquire(const fs::path& file, bool& busy) {
  busy = false;
  if (file.has_parent_path()) ENVKIT_CHECK(MakeDirectories(file.parent_path()));
  while (true) {
    const int fd = OpenLock(file);
    if (fd < 0) return FileFailure("locking", file, errno);
    FileLock lock(fd);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      busy = error == EWOULDBLOCK;
      if (busy) return Fail(fmt::format("{} is locked by another process", file.string()));
      if (error == EINTR) continue;
      return FileFailure("locking", file, error);
    }
    if (StillThere(fd, file)) return lock;
  }
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}
FileLock::~FileLock() {
  if (fd_ >= 0) close(fd_);
}

std::string HumanBytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  constexpr std::array<const char*, 6> kUnits = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  // From GB on a tenth still matters: it is a hundred megabytes.
  const double whole_from = unit >= 2 ? 99.95 : 9.95;
  if (value >= whole_from) return fmt::format("{:.0f} {}", value, kUnits[unit]);
  const double tenths = std::round(value * 10) / 10;
  return fmt::format("{:.{}f} {}", tenths, tenths == std::floor(tenths) ? 0 : 1, kUnits[unit]);
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string HumanSeconds(double seconds) {
  seconds = std::max(seconds, 0.0);
  if (seconds < 9.95) {
    std::string text = fmt::format("{:.{}f}", seconds, seconds < 0.995 ? 2 : 1);
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
    return (text.empty() ? "0" : text) + " s";
  }
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace envkit

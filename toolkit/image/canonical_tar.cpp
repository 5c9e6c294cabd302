#include "image/canonical_tar.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "base/files.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kBlock = 512;
constexpr std::uint64_t kLargestUstarSize = (1ull << 33) - 1;  // 11 octal digits

struct UstarHeader {
  char name[100];
  char mode[8];
  char uid[8];
  char gid[8];
  char size[12];
  char mtime[12];
  char checksum[8];
  char type;
  char target[100];
  char magic[6];
  char version[2];
  char user[32];
  char group[32];
  char device_major[8];
  char device_minor[8];
  char prefix[155];
  char padding[12];
};
static_assert(sizeof(UstarHeader) == kBlock);

template <std::size_t N>
void Octal(char (&field)[N], std::uint64_t value) {
  fmt::format_to_n(field, N - 1, "{:0{}o}", value, N - 1);  // the last byte stays NUL
}

template <std::size_t N>
void Text(char (&field)[N], std::string_view text) {
  std::memcpy(field, text.data(), std::min(N, text.size()));
}

// Where PATH is split into the fields prefix and name; npos where it does not fit.
std::size_t SplitAt(std::string_view path) {
  const std::size_t first = path.size() > 101 ? path.size() - 101 : 0;
  const std::size_t slash = path.find('/', first);
  return slash == 0 || slash > 155 || slash + 1 >= path.size() ? std::string_view::npos : slash;
}

// "27 path=some/long/name\n": the number counts its own digits too.
std::string PaxRecord(std::string_view key, std::string_view value) {
  const std::size_t rest = key.size() + value.size() + 3;
  std::size_t length = rest + 1;
  while (fmt::formatted_size("{}", length) + rest != length) ++length;
  return fmt::format("{} {}={}\n", length, key, value);
}

std::string HeaderBlock(std::string_view path, char type, unsigned mode, std::uint64_t size,
                        std::int64_t mtime, std::string_view target) {
  UstarHeader header = {};
  const std::size_t slash =
      path.size() <= sizeof header.name ? std::string_view::npos : SplitAt(path);
  if (slash != std::string_view::npos) {
    Text(header.prefix, path.substr(0, slash));
    Text(header.name, path.substr(slash + 1));
  } else {
    Text(header.name, path);  // where it is too long, a pax record before this header has all of it
  }
  Octal(header.mode, mode & 07777);
  Octal(header.uid, 0);
  Octal(header.gid, 0);
  Octal(header.size, size > kLargestUstarSize ? 0 : size);
  Octal(header.mtime, static_cast<std::uint64_t>(std::max<std::int64_t>(mtime, 0)));
  header.type = type;
  Text(header.target, target);
  std::memcpy(header.magic, "ustar", 6);
  std::memcpy(header.version, "00", 2);
  Octal(header.device_major, 0);
  Octal(header.device_minor, 0);
  std::memset(header.checksum, ' ', sizeof header.checksum);
  std::string block(reinterpret_cast<const char*>(&header), kBlock);
  unsigned sum = 0;
  for (const char byte : block) sum += static_cast<unsigned char>(byte);
  const std::string digits = fmt::format("{:06o}", sum);
  std::memcpy(block.data() + offsetof(UstarHeader, checksum), digits.c_str(), 7);
  return block;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

Result<void> CopyFile(const fs::path& file, std::uint64_t size, TarStream& tar,
                      std::vector<char>& buffer) {
  const Descriptor fd(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (fd.get() < 0) return FileFailure("reading", file, errno);
  std::uint64_t left = size;
  while (left > 0) {
    const std::size_t want = std::min<std::uint64_t>(left, buffer.size());
    const ssize_t got = read(fd.get(), buffer.data(), want);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileFailure("reading", file, errno);
    if (got == 0) return Fail(fmt::format("{} became shorter while it was read", file.string()));
    ENVKIT_CHECK(tar.Data(buffer.data(), static_cast<std::size_t>(got)));
    left -= static_cast<std::uint64_t>(got);
  }
  return {};
}

}  // namespace

Result<void> TarStream::Write(std::string_view bytes) {
  bytes_ += bytes.size();
  return sink_(bytes.data(), bytes.size());
}

Result<void> TarStream::Pad() {
  constexpr std::array<char, kBlock> kZeros = {};
  const std::size_t over = bytes_ % kBlock;
  if (over == 0) return {};
  return Write({kZeros.data(), kBlock - over});
}

Result<void> TarStream::Header(std::string_view path, char type, unsigned mode, std::uint64_t size,
                               std::string_view target) {
  std::string_view bare = path;
  if (bare.ends_with('/')) bare.remove_suffix(1);
  if (!IsSafeRelativePath(bare)) return Fail(fmt::format("\"{}\" cannot be in a layer", path));
  if (bare <= last_) {
    return Fail(fmt::format("\"{}\" comes after \"{}\" in a tar that must be sorted", bare, last_));
  }
  last_ = bare;

  std::string records;
  if (target.size() > sizeof UstarHeader::target) records += PaxRecord("linkpath", target);
  if (path.size() > sizeof UstarHeader::name && SplitAt(path) == std::string_view::npos) {
    records += PaxRecord("path", path);
  }
  if (size > kLargestUstarSize) records += PaxRecord("size", fmt::format("{}", size));
  if (!records.empty()) {
    ENVKIT_CHECK(Write(HeaderBlock("PaxHeader", 'x', 0644, records.size(), mtime_, "")));
    ENVKIT_CHECK(Write(records));
    ENVKIT_CHECK(Pad());
  }
  return Write(HeaderBlock(path, type, mode, size, mtime_, target));
}

Result<void> TarStream::Directory(std::string_view path, unsigned mode) {
  if (seen_) seen_({std::string(path), 'd', mode & 07777, 0, "", ""});
  return Header(fmt::format("{}/", path), '5', mode, 0, "");
}

Result<void> TarStream::Symlink(std::string_view path, std::string_view target) {
  if (seen_) seen_({std::string(path), 'l', 0777, 0, "", std::string(target)});
  return Header(path, '2', 0777, 0, target);
}

Result<void> TarStream::BeginFile(std::string_view path, unsigned mode, std::uint64_t size,
                                  const std::string& sha256) {
  left_ = size;
  if (seen_) {
    entry_ = {std::string(path), 'f', mode & 07777, size, sha256, ""};
    if (sha256.empty()) hash_.emplace();
  }
  return Header(path, '0', mode, size, "");
}

Result<void> TarStream::Data(const char* data, std::size_t size) {
  if (size > left_) return Fail(fmt::format("{} is longer than was said", last_));
  left_ -= size;
  if (hash_) hash_->Update(data, size);
  return Write({data, size});
}

Result<void> TarStream::EndFile() {
  if (left_ != 0) return Fail(fmt::format("{} is {} bytes shorter than was said", last_, left_));
  if (hash_) entry_.sha256 = hash_->Hex();
  hash_.reset();
  if (seen_) seen_(std::move(entry_));
  return Pad();
}

Result<void> TarStream::Finish() { return Write(std::string(2 * kBlock, '\0')); }

Result<std::uint64_t> WriteCanonicalTar(const fs::path& tree, std::int64_t mtime,
                                        const ByteSink& sink, const EntrySink& seen) {
  std::error_code error;
  std::vector<std::string> paths;
  const std::size_t root = tree.string().size() + 1;
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    paths.push_back(it->path().string().substr(root));
  }
  if (error) return Fail(fmt::format("reading {}: {}", tree.string(), error.message()));
  std::sort(paths.begin(), paths.end());

  TarStream tar(sink, mtime, seen);
  std::vector<char> buffer(1 << 20);
  for (const std::string& path : paths) {
    const fs::path file = tree / path;
    struct stat status {};
    if (lstat(file.c_str(), &status) != 0) return FileFailure("reading", file, errno);
    if (S_ISDIR(status.st_mode)) {
      ENVKIT_CHECK(tar.Directory(path, status.st_mode));
    } else if (S_ISLNK(status.st_mode)) {
      const fs::path target = fs::read_symlink(file, error);
      if (error) return Fail(fmt::format("reading {}: {}", file.string(), error.message()));
      ENVKIT_CHECK(tar.Symlink(path, target.native()));
    } else if (S_ISREG(status.st_mode)) {
      const auto size = static_cast<std::uint64_t>(status.st_size);
      ENVKIT_CHECK(tar.BeginFile(path, status.st_mode, size));
      ENVKIT_CHECK(CopyFile(file, size, tar, buffer));
      ENVKIT_CHECK(tar.EndFile());
    }
  }
  ENVKIT_CHECK(tar.Finish());
  return tar.bytes();
}

}  // namespace envkit

#include "base/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <array>
#include <cerrno>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "base/descriptor.h"
#include "base/files.h"

namespace envkit {
namespace fs = std::filesystem;

bool IsSafeRelativePath(std::string_view path) {
  if (path.empty() || path.find('\0') != std::string_view::npos) return false;
  std::size_t at = 0;
  while (at <= path.size()) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (part.empty() || part == "." || part == "..") return false;
    at = end + 1;
  }
  return true;
}

namespace {

// An entry's name in an error: whoever made the archive chose it.
std::string ShownName(std::string_view name) {
  std::string shown(name.substr(0, 200));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return shown;
}

Unexpected Unsafe(const fs::path& archive, std::string_view name, std::string_view why) {
  return Fail(
      fmt::format("{}: the entry \"{}\" {}", archive.filename().string(), ShownName(name), why),
      "The archive is damaged or was made to do harm: do not use it.");
}

}  // namespace

struct ZipReader::State {
  zip_t* zip = nullptr;
  fs::path file;
  // Kept from member to member: wheels have thousands of small ones.
  std::unique_ptr<std::uint8_t[]> in, out;
  std::unique_ptr<inflate_state> inflate;
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (zip != nullptr) zip_discard(zip);
  }
};

Result<ZipReader> ZipReader::Open(const fs::path& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileFailure("reading", file, errno);
  ZipReader reader;
  reader.state_ = std::make_shared<State>();
  reader.state_->file = file;
  int code = 0;
  zip_t* zip = zip_fdopen(fd, 0, &code);
  if (zip == nullptr) {
    close(fd);
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string words = zip_error_strerror(&error);
    zip_error_fini(&error);
    return Fail(fmt::format("{} is not a readable zip archive: {}", file.string(), words));
  }
  reader.state_->zip = zip;

  const zip_int64_t count = zip_get_num_entries(zip, 0);
  std::unordered_set<std::string> names;
  std::unordered_set<std::string> directories;
  for (zip_uint64_t i = 0; i < static_cast<zip_uint64_t>(count); ++i) {
    zip_stat_t info;
    zip_stat_init(&info);
    constexpr zip_uint64_t kNeeded = ZIP_STAT_NAME | ZIP_STAT_SIZE;
    if (zip_stat_index(zip, i, 0, &info) != 0 || (info.valid & kNeeded) != kNeeded) {
      return Fail(fmt::format("{} is not a readable zip archive: entry {}: {}", file.string(), i,
                              zip_strerror(zip)));
    }
    std::string name = info.name;
    const bool directory = name.ends_with('/');
    if (directory) name.pop_back();
    if (name.find('\\') != std::string::npos || !IsSafeRelativePath(name)) {
      return Unsafe(file, info.name, "has a path that could leave its directory");
    }
    zip_uint8_t system = 0;
    zip_uint32_t attributes = 0;
    std::uint32_t mode = 0;
    if (zip_file_get_external_attributes(zip, i, 0, &system, &attributes) == 0 &&
        (system == ZIP_OPSYS_UNIX || system == ZIP_OPSYS_OS_X)) {
      mode = attributes >> 16;
    }
    const std::uint32_t type = mode & S_IFMT;
    if (type == S_IFLNK) return Unsafe(file, name, "is a symbolic link");
    if (type != 0 && type != (directory ? S_IFDIR : S_IFREG)) {
      return Unsafe(file, name, "is not an ordinary file");
    }
    for (std::size_t slash = name.find('/'); slash != std::string::npos;
         slash = name.find('/', slash + 1)) {
      directories.insert(name.substr(0, slash));
    }
    if (directory) {
      directories.insert(name);
      continue;
    }
    if (!names.insert(name).second) return Unsafe(file, name, "is there twice");
    reader.entries_.push_back({std::move(name), info.size, mode & 07777, i});
  }
  for (const std::string& name : names) {
    if (directories.count(name) != 0) return Unsafe(file, name, "is both a file and a directory");
  }
  return reader;
}

namespace {

constexpr std::size_t kChunk = 256 << 10;

#if defined(__x86_64__)
__attribute__((target("avx"))) void ClearUpperHalves() { _mm256_zeroupper(); }
#endif

// ISA-L's checksum for AVX-512 leaves the upper halves of the vector registers in use (2.30 has no
// vzeroupper). Whatever uses SSE instructions next is slower for it: OpenSSL's SHA-256 by a third.
std::uint32_t Crc32(std::uint32_t seen, const std::uint8_t* data, std::size_t size) {
  seen = crc32_gzip_refl(seen, data, size);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx")) ClearUpperHalves();
#endif
  return seen;
}

// What both ways of reading a member have in common: it must hold the bytes that it declares.
class DeclaredSize {
 public:
  DeclaredSize(std::uint64_t declared, const ByteSink& sink) : declared_(declared), sink_(sink) {}

  bool Fits(std::size_t size) const { return size <= declared_ - total_; }
  Result<void> Pass(const char* data, std::size_t size) {
    total_ += size;
    return sink_(data, size);
  }
  std::string Complaint(bool more) const {
    return fmt::format("it holds {} bytes than the {} that it declares", more ? "more" : "fewer",
                       declared_);
  }
  bool complete() const { return total_ == declared_; }

 private:
  std::uint64_t declared_;
  std::uint64_t total_ = 0;
  const ByteSink& sink_;
};

}  // namespace

Result<void> ZipReader::Read(const Entry& entry, const ByteSink& sink) const {
  zip_stat_t info;
  zip_stat_init(&info);
  constexpr zip_uint64_t kNeeded = ZIP_STAT_CRC | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
  const bool known = zip_stat_index(state_->zip, entry.index, 0, &info) == 0 &&
                     (info.valid & kNeeded) == kNeeded && info.encryption_method == ZIP_EM_NONE;
  if (known && info.comp_method == ZIP_CM_DEFLATE) return Inflate(entry, info.crc, sink);
  return Copy(entry, sink);
}

Error ZipReader::Damaged(const Entry& entry, std::string_view words) const {
  return Fail(fmt::format("{}: reading {}: {}", state_->file.filename().string(),
                          ShownName(entry.name), words),
              "The archive is damaged: remove it and fetch it again.")
      .value();
}

Result<void> ZipReader::Inflate(const Entry& entry, std::uint32_t crc, const ByteSink& sink) const {
  const auto failure = [&](std::string_view words) { return Unexpected(Damaged(entry, words)); };
  const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> member(
      zip_fopen_index(state_->zip, entry.index, ZIP_FL_COMPRESSED), zip_fclose);
  if (!member) return failure(zip_strerror(state_->zip));
  if (!state_->inflate) {
    state_->in = std::make_unique_for_overwrite<std::uint8_t[]>(kChunk);
    state_->out = std::make_unique_for_overwrite<std::uint8_t[]>(kChunk);
    state_->inflate = std::make_unique_for_overwrite<inflate_state>();  // 80 kB
  }
  std::uint8_t* const in = state_->in.get();
  std::uint8_t* const out = state_->out.get();
  inflate_state* const inflate = state_->inflate.get();
  isal_inflate_init(inflate);
  DeclaredSize declared(entry.size, sink);
  std::uint32_t seen = 0;
  bool more = true;
  while (inflate->block_state != ISAL_BLOCK_FINISH) {
    if (inflate->avail_in == 0 && more) {
      const zip_int64_t got = zip_fread(member.get(), in, kChunk);
      if (got < 0) return failure(zip_file_strerror(member.get()));
      more = got > 0;
      inflate->next_in = in;
      inflate->avail_in = static_cast<std::uint32_t>(got);
    }
    inflate->next_out = out;
    inflate->avail_out = kChunk;
    const int code = isal_inflate(inflate);
    if (code != ISAL_DECOMP_OK && code != ISAL_END_INPUT) return failure("invalid compressed data");
    const std::size_t size = kChunk - inflate->avail_out;
    if (!declared.Fits(size)) return failure(declared.Complaint(true));
    if (size == 0 && !more) return failure("its compressed data ends too early");
    seen = Crc32(seen, out, size);
    if (size > 0) {
      ENVKIT_CHECK(declared.Pass(reinterpret_cast<const char*>(out), size));
    }
  }
  if (!declared.complete()) return failure(declared.Complaint(false));
  if (seen != crc) return failure("CRC error");
  return {};
}

Result<void> ZipReader::Copy(const Entry& entry, const ByteSink& sink) const {
  const auto failure = [&](std::string_view words) { return Unexpected(Damaged(entry, words)); };
  const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> member(
      zip_fopen_index(state_->zip, entry.index, 0), zip_fclose);
  if (!member) return failure(zip_strerror(state_->zip));
  std::vector<char> buffer(kChunk);
  DeclaredSize declared(entry.size, sink);
  while (true) {
    // At the end libzip compares the CRC.
    const zip_int64_t got = zip_fread(member.get(), buffer.data(), buffer.size());
    if (got < 0) return failure(zip_file_strerror(member.get()));
    const auto size = static_cast<std::size_t>(got);
    if (!declared.Fits(size)) return failure(declared.Complaint(true));
    if (size == 0) {
      if (!declared.complete()) return failure(declared.Complaint(false));
      return {};
    }
    ENVKIT_CHECK(declared.Pass(buffer.data(), size));
  }
}

Result<std::string> ZipReader::ReadAll(const Entry& entry) const {
  std::string content;
  // The declared size is only a claim until the bytes are there.
  content.reserve(static_cast<std::size_t>(std::min<std::uint64_t>(entry.size, 16 << 20)));
  ENVKIT_CHECK(Read(entry, [&](const char* data, std::size_t size) -> Result<void> {
    content.append(data, size);
    return {};
  }));
  return content;
}

// Note [Unpacking below a directory]
// libarchive reads; the writing is ours: its own writer works relative to the process's current
// directory, which other threads share. Every component of every path is opened from the
// destination's descriptor with O_NOFOLLOW, so that no symbolic link, whether it was there before
// or came from the archive, is ever followed. (libarchive's SECURE_SYMLINKS, SECURE_NODOTDOT and
// SECURE_NOABSOLUTEPATHS refuse the same.)
namespace {

struct ReadCloser {
  void operator()(struct archive* reader) const { archive_read_free(reader); }
};

// "./usr//bin/" → "usr/bin"; the root itself → "". Keeps ".." and a leading "/" for the check.
std::string Normalised(std::string_view path) {
  std::string normal;
  if (path.starts_with('/')) normal.push_back('/');
  std::size_t at = 0;
  while (at < path.size()) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (!part.empty() && part != ".") {
      if (!normal.empty() && normal.back() != '/') normal += '/';
      normal += part;
    }
    at = end + 1;
  }
  return normal;
}

class TarExtractor {
  static constexpr std::uint64_t kEntry = 512;  // an empty file takes room as well

 public:
  TarExtractor(const fs::path& archive, const fs::path& destination, std::int64_t mtime,
               const TarOptions& options)
      : archive_(archive), destination_(destination), options_(options) {
    times_[0] = times_[1] = {static_cast<time_t>(mtime), 0};
  }

  Result<void> Run() {
    root_ = Descriptor(open(destination_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (root_.get() < 0) return FileFailure("writing", destination_, errno);
    ENVKIT_CHECK(Open());
    while (true) {
      ENVKIT_TRY(archive_entry * entry, Next());
      if (entry == nullptr) break;
      ENVKIT_CHECK(Take(entry));
    }
    return FinishDirectories();
  }

  Result<std::int64_t> FirstTime() {
    ENVKIT_CHECK(Open());
    ENVKIT_TRY(archive_entry * entry, Next());
    return entry == nullptr ? 0 : archive_entry_mtime(entry);
  }

 private:
  Result<void> Open() {
    input_ = Descriptor(open(archive_.c_str(), O_RDONLY | O_CLOEXEC));
    if (input_.get() < 0) return FileFailure("reading", archive_, errno);
    reader_.reset(archive_read_new());
    // Not "all": some of libarchive's filters run external programs.
    archive_read_support_filter_gzip(reader_.get());
    archive_read_support_filter_bzip2(reader_.get());
    archive_read_support_filter_xz(reader_.get());
    archive_read_support_filter_lzma(reader_.get());
    archive_read_support_filter_zstd(reader_.get());
    archive_read_support_filter_lz4(reader_.get());
    archive_read_support_format_tar(reader_.get());
    if (archive_read_open_fd(reader_.get(), input_.get(), 256 << 10) != ARCHIVE_OK) {
      return Damaged();
    }
    return {};
  }

  // nullptr: the end.
  Result<archive_entry*> Next() {
    archive_entry* entry = nullptr;
    int code = ARCHIVE_RETRY;
    while (code == ARCHIVE_RETRY) code = archive_read_next_header(reader_.get(), &entry);
    if (code == ARCHIVE_EOF) return nullptr;
    if (code < ARCHIVE_WARN) return Damaged();
    return entry;
  }

  Unexpected Damaged() {
    const char* words = archive_error_string(reader_.get());
    return Fail(fmt::format("{} is not a readable tar archive: {}", archive_.string(),
                            words == nullptr ? "unknown error" : ShownName(words)),
                "The archive is damaged: remove it and fetch it again.");
  }
  Unexpected Failure(const std::string& path, int error) const {
    if (error == ELOOP || error == ENOTDIR) {
      return Unsafe(archive_, path, "leads through a symbolic link or a file");
    }
    return FileFailure("unpacking", destination_ / path, error);
  }

  Result<void> Count(std::uint64_t size) {
    if (size > options_.max_bytes || bytes_ > options_.max_bytes - size) {
      return Fail(fmt::format("{} unpacks to more than the {} that it may", archive_.string(),
                              HumanBytes(options_.max_bytes)));
    }
    bytes_ += size;
    return {};
  }

  Result<void> Take(archive_entry* entry) {
    ENVKIT_CHECK(Count(kEntry));
    ENVKIT_TRY(const std::string path,
               Path(archive_entry_pathname(entry), archive_entry_pathname_utf8(entry), "path"));
    if (!path.empty() && options_.keep && !options_.keep(path)) return {};
    const auto mode = static_cast<mode_t>(archive_entry_perm(entry) & 07777);
    const char* link = archive_entry_hardlink(entry);
    const char* link_utf8 = archive_entry_hardlink_utf8(entry);
    if (link != nullptr || link_utf8 != nullptr) {
      ENVKIT_TRY(const std::string target, Path(link, link_utf8, "hard link"));
      return HardLink(path, target);
    }
    const mode_t type = archive_entry_filetype(entry);
    if (type == AE_IFDIR) return Directory(path, mode);
    if (path.empty()) return Unsafe(archive_, ".", "is not a directory");
    if (type == AE_IFREG) return File(path, mode, archive_entry_size(entry));
    if (type == AE_IFLNK) return Symlink(path, entry);
    if (!options_.device_nodes) return {};
    return Node(path, type | mode, archive_entry_rdev(entry));
  }

  // libarchive gives no name in the locale's encoding where it cannot convert it (ours is "C").
  Result<std::string> Path(const char* name, const char* utf8, std::string_view what) {
    const char* stored = name != nullptr ? name : utf8;
    if (stored == nullptr) return Unsafe(archive_, "?", fmt::format("has no readable {}", what));
    std::string path = Normalised(stored);
    if (!path.empty() && !IsSafeRelativePath(path)) {
      return Unsafe(archive_, stored, "has a path that could leave its directory");
    }
    return path;
  }

  // Opens the directory that holds PATH, making what is missing, and leaves PATH's last part in
  // `name_`. The last directory stays open: entries of one directory follow each other.
  Result<int> Parent(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "" : path.substr(0, slash);
    name_ = slash == std::string::npos ? path : path.substr(slash + 1);
    if (parent.empty()) return root_.get();
    if (parent_.get() >= 0 && parent == parent_path_) return parent_.get();
    Descriptor at;
    std::size_t begin = 0;
    while (begin <= parent.size()) {
      const std::size_t end = std::min(parent.find('/', begin), parent.size());
      const std::string part = parent.substr(begin, end - begin);
      const int above = at.get() < 0 ? root_.get() : at.get();
      constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
      int fd = openat(above, part.c_str(), kFlags);
      if (fd < 0 && errno == ENOENT) {
        if (mkdirat(above, part.c_str(), 0755) != 0 && errno != EEXIST) {
          return Failure(path, errno);
        }
        directories_.push_back({parent.substr(0, end), 0755});
        fd = openat(above, part.c_str(), kFlags);
      }
      if (fd < 0) return Failure(path, errno);
      at = Descriptor(fd);
      begin = end + 1;
    }
    parent_ = std::move(at);
    parent_path_ = parent;
    return parent_.get();
  }

  // A later entry of the same name replaces an earlier one, as tar has it.
  static int MakeRoom(int parent, const std::string& name) {
    if (unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return errno;
    return unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 ? 0 : errno;
  }

  Result<void> Directory(const std::string& path, mode_t mode) {
    if (!path.empty()) {
      ENVKIT_TRY(const int parent, Parent(path));
      if (mkdirat(parent, name_.c_str(), 0755) != 0) {
        struct stat info {};
        const int error = errno;
        if (error != EEXIST) return Failure(path, error);
        if (fstatat(parent, name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISDIR(info.st_mode)) {
          return Failure(path, ENOTDIR);
        }
      }
    }
    directories_.push_back({path, mode | 0700});
    return {};
  }

  Result<void> File(const std::string& path, mode_t mode, la_int64_t size_of_entry) {
    ENVKIT_TRY(const int parent, Parent(path));
    if (const int error = MakeRoom(parent, name_); error != 0) return Failure(path, error);
    const Descriptor out(
        openat(parent, name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (out.get() < 0) return Failure(path, errno);
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    la_int64_t end = 0;
    int code = ARCHIVE_OK;
    while ((code = archive_read_data_block(reader_.get(), &data, &size, &offset)) == ARCHIVE_OK) {
      ENVKIT_CHECK(Count(size));
      const auto* bytes = static_cast<const char*>(data);
      std::size_t at = 0;
      while (at < size) {
        const ssize_t put =
            pwrite(out.get(), bytes + at, size - at, offset + static_cast<la_int64_t>(at));
        if (put >= 0) {
          at += static_cast<std::size_t>(put);
        } else if (errno != EINTR) {
          return Failure(path, errno);
        }
      }
      end = std::max(end, offset + static_cast<la_int64_t>(size));
    }
    if (code != ARCHIVE_EOF) return Damaged();
    // A sparse file may end with a hole, of which there is no block.
    end = std::max(end, size_of_entry);
    if (static_cast<std::uint64_t>(end) > options_.max_bytes) ENVKIT_CHECK(Count(UINT64_MAX));
    if (ftruncate(out.get(), end) != 0 || fchmod(out.get(), mode) != 0 ||
        futimens(out.get(), times_.data()) != 0) {
      return Failure(path, errno);
    }
    return {};
  }

  Result<void> Symlink(const std::string& path, archive_entry* entry) {
    const char* target = archive_entry_symlink(entry);
    if (target == nullptr) target = archive_entry_symlink_utf8(entry);
    if (target == nullptr || *target == '\0') return Unsafe(archive_, path, "links to nothing");
    ENVKIT_TRY(const int parent, Parent(path));
    if (const int error = MakeRoom(parent, name_); error != 0) return Failure(path, error);
    if (symlinkat(target, parent, name_.c_str()) != 0 ||
        utimensat(parent, name_.c_str(), times_.data(), AT_SYMLINK_NOFOLLOW) != 0) {
      return Failure(path, errno);
    }
    return {};
  }

  Result<void> HardLink(const std::string& path, const std::string& target) {
    if (path.empty() || target.empty()) return Unsafe(archive_, path, "links to nothing");
    if (path == target) return {};
    ENVKIT_TRY(const int target_parent, Parent(target));
    const Descriptor from(fcntl(target_parent, F_DUPFD_CLOEXEC, 3));
    const std::string target_name = name_;
    ENVKIT_TRY(const int parent, Parent(path));
    struct stat info {};
    if (fstatat(from.get(), target_name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      return Unsafe(archive_, path, "is a hard link to a file that is not in the archive");
    }
    if (const int error = MakeRoom(parent, name_); error != 0) return Failure(path, error);
    // Without AT_SYMLINK_FOLLOW a link to a symbolic link is a second name of the link itself.
    if (linkat(from.get(), target_name.c_str(), parent, name_.c_str(), 0) != 0) {
      return Failure(path, errno);
    }
    return {};
  }

  Result<void> Node(const std::string& path, mode_t mode, dev_t device) {
    ENVKIT_TRY(const int parent, Parent(path));
    if (const int error = MakeRoom(parent, name_); error != 0) return Failure(path, error);
    if (mknodat(parent, name_.c_str(), mode, device) != 0 ||
        fchmodat(parent, name_.c_str(), mode & 07777, 0) != 0 ||
        utimensat(parent, name_.c_str(), times_.data(), AT_SYMLINK_NOFOLLOW) != 0) {
      return Failure(path, errno);
    }
    return {};
  }

  // Last, and from the inside out: writing into a directory changes its mtime, and its mode may
  // forbid writing.
  Result<void> FinishDirectories() {
    for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
      if (it->path.empty()) {
        if (fchmod(root_.get(), it->mode) != 0 || futimens(root_.get(), times_.data()) != 0) {
          return Failure(".", errno);
        }
        continue;
      }
      ENVKIT_TRY(const int parent, Parent(it->path));
      const Descriptor fd(
          openat(parent, name_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (fd.get() < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) continue;
      if (fd.get() < 0) return Failure(it->path, errno);
      if (!finished_.insert(it->path).second) continue;  // the last of several entries counts
      if (fchmod(fd.get(), it->mode) != 0 || futimens(fd.get(), times_.data()) != 0) {
        return Failure(it->path, errno);
      }
    }
    return {};
  }

  struct DirectoryMode {
    std::string path;
    mode_t mode;
  };
  const fs::path& archive_;
  const fs::path& destination_;
  const TarOptions& options_;
  std::array<timespec, 2> times_{};
  Descriptor input_;
  std::unique_ptr<struct archive, ReadCloser> reader_;
  std::uint64_t bytes_ = 0;
  Descriptor root_;
  Descriptor parent_;
  std::string parent_path_;
  std::string name_;
  std::vector<DirectoryMode> directories_;
  std::unordered_set<std::string> finished_;
};

}  // namespace

Result<void> ExtractTar(const fs::path& archive, const fs::path& destination, std::int64_t mtime,
                        const TarOptions& options) {
  ENVKIT_CHECK(MakeDirectories(destination));
  return TarExtractor(archive, destination, mtime, options).Run();
}

Result<std::int64_t> FirstTarTime(const fs::path& archive) {
  const TarOptions options;
  return TarExtractor(archive, archive, 0, options).FirstTime();
}

}  // namespace envkit

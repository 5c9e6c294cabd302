#include "image/elf.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace envkit {
namespace {

constexpr std::uint64_t kLargestTable = 64 << 20;  // of names or entries in an honest file

class Reader {
 public:
  explicit Reader(const std::filesystem::path& file)
      : fd_(open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) {
    struct stat status {};
    if (fd_ >= 0 && fstat(fd_, &status) == 0 && S_ISREG(status.st_mode)) {
      size_ = static_cast<std::uint64_t>(status.st_size);
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() {
    if (fd_ >= 0) close(fd_);
  }

  bool Read(std::uint64_t offset, void* to, std::uint64_t bytes) const {
    if (bytes > size_ || offset > size_ - bytes) return false;
    return pread(fd_, to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
  }
  template <class T>
  bool ReadTable(std::uint64_t offset, std::uint64_t count, std::vector<T>& table) const {
    if (count > kLargestTable / sizeof(T)) return false;
    table.resize(count);
    return Read(offset, table.data(), count * sizeof(T));
  }

 private:
  int fd_;
  std::uint64_t size_ = 0;
};

// The dynamic section names addresses; the segments say where in the file they are.
std::optional<std::uint64_t> OffsetOf(const std::vector<Elf64_Phdr>& segments,
                                      std::uint64_t address) {
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type == PT_LOAD && address >= segment.p_vaddr &&
        address - segment.p_vaddr < segment.p_filesz) {
      return segment.p_offset + (address - segment.p_vaddr);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<ElfInfo> ReadElf(const std::filesystem::path& file) {
  const Reader reader(file);
  Elf64_Ehdr header;
  if (!reader.Read(0, &header, sizeof header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return std::nullopt;
  }
  std::vector<Elf64_Phdr> segments;
  if (!reader.ReadTable(header.e_phoff, header.e_phnum, segments)) return std::nullopt;
  std::vector<Elf64_Dyn> entries;
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type == PT_DYNAMIC &&
        !reader.ReadTable(segment.p_offset, segment.p_filesz / sizeof(Elf64_Dyn), entries)) {
      return std::nullopt;
    }
  }
  std::uint64_t names_at = 0, names_size = 0;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_STRTAB) names_at = entry.d_un.d_ptr;
    if (entry.d_tag == DT_STRSZ) names_size = entry.d_un.d_val;
  }
  const auto offset = OffsetOf(segments, names_at);
  std::vector<char> names;
  if (entries.empty() || !offset || !reader.ReadTable(*offset, names_size, names)) {
    return std::nullopt;
  }
  const auto name = [&](std::uint64_t at) {
    if (at >= names.size()) return std::string();
    return std::string(&names[at], strnlen(&names[at], names.size() - at));
  };
  ElfInfo info;
  for (const Elf64_Dyn& entry : entries) {
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_SONAME) info.soname = name(entry.d_un.d_val);
    if (entry.d_tag == DT_NEEDED) info.needed.push_back(name(entry.d_un.d_val));
  }
  return info;
}

}  // namespace envkit

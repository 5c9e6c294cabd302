#include "files.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "../tracking/crc32c.h"
#include "envkit/failure.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void Throw(const std::string& doing, const fs::path& file) {
  const int error = errno;
  throw Failure("cannot " + doing + " " + file.string() + ": " + std::strerror(error),
                error == ENOSPC || error == EDQUOT ? "free some space on that disk" : "");
}

fs::path Hidden(const fs::path& folder) {
  return folder.parent_path() /
         (".old-" + folder.filename().string() + "-" + std::to_string(getpid()));
}

}  // namespace

DurableFile::DurableFile(const fs::path& file) : file_(file) {
  descriptor_ = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) Throw("write", file_);
}

DurableFile::~DurableFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void DurableFile::Write(const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t wrote = write(descriptor_, at, size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) Throw("write", file_);
    at += wrote;
    size -= static_cast<std::size_t>(wrote);
  }
}

void DurableFile::Finish() {
  if (fsync(descriptor_) != 0) Throw("write", file_);
  const int closed = close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) Throw("write", file_);
}

void WriteDurably(const fs::path& file, std::string_view text) {
  DurableFile out(file);
  out.Write(text.data(), text.size());
  out.Finish();
}

void SyncFolder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) Throw("open", folder);
  const int synced = fsync(descriptor);
  close(descriptor);
  // Some network file systems know no fsync of a folder; nothing more can be done there.
  if (synced != 0 && errno != EINVAL) Throw("sync", folder);
}

std::string ReadText(const fs::path& file, std::size_t limit) {
  std::ifstream in(file, std::ios::binary);
  if (!in) Throw("read", file);
  std::string text;
  std::array<char, 1 << 16> piece;
  while (in.read(piece.data(), piece.size()), in.gcount() > 0) {
    text.append(piece.data(), static_cast<std::size_t>(in.gcount()));
    if (text.size() > limit) throw Failure(file.string() + ": longer than it can be");
  }
  if (in.bad()) Throw("read", file);
  return text;
}

std::uint32_t FileCrc32c(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) Throw("read", file);
  std::uint32_t crc = 0;
  std::array<char, 1 << 16> piece;
  while (in.read(piece.data(), piece.size()), in.gcount() > 0)
    crc = Crc32c(piece.data(), static_cast<std::size_t>(in.gcount()), crc);
  if (in.bad()) Throw("read", file);
  return crc;
}

void ReplaceFolder(const fs::path& from, const fs::path& to) {
  if (std::error_code error; fs::exists(fs::symlink_status(to, error))) {
    // Exchanging leaves no moment at which neither is there. File systems without it get two steps.
    if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
      SyncFolder(to.parent_path());
      DeleteFolder(from);
      return;
    }
    const fs::path old = Hidden(to);
    if (rename(to.c_str(), old.c_str()) != 0) Throw("move", to);
    if (rename(from.c_str(), to.c_str()) != 0) Throw("move", from);
    SyncFolder(to.parent_path());
    fs::remove_all(old, error);
    return;
  }
  if (rename(from.c_str(), to.c_str()) != 0) Throw("move", from);
  SyncFolder(to.parent_path());
}

void DeleteFolder(const fs::path& folder) {
  const fs::path hidden = Hidden(folder);
  std::error_code error;
  if (rename(folder.c_str(), hidden.c_str()) == 0) fs::remove_all(hidden, error);
}

}  // namespace envkit

#include <fmt/format.h>
#include <sys/stat.h>

#include <fstream>
#include <system_error>

#include "base/archive.h"
#include "base/files.h"
#include "image/build.h"
#include "image/prune.h"
#include "image/resolve.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kLargest = 1ull << 40;  // a zip that claims more is not data

Result<void> Unpack(const fs::path& archive, const fs::path& destination) {
  ENVKIT_TRY(const ZipReader zip, ZipReader::Open(archive));
  std::uint64_t total = 0;
  for (const ZipReader::Entry& entry : zip.entries()) {
    total += entry.size;
    if (entry.size > kLargest || total > kLargest) return Fail("it claims to hold more than 1 TB");
  }
  ENVKIT_CHECK(RequireFreeSpace(destination, total, "unpacking it"));
  for (const ZipReader::Entry& entry : zip.entries()) {
    const fs::path file = destination / entry.name;
    ENVKIT_CHECK(MakeDirectories(file.parent_path()));
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    ENVKIT_CHECK(zip.Read(entry, [&](const char* data, std::size_t size) -> Result<void> {
      if (!out.write(data, static_cast<std::streamsize>(size))) {
        return FileFailure("writing", file, errno);
      }
      return {};
    }));
    out.close();
    if (!out) return FileFailure("writing", file, errno);
    if (chmod(file.c_str(), 0644) != 0) return FileFailure("writing", file, errno);
  }
  return {};
}

// Containers run as other users than ours too.
Result<void> MakeReadable(const fs::path& tree) {
  std::error_code error;
  if (chmod(tree.c_str(), 0755) != 0) return FileFailure("setting the mode of", tree, errno);
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_directory(error) && chmod(it->path().c_str(), 0755) != 0) {
      return FileFailure("setting the mode of", it->path(), errno);
    }
  }
  if (error) return FileFailure("reading", tree, error.value());
  return {};
}

}  // namespace

Result<fs::path> EnsureData(const Project& project, const DataArtefact& data, const Store& store,
                            Terminal& terminal) {
  const std::string doing = fmt::format("preparing [data.{}]", data.name);
  if (data.path) {
    fs::path path = *data.path;
    if (path.native() == "~" || path.native().starts_with("~/")) {
      const char* home = std::getenv("HOME");
      if (home != nullptr)
        path = fs::path(home) / path.native().substr(path.native().size() > 1 ? 2 : 1);
    }
    if (path.is_relative()) path = project.root / path;
    std::error_code error;
    path = path.lexically_normal();
    if (fs::exists(path, error)) return path;
    return Usage(fmt::format("data.{}.path: {} does not exist", data.name, path.string()),
                 fmt::format("Put the files there, or correct [data.{}] in {}.", data.name,
                             project.file.filename().string()));
  }
  const fs::path directory = store.data / "data" / data.sha256;
  std::error_code error;
  if (fs::exists(directory, error)) return directory;

  ENVKIT_TRY(const FileLock hold, HoldStore(store));
  FetchRequest request;
  request.data.push_back(data);
  auto fetched = FetchLocked(project, request, store, terminal);
  if (!fetched) return Wrap(std::move(fetched).error(), doing);
  ENVKIT_TRY(const FileLock lock, LockKey(store, data.sha256, data.name, terminal));
  if (fs::exists(directory, error)) return directory;
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  const fs::path unpacked = work.path() / "data";
  const fs::path archive = store.DownloadPath(data.sha256, data.file);
  ENVKIT_CHECK(MakeDirectories(unpacked));
  if (auto done = Unpack(archive, unpacked); !done) {
    return Wrap(Wrap(std::move(done).error(), "unpacking " + data.file).value(), doing);
  }
  ENVKIT_CHECK(MakeReadable(unpacked));
  ENVKIT_CHECK(SyncFilesystem(unpacked));
  ENVKIT_CHECK(PublishDirectory(unpacked, directory));
  return directory;
}

}  // namespace envkit

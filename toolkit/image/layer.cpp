#include "image/layer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "base/files.h"
#include "image/installed_wheel.h"
#include "image/manifest.h"
#include "image/plan.h"
#include "image/record.h"
#include "image/wheel_record.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kLargestScript = 1'000'000;  // more is a program, not a script

std::array<timespec, 2> Times(std::int64_t mtime) {
  return {timespec{mtime, 0}, timespec{mtime, 0}};
}

Result<void> SetTime(const fs::path& path, std::int64_t mtime) {
  if (utimensat(AT_FDCWD, path.c_str(), Times(mtime).data(), AT_SYMLINK_NOFOLLOW) != 0) {
    return FileFailure("setting the time of", path, errno);
  }
  return {};
}

bool IsSharedLibrary(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  return name.ends_with(".so") || name.find(".so.") != std::string_view::npos;
}

unsigned PlainMode(std::string_view path, unsigned mode) {
  return (mode & 0111) != 0 || IsSharedLibrary(path) ? 0755 : 0644;
}

Unexpected Collision(const OwnedFile& first, const OwnedFile& second) {
  return Fail(fmt::format("two wheels have different files at {}\n  {}\n  {}", first.path,
                          first.wheel, second.wheel),
              "Only one of them can be in the image: leave out one in envkit.toml, then envkit "
              "lock.",
              ExitCode::kUsage);
}

Result<bool> SameContent(const OwnedFile& first, const OwnedFile& second) {
  if (first.size != second.size) return false;
  ENVKIT_TRY(const std::string one, first.read());
  ENVKIT_TRY(const std::string other, second.read());
  return one == other;
}

OwnedFile Owned(const LayerPlan& plan, const WheelContent& content,
                const WheelContent::File& file) {
  return {file.path, plan.wheels[file.wheel].file, file.entry.size,
          [&zip = content.zips[file.wheel], &file]() -> Result<std::string> {
            if (file.text) return *file.text;
            return zip.ReadAll(file.entry);
          }};
}

WheelContent::File Made(std::string path, std::size_t wheel, std::string text, unsigned mode) {
  WheelContent::File file;
  file.path = std::move(path);
  file.wheel = wheel;
  file.entry.size = text.size();
  file.entry.mode = mode;
  file.sha256 = Sha256Of(text);
  file.text = std::move(text);
  return file;
}

// Adds to a wheel's FILES what an installer does.
void Install(const std::string& site, std::size_t wheel, const std::string& dist_info,
             const std::vector<ConsoleScript>& commands, std::vector<WheelContent::File>& files) {
  for (const ConsoleScript& command : commands) {
    const std::string path = "usr/local/bin/" + command.name;
    // One that the wheel brings as a file too is replaced, as pip does.
    std::erase_if(files, [&](const auto& file) { return file.path == path; });
    files.push_back(Made(path, wheel, ScriptText(command), 0755));
  }
  const std::string directory = site + "/" + dist_info;
  files.push_back(Made(directory + "/INSTALLER", wheel, "envkit\n", 0644));
  std::vector<RecordedFile> recorded;
  recorded.reserve(files.size() + 1);
  for (const auto& file : files) recorded.push_back({file.path, file.sha256, file.entry.size});
  std::sort(recorded.begin(), recorded.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  recorded.push_back({directory + "/RECORD", "", 0});
  files.push_back(Made(directory + "/RECORD", wheel, RecordText(recorded, site), 0644));
}

// The wheel number INDEX of PLAN, as FILES.
Result<void> AddWheel(const LayerPlan& plan, std::size_t index, const ZipReader& zip,
                      const std::vector<std::string>& except,
                      std::vector<WheelContent::File>& files) {
  const LockedWheel& wheel = plan.wheels[index];
  const std::vector<std::string>& patterns = plan.members[index];
  ENVKIT_TRY(const WheelRecord record, ReadWheelRecord(zip, wheel.file));
  const std::string& dist_info = record.dist_info;

  // What is to be left out, other versions may not have.
  std::set<std::string> unused;
  for (const std::string& pattern : patterns) {
    if (!pattern.starts_with('!')) unused.insert(pattern);
  }
  std::vector<WheelContent::File> chosen;
  std::vector<ConsoleScript> commands;
  bool installed = false;
  for (const ZipReader::Entry& entry : zip.entries()) {
    for (const std::string& pattern : patterns) {
      if (fnmatch(pattern.c_str(), entry.name.c_str(), 0) == 0) unused.erase(pattern);
    }
    if (!patterns.empty() && !MatchesAny(patterns, entry.name)) continue;
    if (MatchesAny(except, entry.name)) continue;
    if (entry.name == dist_info + "/RECORD") installed = true;
    if (IsRecordItself(entry.name) || entry.name == dist_info + "/INSTALLER") continue;
    const auto listed = record.hashes.find(entry.name);
    if (listed == record.hashes.end()) {
      return LyingRecord(wheel.file, fmt::format("its RECORD does not list {}", entry.name));
    }
    ENVKIT_TRY(std::string path, PlaceInImage(plan.site, wheel, entry.name));
    WheelContent::File file{std::move(path), index, entry, listed->second, std::nullopt};
    if (file.path.starts_with("usr/local/bin/")) {
      file.entry.mode = 0755;
      if (entry.size <= kLargestScript) {
        ENVKIT_TRY(std::string text, zip.ReadAll(entry));
        if (!file.sha256.empty() && Sha256Of(text) != file.sha256) {
          return LyingRecord(wheel.file, WrongHash(entry.name));
        }
        if (std::string changed = WithInterpreter(text); changed != text) {
          file.entry.size = changed.size();
          file.sha256 = Sha256Of(changed);
          file.text = std::move(changed);
        }
      }
    }
    if (entry.name == dist_info + "/entry_points.txt") {
      ENVKIT_TRY(const std::string text, zip.ReadAll(entry));
      ENVKIT_TRY(commands, ParseEntryPoints(text, wheel.file));
    }
    chosen.push_back(std::move(file));
  }
  if (!unused.empty()) {
    return Usage(fmt::format("{} has no file {}", wheel.file, *unused.begin()),
                 "The recipe in images/profiles does not fit this version of the wheel.");
  }
  if (installed) Install(plan.site, index, dist_info, commands, chosen);
  files.insert(files.end(), std::make_move_iterator(chosen.begin()),
               std::make_move_iterator(chosen.end()));
  return {};
}

}  // namespace

// One file on its way to the disk. Large ones bypass the page cache: writing through it is what
// limits an extraction otherwise.
class LayerWriter::Output {
 public:
  Output() : buffer_(static_cast<char*>(std::aligned_alloc(kAlignment, kBuffer)), &std::free) {
    if (!buffer_) throw std::bad_alloc();
  }
  ~Output() { CloseQuietly(); }

  Result<void> Open(const fs::path& file, std::uint64_t size) {
    file_ = file;
    size_ = size;
    used_ = 0;
    direct_ = size >= kBuffer;
    constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
    if (direct_) {
      fd_ = open(file.c_str(), kFlags | O_DIRECT, 0600);
      if (fd_ < 0 && errno == EINVAL) {  // this file system cannot (tmpfs)
        unlink(file.c_str());
        direct_ = false;
      }
    }
    if (!direct_) fd_ = open(file.c_str(), kFlags, 0600);
    if (fd_ < 0) return FileFailure("writing", file, errno);
    return {};
  }

  Result<void> Write(const char* data, std::size_t size) {
    if (!direct_) return WriteAll(data, size);
    while (size > 0) {
      const std::size_t part = std::min(size, kBuffer - used_);
      std::memcpy(buffer_.get() + used_, data, part);
      used_ += part;
      data += part;
      size -= part;
      if (used_ == kBuffer) ENVKIT_CHECK(Flush());
    }
    return {};
  }

  Result<void> Close(unsigned mode, std::int64_t mtime) {
    if (direct_ && used_ > 0) {
      const std::size_t whole = (used_ + kAlignment - 1) / kAlignment * kAlignment;
      std::memset(buffer_.get() + used_, 0, whole - used_);
      used_ = whole;
      ENVKIT_CHECK(Flush());
      if (ftruncate(fd_, static_cast<off_t>(size_)) != 0) return Failure();
    }
    if (fchmod(fd_, mode) != 0 || futimens(fd_, Times(mtime).data()) != 0) return Failure();
    const int fd = std::exchange(fd_, -1);
    if (close(fd) != 0) return Failure();
    return {};
  }

  void CloseQuietly() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  static constexpr std::size_t kAlignment = 4096;
  static constexpr std::size_t kBuffer = 4u << 20;

  Unexpected Failure() const { return FileFailure("writing", file_, errno); }

  Result<void> Flush() { return WriteAll(buffer_.get(), std::exchange(used_, 0)); }

  Result<void> WriteAll(const char* data, std::size_t size) {
    while (size > 0) {
      const ssize_t done = write(fd_, data, size);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) return Failure();
      data += done;
      size -= static_cast<std::size_t>(done);
    }
    return {};
  }

  std::unique_ptr<char, decltype(&std::free)> buffer_;
  fs::path file_;
  std::uint64_t size_ = 0;
  std::size_t used_ = 0;
  bool direct_ = false;
  int fd_ = -1;
};

LayerWriter::LayerWriter(fs::path tree, std::int64_t mtime, ByteCount written)
    : tree_(std::move(tree)),
      mtime_(mtime),
      written_(std::move(written)),
      tar_(
          [this](const char* data, std::size_t size) -> Result<void> {
            hash_.Update(data, size);
            return {};
          },
          mtime,
          [this](const TreeEntry& entry) {
            manifest_ += ManifestLine(entry);
            sha256_ = entry.sha256;
          }),
      output_(std::make_unique<Output>()) {}

LayerWriter::~LayerWriter() = default;

Result<void> LayerWriter::Directory(std::string_view path, unsigned mode) {
  ENVKIT_CHECK(tar_.Directory(path, mode));
  fs::path directory = tree_ / path;
  if (mkdir(directory.c_str(), 0700) != 0 || chmod(directory.c_str(), mode) != 0) {
    return FileFailure("making the directory", directory, errno);
  }
  directories_.push_back(std::move(directory));
  return {};
}

Result<void> LayerWriter::Symlink(std::string_view path, std::string_view target) {
  ENVKIT_CHECK(tar_.Symlink(path, target));
  const fs::path link = tree_ / path;
  if (symlink(std::string(target).c_str(), link.c_str()) != 0) {
    return FileFailure("making the symlink", link, errno);
  }
  return SetTime(link, mtime_);
}

Result<void> LayerWriter::File(std::string_view path, unsigned mode, std::uint64_t size,
                               const Content& content, const std::string& sha256) {
  ENVKIT_CHECK(tar_.BeginFile(path, mode, size, sha256));
  ENVKIT_CHECK(output_->Open(tree_ / path, size));
  const ByteSink sink = [&](const char* data, std::size_t length) -> Result<void> {
    ENVKIT_CHECK(tar_.Data(data, length));
    if (written_) written_(length);
    return output_->Write(data, length);
  };
  auto end = [&]() -> Result<void> {
    ENVKIT_CHECK(content(sink));
    ENVKIT_CHECK(tar_.EndFile());
    return output_->Close(mode, mtime_);
  };
  auto done = end();
  if (!done) output_->CloseQuietly();
  return done;
}

Result<Layer> LayerWriter::Finish() {
  ENVKIT_CHECK(tar_.Finish());
  for (const fs::path& directory : directories_) ENVKIT_CHECK(SetTime(directory, mtime_));
  ENVKIT_CHECK(WriteNewFile(tree_.parent_path() / kManifestName, manifest_));
  Layer layer;
  layer.diff_id = hash_.Hex();
  layer.bytes = tar_.bytes();
  return layer;
}

Result<Layer> FinishTree(const fs::path& tree, std::int64_t mtime, Modes modes) {
  std::error_code error;
  std::vector<fs::path> paths;
  // A directory is normalised before it is entered, since its owner might not be able to otherwise.
  auto normalise = [&](const fs::path& path) -> Result<void> {
    struct stat status {};
    if (lstat(path.c_str(), &status) != 0) return FileFailure("reading", path, errno);
    unsigned mode = status.st_mode & 07777;
    if (S_ISLNK(status.st_mode)) return {};
    if (S_ISDIR(status.st_mode)) {
      mode = modes == Modes::kKeep ? mode | 0700 : (mode & S_ISVTX) != 0 ? 01777 : 0755;
    } else if (modes == Modes::kPlain) {
      mode = PlainMode(path.native(), mode);
    }
    if (mode != (status.st_mode & 07777) && chmod(path.c_str(), mode) != 0) {
      return FileFailure("setting the mode of", path, errno);
    }
    return {};
  };
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    ENVKIT_CHECK(normalise(it->path()));
    paths.push_back(it->path());
  }
  if (error) return Fail(fmt::format("reading {}: {}", tree.string(), error.message()));
  for (const fs::path& path : paths) ENVKIT_CHECK(SetTime(path, mtime));
  if (chmod(tree.c_str(), 0755) != 0) return FileFailure("setting the mode of", tree, errno);

  ENVKIT_TRY(const TreeScan scan, ScanTree(tree, mtime));
  ENVKIT_CHECK(WriteManifest(tree, scan.entries));
  Layer layer;
  layer.diff_id = scan.diff_id;
  layer.bytes = scan.bytes;
  return layer;
}

Result<std::string> PlaceInImage(const std::string& site, const LockedWheel& wheel,
                                 const std::string& member) {
  if (member.find_first_of("\t\n") != std::string::npos) {
    return Fail(fmt::format("{} has a file name with a tab or a line break", wheel.file));
  }
  const std::size_t top = member.find('/');
  if (top == std::string::npos || !std::string_view(member).substr(0, top).ends_with(".data")) {
    return site + "/" + member;
  }
  const std::size_t scheme_end = member.find('/', top + 1);
  const std::string scheme = member.substr(top + 1, scheme_end - top - 1);
  const std::string rest = scheme_end == std::string::npos ? "" : member.substr(scheme_end + 1);
  if (!rest.empty()) {
    if (scheme == "purelib" || scheme == "platlib") return site + "/" + rest;
    if (scheme == "scripts") return "usr/local/bin/" + rest;
    if (scheme == "data") return "usr/local/" + rest;
    if (scheme == "headers") return fmt::format("usr/local/include/{}/{}", wheel.name, rest);
  }
  return Fail(fmt::format("{} has {}, and no rule says where that belongs", wheel.file, member));
}

Result<WheelContent> OpenWheels(const LayerPlan& plan, const Store& store,
                                const std::vector<std::vector<std::string>>& except) {
  WheelContent content;
  std::vector<WheelContent::File> all;
  for (std::size_t index = 0; index < plan.wheels.size(); ++index) {
    const LockedWheel& wheel = plan.wheels[index];
    const fs::path file = store.DownloadPath(wheel.sha256, wheel.file);
    auto zip = ZipReader::Open(file);
    if (!zip) return Wrap(std::move(zip).error(), "reading " + wheel.file);
    ENVKIT_CHECK(RejectBomb(*zip, file));
    ENVKIT_CHECK(AddWheel(plan, index, *zip,
                          index < except.size() ? except[index] : std::vector<std::string>(), all));
    content.zips.push_back(std::move(*zip));
    content.checked.push_back(RecordChecked(store, wheel.sha256, wheel.file));
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.path < b.path; });
  for (WheelContent::File& file : all) {
    if (!content.files.empty() && content.files.back().path == file.path) {
      const OwnedFile first = Owned(plan, content, content.files.back());
      const OwnedFile second = Owned(plan, content, file);
      ENVKIT_TRY(const bool same, SameContent(first, second));
      if (!same) return Collision(first, second);
      continue;
    }
    content.bytes += file.entry.size;
    content.files.push_back(std::move(file));
  }
  return content;
}

Result<Layer> WriteWheels(const LayerPlan& plan, const WheelContent& content, const fs::path& tree,
                          const ByteCount& written) {
  // Directories between the files, so that all entries come in one sorted sequence.
  std::map<std::string, const WheelContent::File*> entries;
  for (const WheelContent::File& file : content.files) {
    for (std::size_t slash = file.path.find('/'); slash != std::string::npos;
         slash = file.path.find('/', slash + 1)) {
      // Sorted, a file comes before what would be inside of it.
      const auto there = entries.emplace(file.path.substr(0, slash), nullptr).first;
      if (there->second != nullptr) {
        return Fail(fmt::format("{} is a file in {} and a directory in {}", there->first,
                                plan.wheels[there->second->wheel].file,
                                plan.wheels[file.wheel].file));
      }
    }
    entries.emplace(file.path, &file);
  }
  LayerWriter writer(tree, plan.mtime, written);
  for (const auto& entry : entries) {
    const auto& path = entry.first;
    const auto* file = entry.second;
    if (file == nullptr) {
      ENVKIT_CHECK(writer.Directory(path, 0755));
      continue;
    }
    const LockedWheel& wheel = plan.wheels[file->wheel];
    const ZipReader& zip = content.zips[file->wheel];
    auto read = [&](const ByteSink& sink) -> Result<void> {
      if (file->text) return sink(file->text->data(), file->text->size());
      return zip.Read(file->entry, sink);
    };
    const bool known = file->text || content.checked[file->wheel];
    auto done = writer.File(path, PlainMode(path, file->entry.mode), file->entry.size, read,
                            known ? file->sha256 : "");
    if (!done) return Wrap(std::move(done).error(), "unpacking " + wheel.file);
    if (!file->sha256.empty() && writer.sha256() != file->sha256) {
      return LyingRecord(wheel.file, WrongHash(file->entry.name));
    }
  }
  return writer.Finish();
}

std::vector<OwnedFile> OwnedFiles(const LayerPlan& plan, const WheelContent& content) {
  std::vector<OwnedFile> owned;
  owned.reserve(content.files.size());
  for (const WheelContent::File& file : content.files) owned.push_back(Owned(plan, content, file));
  return owned;
}

Result<std::vector<OwnedFile>> OwnedFiles(const Layer& layer) {
  ENVKIT_TRY(const std::string text, ReadFile(layer.tree.parent_path() / "files"));
  std::vector<OwnedFile> owned;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t first = text.find('\t', at);
    const std::size_t second = text.find('\t', first + 1);
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos || first > end || second > end) {
      return Fail(fmt::format("{} is damaged", (layer.tree.parent_path() / "files").string()));
    }
    OwnedFile file;
    file.size = std::strtoull(text.c_str() + at, nullptr, 10);
    file.wheel = text.substr(first + 1, second - first - 1);
    file.path = text.substr(second + 1, end - second - 1);
    file.read = [path = layer.tree / file.path] { return ReadFile(path); };
    owned.push_back(std::move(file));
    at = end + 1;
  }
  return owned;
}

Result<void> RejectCollisions(const std::vector<OwnedFile>& files) {
  std::map<std::string_view, const OwnedFile*> owners;
  for (const OwnedFile& file : files) {
    const auto [there, added] = owners.emplace(file.path, &file);
    if (added) continue;
    ENVKIT_TRY(const bool same, SameContent(*there->second, file));
    if (!same) return Collision(*there->second, file);
  }
  return {};
}

std::optional<Layer> FindLayer(const Store& store, const std::string& key,
                               const std::string& what) {
  const auto diff_id = ReadFile(store.data / "keys" / key);
  if (!diff_id || !IsSha256(*diff_id)) return std::nullopt;
  Layer layer;
  layer.diff_id = *diff_id;
  layer.what = what;
  layer.tree = store.LayerTree(*diff_id);
  const auto info = ReadFile(layer.tree.parent_path() / "info.json");
  if (!info) return std::nullopt;
  const auto json = nlohmann::json::parse(*info, nullptr, false);
  if (!json.is_object() || !json.contains("bytes") || !json["bytes"].is_number_unsigned()) {
    return std::nullopt;
  }
  layer.bytes = json["bytes"];
  return layer;
}

Result<Layer> PublishTree(const Store& store, const std::string& what, std::int64_t mtime,
                          const fs::path& directory, Layer layer, const std::string& files) {
  const nlohmann::json info = {
      {"diff_id", layer.diff_id}, {"what", what}, {"bytes", layer.bytes}, {"mtime", mtime}};
  if (!files.empty()) ENVKIT_CHECK(WriteNewFile(directory / "files", files));
  ENVKIT_CHECK(WriteNewFile(directory / "info.json", info.dump(1) + "\n"));
  ENVKIT_CHECK(SyncFilesystem(directory));
  layer.what = what;
  layer.tree = store.LayerTree(layer.diff_id);
  ENVKIT_CHECK(PublishDirectory(directory, layer.tree.parent_path()));
  return layer;
}

Result<Layer> PublishLayer(const Store& store, const LayerPlan& plan, const fs::path& directory,
                           Layer layer, const std::vector<OwnedFile>& owned) {
  std::string files;
  for (const OwnedFile& file : owned) {
    files += fmt::format("{}\t{}\t{}\n", file.size, file.wheel, file.path);
  }
  ENVKIT_TRY(Layer published,
             PublishTree(store, plan.what, plan.mtime, directory, std::move(layer), files));
  ENVKIT_CHECK(WriteFileAtomic(store.data / "keys" / plan.key, published.diff_id));
  return published;
}

namespace {

Result<nlohmann::json> LayerNumber(const fs::path& directory, const char* key) {
  const fs::path file = directory / "info.json";
  ENVKIT_TRY(const std::string text, ReadFile(file));
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains(key) || !json[key].is_number_integer()) {
    return Fail(fmt::format("{} is damaged", file.string()));
  }
  return json[key];
}

}  // namespace

Result<std::int64_t> LayerTime(const Layer& layer) {
  ENVKIT_TRY(const nlohmann::json time, LayerNumber(layer.tree.parent_path(), "mtime"));
  return time.get<std::int64_t>();
}

Result<std::uint64_t> LayerBytes(const Store& store, std::string_view diff_id) {
  ENVKIT_TRY(const nlohmann::json bytes,
             LayerNumber(store.LayerTree(diff_id).parent_path(), "bytes"));
  return bytes.get<std::uint64_t>();
}

}  // namespace envkit

#include "image/wheel_record.h"

#include <fmt/format.h>

#include <cstdint>
#include <system_error>
#include <utility>

#include "base/digest.h"
#include "base/files.h"
#include "image/record.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

fs::path MarkOf(const Store& store, const std::string& sha256, const std::string& wheel) {
  return store.DownloadPath(sha256, wheel).parent_path() / "record-holds";
}

// False: it does not, or cannot be read.
Result<bool> RecordHolds(const fs::path& file) {
  const std::string wheel = file.filename().string();
  ENVKIT_TRY(const ZipReader zip, ZipReader::Open(file));
  ENVKIT_CHECK(RejectBomb(zip, file));
  ENVKIT_TRY(const WheelRecord record, ReadWheelRecord(zip, wheel));
  for (const ZipReader::Entry& entry : zip.entries()) {
    const auto listed = record.hashes.find(entry.name);
    if (listed == record.hashes.end() || listed->second.empty()) continue;
    Sha256 hash;
    ENVKIT_CHECK(zip.Read(entry, [&](const char* data, std::size_t size) -> Result<void> {
      hash.Update(data, size);
      return {};
    }));
    if (hash.Hex() != listed->second) return false;
  }
  return true;
}

}  // namespace

Result<WheelRecord> ReadWheelRecord(const ZipReader& zip, const std::string& wheel) {
  WheelRecord record;
  for (const ZipReader::Entry& entry : zip.entries()) {
    std::string directory = DistInfoOfRecord(entry.name);
    if (directory.empty()) continue;
    if (!record.dist_info.empty()) {
      return LyingRecord(wheel, fmt::format("it has both {} and {}", record.dist_info, directory));
    }
    record.dist_info = std::move(directory);
    ENVKIT_TRY(const std::string text, zip.ReadAll(entry));
    ENVKIT_TRY(const auto files, ParseRecord(text, wheel));
    for (const RecordedFile& file : files) record.hashes[file.path] = file.sha256;
  }
  if (record.dist_info.empty()) return LyingRecord(wheel, "it has no RECORD");
  return record;
}

Unexpected LyingRecord(const std::string& wheel, std::string_view what) {
  return Fail(fmt::format("{}: {}", wheel, what),
              "The wheel is not what its builder made: do not use it. Another version or index may "
              "have a good one.");
}

std::string WrongHash(const std::string& member) {
  return fmt::format("its RECORD has another sha256 for {} than the file that is in it", member);
}

// A deflated file is at most 1,032 times as large; real wheels stay below 20.
Result<void> RejectBomb(const ZipReader& zip, const fs::path& file) {
  constexpr std::uint64_t kRatio = 200, kHarmless = 100'000'000;
  std::uint64_t unpacked = 0;
  for (const ZipReader::Entry& entry : zip.entries()) {
    if (entry.size > UINT64_MAX - unpacked) unpacked = UINT64_MAX - entry.size;
    unpacked += entry.size;
  }
  std::error_code error;
  const std::uint64_t packed = fs::file_size(file, error);
  if (error || unpacked < kHarmless || unpacked / kRatio < packed) return {};
  return Fail(fmt::format("{} has {} and would unpack to {}", file.filename().string(),
                          HumanBytes(packed), HumanBytes(unpacked)),
              "That is a zip bomb rather than a package: do not use it.");
}

void CheckRecord(const Store& store, const std::string& sha256, const std::string& wheel) {
  const auto holds = RecordHolds(store.DownloadPath(sha256, wheel));
  // Without a mark, a build looks again and says why.
  if (holds && *holds) static_cast<void>(WriteFileAtomic(MarkOf(store, sha256, wheel), ""));
}

bool RecordChecked(const Store& store, const std::string& sha256, const std::string& wheel) {
  std::error_code error;
  return fs::exists(MarkOf(store, sha256, wheel), error);
}

}  // namespace envkit

#include "image/wheel_papers.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <system_error>

#include "base/archive.h"
#include "base/digest.h"
#include "base/files.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kRecord = "RECORD";
constexpr std::string_view kMetadata = "METADATA";

// "NAME-VERSION.dist-info/RECORD" → "RECORD"; empty for all other members.
std::string_view PaperName(std::string_view member) {
  const std::size_t slash = member.find('/');
  if (slash == std::string_view::npos || !member.substr(0, slash).ends_with(".dist-info")) {
    return {};
  }
  const std::string_view name = member.substr(slash + 1);
  return name == kRecord || name == kMetadata ? name : std::string_view();
}

}  // namespace

std::string FieldOf(std::string_view text, std::string_view field) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) break;  // the description follows
    if (line.size() <= field.size() || !line.starts_with(field) || line[field.size()] != ':') {
      continue;
    }
    line.remove_prefix(field.size() + 1);
    while (line.starts_with(' ')) line.remove_prefix(1);
    return std::string(line);
  }
  return "";
}

std::string LicenceOf(std::string_view metadata) { return FieldOf(metadata, "License-Expression"); }

Result<WheelPapers> ReadWheelPapers(const Store& store, const Layer& layer,
                                    const LockedWheel& wheel) {
  WheelPapers papers;
  const fs::path kept = layer.tree.parent_path() / "wheels" / wheel.file;
  if (auto record = ReadFile(kept / kRecord)) {
    papers.record = std::move(*record);
    papers.metadata = ReadFile(kept / kMetadata).value_or("");
    papers.kept = true;
    return papers;
  }
  const fs::path file = store.DownloadPath(wheel.sha256, wheel.file);
  std::error_code error;
  if (!fs::exists(file, error)) {
    return Missing(fmt::format("neither the layer nor the downloads have {}'s RECORD", wheel.file));
  }
  ENVKIT_TRY(const std::string sha256, Sha256OfFile(file));
  if (sha256 != wheel.sha256) {
    return Fail(
        fmt::format("{} is damaged: sha256 {} instead of {}", file.string(), sha256, wheel.sha256),
        fmt::format("Remove it; it is fetched again when it is needed:  rm -r {}",
                    file.parent_path().string()));
  }
  ENVKIT_TRY(const ZipReader zip, ZipReader::Open(file));
  for (const ZipReader::Entry& entry : zip.entries()) {
    const std::string_view name = PaperName(entry.name);
    if (name.empty()) continue;
    ENVKIT_TRY((name == kRecord ? papers.record : papers.metadata), zip.ReadAll(entry));
  }
  if (papers.record.empty()) return Fail(fmt::format("{} has no RECORD", wheel.file));
  return papers;
}

Result<void> KeepWheelPapers(const LayerPlan& plan, const WheelContent& content,
                             const fs::path& directory) {
  for (std::size_t index = 0; index < plan.wheels.size(); ++index) {
    for (const ZipReader::Entry& entry : content.zips[index].entries()) {
      const std::string_view name = PaperName(entry.name);
      if (name.empty()) continue;
      ENVKIT_TRY(const std::string text, content.zips[index].ReadAll(entry));
      ENVKIT_CHECK(WriteNewFile(directory / "wheels" / plan.wheels[index].file / name, text));
    }
  }
  return {};
}

}  // namespace envkit

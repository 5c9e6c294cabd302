#include "image/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

namespace envkit {
namespace {

constexpr std::string_view kBase64 =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";  // urlsafe, unpadded

// Of the 43 characters that 32 bytes are; nullopt for anything else.
std::optional<std::string> HexOfBase64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  if (text.size() != 43) return std::nullopt;
  std::string hex;
  unsigned bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t value = kBase64.find(c);
    if (value == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<unsigned>(value);
    count += 6;
    while (count >= 4 && hex.size() < 64) {
      count -= 4;
      hex += "0123456789abcdef"[bits >> count & 15];
    }
  }
  return hex;
}

std::string Base64OfHex(std::string_view hex) {
  std::string text;
  unsigned bits = 0;
  int count = 0;
  for (const char c : hex) {
    bits = bits << 4 | static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10);
    count += 4;
    while (count >= 6) {
      count -= 6;
      text += kBase64[bits >> count & 63];
    }
  }
  if (count > 0) text += kBase64[bits << (6 - count) & 63];
  return text;
}

// The fields of the CSV line at AT, which moves behind it. False where quotes are unbalanced.
bool ReadLine(std::string_view text, std::size_t& at, std::vector<std::string>& fields) {
  fields.assign(1, "");
  while (at < text.size()) {
    const char c = text[at++];
    if (c == '"' && fields.back().empty()) {
      while (true) {
        const std::size_t end = text.find('"', at);
        if (end == std::string_view::npos) return false;
        fields.back() += text.substr(at, end - at);
        at = end + 1;
        if (at >= text.size() || text[at] != '"') break;
        fields.back() += '"';
        ++at;
      }
    } else if (c == ',') {
      fields.emplace_back();
    } else if (c == '\n') {
      return true;
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  return true;
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

// PATH as seen from the directory FROM, both below the same root.
std::string Relative(std::string_view path, std::string_view from) {
  if (from.empty()) return std::string(path);
  if (path.starts_with(from) && path.size() > from.size() && path[from.size()] == '/') {
    return std::string(path.substr(from.size() + 1));
  }
  std::size_t common = 0;
  for (std::size_t at = 0; at < std::min(path.size(), from.size()) && path[at] == from[at]; ++at) {
    if (path[at] == '/') common = at + 1;
  }
  const auto up = static_cast<std::size_t>(
      1 + std::count(from.begin() + static_cast<long>(common), from.end(), '/'));
  std::string relative;
  for (std::size_t step = 0; step < up; ++step) relative += "../";
  return relative + std::string(path.substr(common));
}

}  // namespace

Result<std::vector<RecordedFile>> ParseRecord(std::string_view text, const std::string& wheel) {
  std::vector<RecordedFile> files;
  std::vector<std::string> fields;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (!ReadLine(text, at, fields)) {
      return Fail(fmt::format("{}: RECORD has a quote that never ends", wheel));
    }
    if (fields == std::vector{std::string()}) continue;  // an empty line
    if (fields.size() != 3) {
      std::string_view line = text.substr(begin, at - begin);
      line = line.substr(0, line.find_last_not_of("\r\n") + 1);
      return Fail(fmt::format("{}: RECORD has the line \"{}\"", wheel, line));
    }
    RecordedFile file;
    file.path = fields[0];
    constexpr std::string_view kSha256 = "sha256=";
    if (fields[1].starts_with(kSha256)) {
      const auto hex = HexOfBase64(std::string_view(fields[1]).substr(kSha256.size()));
      if (!hex) {
        return Fail(fmt::format("{}: RECORD has a hash of {} that is none: {}", wheel, file.path,
                                fields[1]));
      }
      file.sha256 = *hex;
    }
    std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), file.size);
    files.push_back(std::move(file));
  }
  return files;
}

std::string DistInfoOfRecord(std::string_view path) {
  constexpr std::string_view kEnd = ".dist-info/RECORD";
  const bool record = path.ends_with(kEnd) && path.find('/') == path.rfind('/');
  return record ? std::string(path.substr(0, path.find('/'))) : "";
}

bool IsRecordItself(std::string_view path) {
  for (const std::string_view end : {"", ".jws", ".p7s"}) {
    if (path.ends_with(end) && !DistInfoOfRecord(path.substr(0, path.size() - end.size())).empty())
      return true;
  }
  return false;
}

std::string RecordText(const std::vector<RecordedFile>& files, std::string_view site) {
  std::string text;
  for (const RecordedFile& file : files) {
    const std::string path = CsvField(Relative(file.path, site));
    text += file.sha256.empty()
                ? path + ",,\n"
                : fmt::format("{},sha256={},{}\n", path, Base64OfHex(file.sha256), file.size);
  }
  return text;
}

}  // namespace envkit

#include "image/installed_wheel.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

namespace envkit {
namespace {

constexpr char kPython[] = "/usr/bin/python3";
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

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// "pkg.mod" or "Class.method": what may be written into a program.
bool IsDottedName(std::string_view text) {
  bool start = true;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '.') {
      if (start) return false;
      start = true;
      continue;
    }
    if (byte < 0x80 && c != '_' && !std::isalpha(byte) && (start || !std::isdigit(byte))) {
      return false;
    }
    start = false;
  }
  return !start;
}

bool IsFileName(std::string_view text) {
  return !text.empty() && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '+';
         });
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

Result<Record> ParseRecord(std::string_view text, const std::string& wheel) {
  Record record;
  std::vector<std::string> fields;
  for (std::size_t at = 0; at < text.size();) {
    if (!ReadLine(text, at, fields) || (fields.size() != 3 && fields != std::vector{std::string()}))
      return Fail(fmt::format("{}: RECORD is not what the wheel format asks for", wheel));
    if (fields.size() != 3) continue;  // an empty line
    RecordEntry entry;
    constexpr std::string_view kSha256 = "sha256=";
    if (fields[1].starts_with(kSha256)) {
      const auto hex = HexOfBase64(std::string_view(fields[1]).substr(kSha256.size()));
      if (!hex) return Fail(fmt::format("{}: RECORD has no hash for {}", wheel, fields[0]));
      entry.sha256 = *hex;
    }
    record[fields[0]] = entry;
  }
  return record;
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

Result<std::vector<ConsoleScript>> ParseEntryPoints(std::string_view text,
                                                    const std::string& wheel) {
  std::vector<ConsoleScript> scripts;
  bool commands = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = Trimmed(text.substr(at, end - at));
    at = end + 1;
    if (line.empty() || line.starts_with('#') || line.starts_with(';')) continue;
    if (line.starts_with('[')) {
      commands = line == "[console_scripts]" || line == "[gui_scripts]";
      continue;
    }
    if (!commands) continue;
    const std::size_t equals = line.find('=');
    const std::string_view name = Trimmed(line.substr(0, equals));
    std::string_view target =
        equals == std::string_view::npos ? "" : Trimmed(line.substr(equals + 1));
    target = Trimmed(target.substr(0, target.find('[')));  // extras, which are long obsolete
    const std::size_t colon = target.find(':');
    ConsoleScript script{std::string(name), std::string(Trimmed(target.substr(0, colon))), ""};
    if (colon != std::string_view::npos) script.attribute = Trimmed(target.substr(colon + 1));
    if (!IsFileName(script.name) || !IsDottedName(script.module) ||
        !IsDottedName(script.attribute)) {
      return Fail(fmt::format("{}: the command \"{}\" in its entry_points.txt makes no program",
                              wheel, line));
    }
    scripts.push_back(std::move(script));
  }
  return scripts;
}

std::string ScriptText(const ConsoleScript& script) {
  const std::string first = script.attribute.substr(0, script.attribute.find('.'));
  return fmt::format(
      "#!{}\n"
      "import sys\n"
      "from {} import {}\n"
      "if __name__ == \"__main__\":\n"
      "    sys.exit({}())\n",
      kPython, script.module, first, script.attribute);
}

std::string WithInterpreter(std::string_view script) {
  constexpr std::string_view kMark = "#!python";
  const std::size_t end = std::min(script.find('\n'), script.size());
  std::string_view rest = script.substr(0, end);
  if (!rest.starts_with(kMark)) return std::string(script);
  rest.remove_prefix(std::min(rest.find_first_of(" \r"), rest.size()));
  return fmt::format("#!{}{}{}", kPython, rest, script.substr(end));
}

std::string RecordText(const std::vector<InstalledFile>& files, std::string_view site) {
  std::string text;
  for (const InstalledFile& file : files) {
    const std::string path = CsvField(Relative(file.path, site));
    text += file.sha256.empty()
                ? path + ",,\n"
                : fmt::format("{},sha256={},{}\n", path, Base64OfHex(file.sha256), file.size);
  }
  return text;
}

std::string LeftOutMetadata(const std::string& name, const std::string& version) {
  return fmt::format(
      "Metadata-Version: 2.1\n"
      "Name: {}\n"
      "Version: {}\n"
      "Summary: Left out of this image for CPUs: its files are for GPUs. The cuda variant has "
      "them.\n",
      name, version);
}

}  // namespace envkit

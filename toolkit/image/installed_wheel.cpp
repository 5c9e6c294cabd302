#include "image/installed_wheel.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

namespace envkit {
namespace {

constexpr char kPython[] = "/usr/bin/python3";

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

}  // namespace

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

std::string LeftOutDistInfo(std::string_view wheel_file) {
  const std::size_t version_end = wheel_file.find('-', wheel_file.find('-') + 1);
  return fmt::format("{}.dist-info", wheel_file.substr(0, version_end));
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

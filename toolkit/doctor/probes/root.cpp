#include "doctor/probes/root.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/process.h"

namespace envkit::doctor {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMost = std::size_t{4} << 20;

// The error, or 0.
int ReadInto(const fs::path& file, std::string& text) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno;
  struct stat info {};
  int error = fstat(fd, &info) != 0 ? errno : S_ISREG(info.st_mode) ? 0 : EINVAL;
  char buffer[8192];
  while (error == 0 && text.size() < kMost) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got < 0) error = errno;
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  close(fd);
  return error;
}

}  // namespace

fs::path Root::Real(std::string_view path) const {
  fs::path rest = fs::path(path).relative_path(), done;
  constexpr int kMostLinks = 16;
  for (int links = 0; !rest.empty();) {
    const fs::path part = *rest.begin();
    rest = rest.lexically_relative(part);
    if (rest == ".") rest.clear();
    if (part == "..") {
      done = done.parent_path();
      continue;
    }
    std::error_code error;
    const fs::path here = prefix_ / done / part;
    const fs::path target = fs::read_symlink(here, error);
    if (error || ++links > kMostLinks) {
      done /= part;
      continue;
    }
    if (target.is_absolute()) done.clear();
    rest = (rest.empty() ? target.relative_path() : target.relative_path() / rest);
  }
  return prefix_ / done;
}

bool Root::Exists(std::string_view path) const {
  std::error_code error;
  return fs::exists(live() ? fs::path(path) : Real(path), error);
}

std::vector<std::string> Root::List(std::string_view directory) const {
  std::vector<std::string> names;
  std::error_code error;
  constexpr std::size_t kMostNames = 20000;
  for (fs::directory_iterator it(live() ? fs::path(directory) : Real(directory), error), end;
       !error && it != end && names.size() < kMostNames; it.increment(error))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string Root::Read(std::string_view file) const {
  std::string text;
  ReadInto(live() ? fs::path(file) : Real(file), text);
  return text;
}

std::string Root::ReadLine(std::string_view file) const {
  const std::string text = Read(file);
  return Trimmed(std::string_view(text).substr(0, text.find('\n')));
}

std::string Root::LinkName(std::string_view link) const {
  std::error_code error;
  const fs::path path(link);
  const fs::path here = live() ? path : Real(path.parent_path().string()) / path.filename();
  return fs::read_symlink(here, error).filename().string();
}

Text Root::Line(std::string_view file) const {
  Text fact;
  fact.from = file;
  std::string text;
  const int error = ReadInto(live() ? fs::path(file) : Real(file), text);
  if (error == 0) {
    fact.value = Trimmed(std::string_view(text).substr(0, text.find('\n')));
    return fact;
  }
  for (const char* mount : {"/sys", "/proc"})
    if (file.starts_with(std::string(mount) + "/") && List(mount).empty())
      fact.unknown = std::string(mount) + " is not mounted here";
  if (fact.unknown.empty() && error != ENOENT && error != ENOTDIR)
    fact.unknown = std::string(file) + ": " + std::strerror(error);
  return fact;
}

Number Root::Integer(std::string_view file) const {
  const Text line = Line(file);
  Number fact;
  fact.from = line.from;
  fact.unknown = line.unknown;
  if (!line) return fact;
  fact.value = ToInteger(*line);
  if (!fact.value) fact.unknown = std::string(file) + " holds no number";
  return fact;
}

std::optional<std::string> Root::Ask(std::string_view name,
                                     const std::vector<std::string>& argv) const {
  if (!live()) {
    const std::string kept = "/.envkit/" + std::string(name);
    return Exists(kept) ? std::optional(Read(kept)) : std::nullopt;
  }
  if (!FindExecutable(argv.front())) return std::nullopt;
  const auto done = RunProcess({.argv = argv, .timeout = std::chrono::milliseconds(1500)});
  if (!done) return std::nullopt;
  return done->out.empty() ? done->err : done->out;
}

std::optional<std::int64_t> ToInteger(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string FirstVersion(std::string_view text) {
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] < '0' || text[at] > '9') continue;
    if (at > 0 && (std::isalnum(static_cast<unsigned char>(text[at - 1])) && text[at - 1] != 'v' &&
                   text[at - 1] != 'V')) {
      continue;
    }
    std::size_t end = at;
    while (end < text.size() && (text[end] == '.' || (text[end] >= '0' && text[end] <= '9'))) ++end;
    std::string_view word = text.substr(at, end - at);
    while (word.ends_with('.')) word.remove_suffix(1);
    if (word.find('.') != word.npos) return std::string(word);
    at = end;
  }
  return "";
}

std::vector<std::string> Lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string Trimmed(std::string_view text) {
  constexpr std::string_view kBlank(" \t\r\n\0", 5);
  const std::size_t start = text.find_first_not_of(kBlank);
  if (start == text.npos) return "";
  return std::string(text.substr(start, text.find_last_not_of(kBlank) - start + 1));
}

}  // namespace envkit::doctor

// Which texts of envkit.toml and envkit.lock may go on to file names and other programs' arguments.
#pragma once

#include <algorithm>
#include <cctype>
#include <string_view>

namespace envkit {

inline bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }
inline bool IsAlnum(char c) { return IsLower(c) || IsDigit(c) || (c >= 'A' && c <= 'Z'); }

// Not empty, ALLOWED besides letters and digits, and never first: no "-o", no ".." and no
// ".hidden".
inline bool IsPlainWord(std::string_view text, std::string_view allowed) {
  return !text.empty() && text.size() <= 255 && IsAlnum(text[0]) &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return IsAlnum(c) || allowed.find(c) != std::string_view::npos;
         });
}

// What images, jobs and data artefacts may be called: they name directories and tags as well.
inline bool IsName(std::string_view text) {
  return IsPlainWord(text, "._-") && text.size() <= 63 &&
         std::none_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

// COUNT numbers with points between: "2.15" has two.
inline bool IsNumbers(std::string_view text, int count) {
  while (true) {
    std::size_t digits = 0;
    while (digits < text.size() && IsDigit(text[digits])) ++digits;
    if (digits == 0 || digits > 6) return false;
    text.remove_prefix(digits);
    if (--count == 0) return text.empty();
    if (!text.starts_with('.')) return false;
    text.remove_prefix(1);
  }
}

// Debian policy 5.6.1.
inline bool IsDebianPackage(std::string_view text) {
  return text.size() >= 2 && IsPlainWord(text, "+.-") &&
         std::none_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

inline bool HasControlCharacter(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7F;
  });
}

// A path of normal names with '/' between: no "..", "." or empty part.
inline bool HasOnlyNormalParts(std::string_view path) {
  while (true) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, end);
    if (part.empty() || part == "." || part == "..") return false;
    if (end == path.size()) return true;
    path.remove_prefix(end + 1);
  }
}

// https://user:secret@host/… (a '@' before the first '/' of what follows "://").
inline bool HasCredentials(std::string_view text) {
  for (std::size_t at = text.find("://"); at != std::string_view::npos;
       at = text.find("://", at + 3)) {
    const std::string_view host = text.substr(at + 3, text.find_first_of("/ ?#", at + 3) - at - 3);
    if (host.find('@') != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace envkit

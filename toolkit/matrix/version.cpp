#include "matrix/version.h"

#include <algorithm>
#include <vector>

namespace envkit {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Of what IsVersion took.
std::vector<int> Parts(std::string_view version) {
  std::vector<int> parts(1, 0);
  for (const char c : version) {
    if (c == '.') {
      parts.push_back(0);
    } else {
      parts.back() = parts.back() * 10 + (c - '0');
    }
  }
  return parts;
}

}  // namespace

bool IsVersion(std::string_view text) {
  int parts = 0;
  while (true) {
    std::size_t digits = 0;
    while (digits < text.size() && IsDigit(text[digits])) ++digits;
    if (digits == 0 || digits > 6 || ++parts > 6) return false;
    if (digits == text.size()) return true;
    if (text[digits] != '.') return false;
    text.remove_prefix(digits + 1);
  }
}

int CompareVersions(std::string_view left, std::string_view right) {
  std::vector<int> a = Parts(left), b = Parts(right);
  const std::size_t size = std::max(a.size(), b.size());
  a.resize(size);
  b.resize(size);
  if (a == b) return 0;
  return a < b ? -1 : 1;
}

bool InLine(std::string_view version, std::string_view line) {
  return version == line || (version.starts_with(line) && version[line.size()] == '.');
}

std::string MajorMinor(std::string_view version) {
  const std::size_t dot = version.find('.');
  return std::string(
      version.substr(0, dot == std::string_view::npos ? dot : version.find('.', dot + 1)));
}

int MajorOf(std::string_view version) { return Parts(version)[0]; }

std::string Capability::Text() const { return std::to_string(major) + "." + std::to_string(minor); }

std::optional<Capability> ParseCapability(std::string_view text) {
  for (const std::string_view prefix : {"sm_", "compute_"}) {
    if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  }
  if (!text.empty() && (text.back() == 'a' || text.back() == 'f')) text.remove_suffix(1);
  std::string digits;
  int points = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '.' && ++points == 1 && at + 2 == text.size()) continue;
    if (!IsDigit(text[at])) return std::nullopt;
    digits += text[at];
  }
  if (digits.size() < 2 || digits.size() > 3 || digits[0] == '0') return std::nullopt;
  return Capability{std::stoi(digits.substr(0, digits.size() - 1)), digits.back() - '0'};
}

}  // namespace envkit

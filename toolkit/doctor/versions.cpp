#include "doctor/versions.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <vector>

namespace envkit::doctor {
namespace {

std::vector<int> Numbers(std::string_view version) {
  std::vector<int> numbers;
  while (!version.empty()) {
    int value = 0;
    const auto [end, error] =
        std::from_chars(version.data(), version.data() + version.size(), value);
    if (error != std::errc()) break;
    numbers.push_back(value);
    version.remove_prefix(static_cast<std::size_t>(end - version.data()));
    if (!version.starts_with('.')) break;
    version.remove_prefix(1);
  }
  return numbers;
}

// PCI device ids are from memory. GH100's are shared by H100 and Grace Hopper.
struct Ids {
  unsigned first = 0, last = 0;
  Capability capability;  // of one of its chips
  bool grace = false;
};
const Ids kIds[] = {
    {0x0fc0, 0x12ff, {3, 5}}, {0x1340, 0x17ff, {5, 0}}, {0x15f0, 0x1d7f, {6, 0}},
    {0x1d80, 0x1dff, {7, 0}}, {0x1e00, 0x1fff, {7, 5}}, {0x2080, 0x20ff, {8, 0}},
    {0x2180, 0x21ff, {7, 5}}, {0x2200, 0x22ff, {8, 6}}, {0x2342, 0x2348, {9, 0}, true},
    {0x2300, 0x23ff, {9, 0}}, {0x2400, 0x25ff, {8, 6}}, {0x2600, 0x28ff, {8, 9}},
    {0x2900, 0x32ff, {10, 0}}};

}  // namespace

int CompareNumbers(std::string_view a, std::string_view b) {
  auto left = Numbers(a), right = Numbers(b);
  const std::size_t most = std::max(left.size(), right.size());
  left.resize(most);
  right.resize(most);
  return left < right ? -1 : left > right ? 1 : 0;
}

std::string Leading(std::string_view version, int count) {
  std::string text;
  for (const int number : Numbers(version)) {
    if (count-- == 0) break;
    text += (text.empty() ? "" : ".") + std::to_string(number);
  }
  return text;
}

std::string CleanVersion(std::string_view version) {
  std::string clean = Leading(version, 6);
  return IsVersion(clean) ? clean : "";
}

int Branch(std::string_view driver) {
  const auto numbers = Numbers(driver);
  return numbers.empty() ? 0 : numbers.front();
}

std::optional<GpuGeneration> GenerationOfPciId(const Matrix& matrix, std::string_view id) {
  const auto number = static_cast<unsigned>(std::strtoul(std::string(id).c_str(), nullptr, 16));
  for (const Ids& ids : kIds) {
    if (number < ids.first || number > ids.last) continue;
    const GpuGeneration* known = GenerationOf(matrix, ids.capability);
    if (known == nullptr) return std::nullopt;
    GpuGeneration generation = *known;
    if (ids.grace) generation.name = "Grace Hopper", generation.kernel_module = "open";
    return generation;
  }
  return std::nullopt;
}

bool DataCentre(std::string_view name) {
  if (name.find("GeForce") != name.npos || name.find("TITAN") != name.npos) return false;
  for (const char* family : {"A100", "A800", "A30",   "A40",  "A10",  "A2",   "H100",  "H200",
                             "H800", "H20",  "GH200", "B100", "B200", "B300", "GB200", "GB300",
                             "L4",   "L40",  "T4",    "V100", "P100", "P40",  "Tesla"})
    if (name.find(family) != name.npos) return true;
  return false;
}

}  // namespace envkit::doctor

// Versions of drivers, CUDA and torch as numbers, and compute capabilities of GPUs.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace envkit {

// Digits with points between, at most 6 parts of 6 digits: "550.54.14".
bool IsVersion(std::string_view text);

// Below 0, 0 or above 0, part by part, a missing one counts as 0: "2.9" is below "2.10.0", "12.8"
// is "12.8.0". Both are versions.
int CompareVersions(std::string_view left, std::string_view right);

// "2.15" has the release "2.15.0" in it, "2.15.0" only itself.
bool InLine(std::string_view version, std::string_view line);

std::string MajorMinor(std::string_view version);  // "13.2" of "13.2.2"
int MajorOf(std::string_view version);             // 13 of "13.2"

struct Capability {
  int major = 0, minor = 0;
  bool operator==(const Capability& other) const = default;
  bool operator<(const Capability& other) const {
    return major != other.major ? major < other.major : minor < other.minor;
  }
  std::string Text() const;  // "8.6"
};
// As people and compilers write it: "8.6", "86", "sm_86", "compute_90a".
std::optional<Capability> ParseCapability(std::string_view text);

}  // namespace envkit

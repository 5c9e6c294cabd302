#include "image/wheel_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <tuple>

namespace envkit {
namespace {

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

int LeadingNumber(std::string_view text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

}  // namespace

std::string NormaliseName(std::string_view name) {
  std::string normalised;
  for (const char letter : name) {
    if (letter == '-' || letter == '_' || letter == '.') {
      if (normalised.empty() || normalised.back() != '-') normalised += '-';
    } else {
      normalised += letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
    }
  }
  return normalised;
}

std::string NameForCuda(const std::string& name, int major) {
  constexpr std::string_view kOwn = "-cu13";
  if (!name.starts_with("nvidia-") || major == 13) return name;
  std::string base = name;
  const bool suffixed = base.ends_with(kOwn);
  if (suffixed) base.resize(base.size() - kOwn.size());
  if (major > 13 && !suffixed) return name;
  if (major < 13 && base == "nvidia-cuda-crt") base = "nvidia-cuda-nvcc";
  return base + "-cu" + std::to_string(major);
}

std::optional<WheelName> ParseWheelName(std::string_view file) {
  if (!file.ends_with(".whl")) return std::nullopt;
  file.remove_suffix(4);
  const std::vector<std::string> parts = Split(file, '-');
  if (parts.size() != 5 && parts.size() != 6) return std::nullopt;
  for (const std::string& part : parts) {
    if (part.empty()) return std::nullopt;
  }
  const std::size_t tags = parts.size() - 3;
  return WheelName{NormaliseName(parts[0]),     parts[1],
                   tags == 3 ? parts[2] : "",   Split(parts[tags], '.'),
                   Split(parts[tags + 1], '.'), Split(parts[tags + 2], '.')};
}

std::vector<std::string> CompatibleTags(std::string_view python, std::string_view machine,
                                        int glibc_minor) {
  const std::size_t dot = python.find('.');
  const int major = LeadingNumber(python);
  const int minor = dot == std::string_view::npos ? 0 : LeadingNumber(python.substr(dot + 1));

  std::vector<std::string> platforms;
  const int oldest = machine == "x86_64" ? 5 : 17;
  for (int glibc = glibc_minor; glibc >= oldest; --glibc) {
    platforms.push_back(fmt::format("manylinux_2_{}_{}", glibc, machine));
    const char* alias = glibc == 17   ? "manylinux2014"
                        : glibc == 12 ? "manylinux2010"
                        : glibc == 5  ? "manylinux1"
                                      : nullptr;
    if (alias != nullptr) platforms.push_back(fmt::format("{}_{}", alias, machine));
  }
  platforms.push_back(fmt::format("linux_{}", machine));

  const std::string own = fmt::format("cp{}{}", major, minor);
  std::vector<std::string> interpreters = {fmt::format("py{}{}", major, minor),
                                           fmt::format("py{}", major)};
  for (int older = minor - 1; older >= 0; --older) {
    interpreters.push_back(fmt::format("py{}{}", major, older));
  }

  std::vector<std::string> tags;
  const auto add = [&](const std::string& interpreter, const std::string& abi) {
    for (const std::string& platform : platforms) {
      tags.push_back(fmt::format("{}-{}-{}", interpreter, abi, platform));
    }
  };
  add(own, own);
  add(own, "abi3");
  add(own, "none");
  for (int older = minor - 1; older >= 2; --older) add(fmt::format("cp{}{}", major, older), "abi3");
  for (const std::string& interpreter : interpreters) add(interpreter, "none");
  tags.push_back(own + "-none-any");
  for (const std::string& interpreter : interpreters) tags.push_back(interpreter + "-none-any");
  return tags;
}

std::optional<std::size_t> BestWheel(const std::vector<std::string>& files,
                                     const std::vector<std::string>& tags) {
  std::optional<std::size_t> best;
  std::tuple<std::size_t, int, std::string> best_rank;
  for (std::size_t index = 0; index < files.size(); ++index) {
    const auto wheel = ParseWheelName(files[index]);
    if (!wheel) continue;
    std::size_t rank = tags.size();
    for (const std::string& python : wheel->pythons) {
      for (const std::string& abi : wheel->abis) {
        for (const std::string& platform : wheel->platforms) {
          const auto found =
              std::find(tags.begin(), tags.end(), fmt::format("{}-{}-{}", python, abi, platform));
          rank = std::min(rank, static_cast<std::size_t>(found - tags.begin()));
        }
      }
    }
    if (rank == tags.size()) continue;
    // Of equal tags the higher build number, then the name, so that the choice never depends on the
    // order in which an index lists files.
    std::tuple<std::size_t, int, std::string> key{rank, -LeadingNumber(wheel->build), files[index]};
    if (!best || key < best_rank) {
      best = index;
      best_rank = std::move(key);
    }
  }
  return best;
}

}  // namespace envkit

// What changed between two images.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/files.h"
#include "image/contents.h"

namespace envkit {
namespace {

using nlohmann::json;

constexpr const char* kNoVersion = "-";  // of files that belong to no package

struct Installed {
  std::string version;
  std::uint64_t bytes = 0;
};
// Debian's and Python's packages can have the same name: the first is which of them it is.
using Packages = std::map<std::pair<bool, std::string>, Installed>;

Result<Packages> PackagesOf(const Image& image) {
  Packages packages;
  ENVKIT_TRY(const auto layers, ReadContents(image));
  for (const ContentLayer& layer : layers) {
    for (const ContentPackage& package : layer.packages) {
      const bool debian = !package.because.empty();
      const std::string name =
          !package.name.empty() ? package.name : fmt::format("({})", layer.layer.what);
      Installed& installed = packages[{debian, name}];
      installed.version = package.version;
      installed.bytes += package.bytes;
    }
  }
  return packages;
}

std::int64_t Minus(std::uint64_t a, std::uint64_t b) {
  return static_cast<std::int64_t>(a) - static_cast<std::int64_t>(b);
}

std::string Signed(std::int64_t bytes) {
  if (bytes == 0) return "0 B";
  return (bytes < 0 ? "-" : "+") + HumanBytes(static_cast<std::uint64_t>(std::abs(bytes)));
}

template <class T>
void LargestChangeFirst(std::vector<T>& changes) {
  std::stable_sort(changes.begin(), changes.end(),
                   [](const T& a, const T& b) { return std::abs(a.bytes) > std::abs(b.bytes); });
}

// Layers of the same name are the same layer in two states.
std::vector<LayerChange> LayerChanges(const Image& before, const Image& after) {
  std::map<std::string, std::pair<const Layer*, const Layer*>> layers;
  for (const Layer& layer : before.layers) layers[layer.what].first = &layer;
  for (const Layer& layer : after.layers) layers[layer.what].second = &layer;
  std::vector<LayerChange> changes;
  for (const auto& [what, pair] : layers) {
    const auto [old, now] = pair;
    if (old != nullptr && now != nullptr && old->diff_id == now->diff_id) continue;
    changes.push_back({what, old == nullptr ? "" : old->diff_id, now == nullptr ? "" : now->diff_id,
                       Minus(now == nullptr ? 0 : now->bytes, old == nullptr ? 0 : old->bytes)});
  }
  LargestChangeFirst(changes);
  return changes;
}

}  // namespace

Result<ImageDiff> DiffImages(const Image& before, const Image& after) {
  ImageDiff diff;
  diff.bytes = Minus(after.Bytes(), before.Bytes());
  std::set<std::string> had;
  for (const Layer& layer : before.layers) had.insert(layer.diff_id);
  for (const Layer& layer : after.layers) {
    if (had.contains(layer.diff_id)) diff.shared_bytes += layer.bytes;
  }
  diff.layers = LayerChanges(before, after);
  if (diff.layers.empty()) return diff;
  ENVKIT_TRY(const Packages old, PackagesOf(before));
  ENVKIT_TRY(const Packages now, PackagesOf(after));
  Packages all = old;
  all.insert(now.begin(), now.end());
  for (const auto& [key, unused] : all) {
    const auto was = old.find(key), is = now.find(key);
    const Installed none;
    const Installed& a = was == old.end() ? none : was->second;
    const Installed& b = is == now.end() ? none : is->second;
    const bool both = was != old.end() && is != now.end();
    if (both && a.version == b.version && a.bytes == b.bytes) continue;
    diff.packages.push_back({key.second,
                             was == old.end()    ? ""
                             : a.version.empty() ? kNoVersion
                                                 : a.version,
                             is == now.end()     ? ""
                             : b.version.empty() ? kNoVersion
                                                 : b.version,
                             Minus(b.bytes, a.bytes)});
  }
  LargestChangeFirst(diff.packages);
  return diff;
}

std::string DiffText(const Image& before, const Image& after, const ImageDiff& diff) {
  std::string text = fmt::format("{} {:.12} → {} {:.12}: {}, {} shared", ImageTag(before),
                                 before.config_digest, ImageTag(after), after.config_digest,
                                 Signed(diff.bytes), HumanBytes(diff.shared_bytes));
  if (diff.layers.empty()) {
    return text + (before.config_digest == after.config_digest
                       ? "\nthe same image"
                       : "\nthe same layers; their configs differ");
  }
  text += "\n\nlayers";
  for (const LayerChange& layer : diff.layers) {
    const char sign = layer.before.empty() ? '+' : layer.after.empty() ? '-' : '~';
    text += fmt::format("\n  {} {:<42} {:>9}", sign, layer.what, Signed(layer.bytes));
  }
  if (diff.packages.empty()) return text;
  text += "\n\npackages";
  for (const PackageChange& package : diff.packages) {
    const char sign = package.before.empty() ? '+' : package.after.empty() ? '-' : '~';
    std::string name = package.name;
    const std::string& version = sign == '+' ? package.after : package.before;
    if (sign != '~' && version != kNoVersion) name += " " + version;
    if (sign == '~' && package.before != package.after) {
      name += fmt::format(" {} → {}", package.before, package.after);
    }
    text += fmt::format("\n  {} {:<42} {:>9}", sign, name, Signed(package.bytes));
  }
  return text;
}

json DiffToJson(const Image& before, const Image& after, const ImageDiff& diff) {
  const auto known = [](const std::string& text) { return text.empty() ? json() : json(text); };
  const auto side = [](const Image& image) {
    return json{
        {"tag", ImageTag(image)}, {"config_digest", image.config_digest}, {"bytes", image.Bytes()}};
  };
  json layers = json::array(), packages = json::array();
  for (const LayerChange& layer : diff.layers) {
    layers.push_back({{"what", layer.what},
                      {"before", known(layer.before)},
                      {"after", known(layer.after)},
                      {"bytes", layer.bytes}});
  }
  for (const PackageChange& package : diff.packages) {
    packages.push_back({{"name", package.name},
                        {"before", known(package.before)},
                        {"after", known(package.after)},
                        {"bytes", package.bytes}});
  }
  return {{"schema", 1},
          {"before", side(before)},
          {"after", side(after)},
          {"bytes", diff.bytes},
          {"shared_bytes", diff.shared_bytes},
          {"layers", layers},
          {"packages", packages}};
}

}  // namespace envkit

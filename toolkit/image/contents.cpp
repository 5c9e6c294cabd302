#include "image/contents.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <system_error>

#include "base/files.h"
#include "base/toml.h"
#include "image/elf.h"
#include "image/layer.h"
#include "image/recipe.h"
#include "image/wheel_name.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;
using Sizes = std::map<std::string, std::uint64_t>;  // path in the image → bytes

Result<Sizes> SizesOf(const fs::path& tree) {
  Sizes sizes;
  std::error_code error;
  const std::size_t root = tree.string().size() + 1;
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (it->is_symlink(ignored) || !it->is_regular_file(ignored)) continue;
    sizes.emplace(it->path().string().substr(root), it->file_size(ignored));
  }
  if (error) return FileFailure("reading", tree, error.value());
  return sizes;
}

// One paragraph of dpkg's status file.
struct DebianEntry {
  std::string version, because;
  std::set<std::string> depends;
  std::vector<std::string> provides;
};

// "libc6 (>= 2.38), foo | bar" → the names.
std::vector<std::string> NamesIn(std::string_view relation) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at < relation.size();) {
    const std::size_t end = std::min(relation.find_first_of(",|", at), relation.size());
    std::string_view part = relation.substr(at, end - at);
    part.remove_prefix(std::min(part.find_first_not_of(' '), part.size()));
    names.emplace_back(part.substr(0, part.find_first_of(" (:")));
    at = end + 1;
  }
  return names;
}

std::map<std::string, DebianEntry> ReadStatus(const std::string& text) {
  std::map<std::string, DebianEntry> entries;
  std::string name;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    const std::size_t colon = line.find(": ");
    if (line.empty()) name.clear();
    if (line.starts_with(' ') || colon == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, colon);
    const std::string value(line.substr(colon + 2));
    if (key == "Package") name = value;
    if (name.empty()) continue;
    DebianEntry& entry = entries[name];
    if (key == "Version") entry.version = value;
    if (key == "Essential" && value == "yes") entry.because = "essential in Debian";
    if (key == "Priority" && value == "required" && entry.because.empty()) {
      entry.because = "required in Debian";
    }
    if (key == "Depends" || key == "Pre-Depends") {
      for (std::string& other : NamesIn(value)) entry.depends.insert(std::move(other));
    }
    if (key == "Provides") entry.provides = NamesIn(value);
  }
  for (auto& [package, entry] : entries) {
    if (!entry.because.empty()) continue;
    for (const auto& [other, needs] : entries) {
      const bool named = needs.depends.contains(package) ||
                         std::any_of(entry.provides.begin(), entry.provides.end(),
                                     [&, &needs = needs](const std::string& alias) {
                                       return needs.depends.contains(alias);
                                     });
      if (named && other != package) {
        entry.because = "needed by " + other;
        break;
      }
    }
    if (entry.because.empty()) entry.because = "asked for";
  }
  return entries;
}

// path → package, of a Debian system; usr-merged paths as they are on disk.
std::map<std::string, std::string> DebianOwners(const fs::path& tree, const Sizes& sizes) {
  std::map<std::string, std::string> owners;
  constexpr std::string_view kInfo = "var/lib/dpkg/info/";
  for (auto it = sizes.lower_bound(std::string(kInfo));
       it != sizes.end() && it->first.starts_with(kInfo); ++it) {
    const std::string name = it->first.substr(kInfo.size());
    const std::string package = name.substr(0, name.find_first_of(":."));
    owners[it->first] = name.ends_with(".list") ? name.substr(0, name.find_first_of(':')) : package;
    if (!name.ends_with(".list")) continue;
    std::string bare = name.substr(0, name.size() - 5);
    bare = bare.substr(0, bare.find(':'));
    owners[it->first] = bare;
    const auto list = ReadFile(tree / it->first);
    if (!list) continue;
    for (std::size_t at = 0; at < list->size();) {
      const std::size_t end = std::min(list->find('\n', at), list->size());
      std::string path = list->substr(at, end - at);
      at = end + 1;
      if (path.size() < 2) continue;
      path.erase(0, 1);
      for (const char* merged : {"bin/", "sbin/", "lib/", "lib64/"}) {
        if (path.starts_with(merged)) path.insert(0, "usr/");
      }
      owners.emplace(path, bare);
    }
  }
  return owners;
}

// "libcudnn_adv.so.9" → "libcudnn_adv"
std::string Stem(const std::string& library) { return library.substr(0, library.find(".so")); }

bool IsLibrary(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);
  return name.starts_with("lib") && name.find(".so") != std::string::npos;
}

// Who loads which library by name, by stems.
Result<std::map<std::string, std::vector<std::string>>> LoadedByName() {
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  const fs::path file = share / "images/loaded-by-name.toml";
  std::map<std::string, std::vector<std::string>> loaded;
  std::error_code error;
  if (!fs::exists(file, error)) return loaded;
  ENVKIT_TRY(const std::string text, ReadFile(file));
  TomlDocument document(text, file.string());
  TomlTable root = document.Root();
  for (const TomlString& library : root.Keys()) {
    const auto callers = root.Strings(library.value);
    if (!callers) continue;
    for (const TomlString& caller : callers->value) loaded[library.value].push_back(caller.value);
  }
  ENVKIT_CHECK(document.Check());
  return loaded;
}

// Sets needed_by of all libraries outside of Debian's part.
Result<void> FindCallers(std::vector<ContentLayer>& layers) {
  std::map<std::string, std::set<std::string>> callers;  // library's file name → who names it
  std::map<std::string, std::string> by_stem;            // of everything that can call
  for (const ContentLayer& layer : layers) {
    for (const ContentPackage& package : layer.packages) {
      if (!package.because.empty()) continue;
      for (const ContentFile& file : package.files) {
        const auto elf = ReadElf(layer.layer.tree / file.path);
        if (!elf) continue;
        const std::string name = file.path.substr(file.path.rfind('/') + 1);
        by_stem.emplace(Stem(name), name);
        for (const std::string& needed : elf->needed) callers[needed].insert(name);
      }
    }
  }
  ENVKIT_TRY(const auto loaded, LoadedByName());
  for (ContentLayer& layer : layers) {
    for (ContentPackage& package : layer.packages) {
      for (ContentFile& file : package.files) {
        if (!package.because.empty() || !IsLibrary(file.path)) continue;
        const std::string name = file.path.substr(file.path.rfind('/') + 1);
        std::set<std::string> needed = callers[name];
        if (const auto found = loaded.find(Stem(name)); found != loaded.end()) {
          for (const std::string& caller : found->second) {
            if (const auto it = by_stem.find(caller); it != by_stem.end()) {
              needed.insert(it->second + " (by name)");
            }
          }
        }
        file.needed_by.assign(needed.begin(), needed.end());
      }
    }
  }
  return {};
}

template <class T>
void LargestFirst(std::vector<T>& things) {
  std::stable_sort(things.begin(), things.end(),
                   [](const T& a, const T& b) { return a.bytes > b.bytes; });
}

Result<ContentLayer> ReadLayer(const Layer& layer) {
  ENVKIT_TRY(const Sizes sizes, SizesOf(layer.tree));
  std::map<std::string, std::string> owners;       // path → package
  std::map<std::string, ContentPackage> packages;  // by name
  if (const auto status = ReadFile(layer.tree / "var/lib/dpkg/status")) {
    owners = DebianOwners(layer.tree, sizes);
    for (auto& [name, entry] : ReadStatus(*status)) {
      packages[name] = {name, entry.version, 0, entry.because, {}};
    }
    packages[""].because = "dpkg's own records and what installing wrote";
  } else if (const auto owned = OwnedFiles(layer)) {
    for (const OwnedFile& file : *owned) {
      const auto wheel = ParseWheelName(file.wheel);
      const std::string name = wheel ? wheel->project : file.wheel;
      owners[file.path] = name;
      packages[name].name = name;
      if (wheel) packages[name].version = wheel->version;
    }
  }
  for (const auto& [path, bytes] : sizes) {
    const auto owner = owners.find(path);
    std::string name = owner == owners.end() ? "" : owner->second;
    if (!packages.contains(name)) name.clear();
    ContentPackage& package = packages[name];
    package.bytes += bytes;
    package.files.push_back({path, bytes, {}});
  }
  ContentLayer content;
  content.layer = layer;
  for (auto& [name, package] : packages) {
    if (package.files.empty()) continue;
    LargestFirst(package.files);
    content.packages.push_back(std::move(package));
  }
  LargestFirst(content.packages);
  return content;
}

std::string Joined(const std::vector<std::string>& words, std::size_t most) {
  std::string text;
  for (std::size_t index = 0; index < words.size() && index < most; ++index) {
    text += (index == 0 ? "" : ", ") + words[index];
  }
  if (words.size() > most) text += fmt::format(" and {} more", words.size() - most);
  return text;
}

std::string SizeLine(int indent, const std::string& name, std::uint64_t bytes,
                     const std::string& why) {
  std::string line =
      fmt::format("\n{:{}}{:<{}} {:>8}", "", indent, name, 46 - indent, HumanBytes(bytes));
  if (!why.empty()) line += "  " + why;
  return line;
}

std::string TreeText(const Image& image, const std::vector<ContentLayer>& layers) {
  constexpr std::size_t kPackages = 8, kFiles = 12;
  const std::uint64_t least = image.Bytes() / 500;  // what is worth a line
  std::string text;
  for (const ContentLayer& layer : layers) {
    text += "\n" + SizeLine(0, layer.layer.what, layer.layer.bytes, "");
    std::size_t shown = 0;
    std::uint64_t rest = 0;
    for (const ContentPackage& package : layer.packages) {
      if (shown >= kPackages && package.bytes < least) {
        rest += package.bytes;
        continue;
      }
      ++shown;
      const std::string name = package.name.empty()
                                   ? "(no package)"
                                   : fmt::format("{} {}", package.name, package.version);
      text += SizeLine(2, name, package.bytes, package.because);
      if (!package.because.empty()) continue;
      std::size_t files = 0;
      std::uint64_t small = 0;
      for (const ContentFile& file : package.files) {
        if (files >= kFiles || (files > 0 && file.bytes < least / 10)) {
          small += file.bytes;
          continue;
        }
        ++files;
        std::string why;
        if (!file.needed_by.empty()) why = "needed by " + Joined(file.needed_by, 3);
        text += SizeLine(4, file.path.substr(file.path.rfind('/') + 1), file.bytes, why);
      }
      if (package.files.size() > files) {
        text += SizeLine(4, fmt::format("and {} more", package.files.size() - files), small, "");
      }
    }
    if (layer.packages.size() > shown) {
      text +=
          SizeLine(2, fmt::format("and {} more packages", layer.packages.size() - shown), rest, "");
    }
  }
  const std::vector<ContentFile> unexplained = Unexplained(layers);
  for (const ContentFile& file : unexplained) {
    text += fmt::format("\nno caller is known for {} ({})", file.path, HumanBytes(file.bytes));
  }
  return text;
}

}  // namespace

Result<std::vector<ContentLayer>> ReadContents(const Image& image) {
  std::vector<ContentLayer> layers;
  for (const Layer& layer : image.layers) {
    ENVKIT_TRY(ContentLayer content, ReadLayer(layer));
    layers.push_back(std::move(content));
  }
  ENVKIT_CHECK(FindCallers(layers));
  return layers;
}

std::vector<ContentFile> Unexplained(const std::vector<ContentLayer>& layers) {
  std::vector<ContentFile> files;
  for (const ContentLayer& layer : layers) {
    for (const ContentPackage& package : layer.packages) {
      if (package.name.empty() || !package.because.empty()) continue;
      for (const ContentFile& file : package.files) {
        if (IsLibrary(file.path) && file.needed_by.empty()) files.push_back(file);
      }
    }
  }
  return files;
}

std::string InspectText(const Image& image, const std::vector<ContentLayer>& layers) {
  const json facts = ImageToJson(image);
  std::string text = fmt::format(
      "image     {}\ndigest    sha256:{}\nlock      {}\nsize      {} in {} layers{}\npackages  {}",
      ImageTag(image), image.config_digest, image.lock_digest, HumanBytes(image.Bytes()),
      image.layers.size(),
      facts["compressed_bytes"].is_null()
          ? ""
          : fmt::format(" · {} compressed", HumanBytes(facts["compressed_bytes"])),
      image.packages.size());
  if (!layers.empty()) return text + TreeText(image, layers);
  text += "\n";
  for (const Layer& layer : image.layers) {
    text += fmt::format("\n{:<28} {:>8}  {:>8}  {:.12}", layer.what, HumanBytes(layer.bytes),
                        layer.compressed_bytes ? HumanBytes(*layer.compressed_bytes) : "-",
                        layer.diff_id);
  }
  return text;
}

json TreeToJson(const std::vector<ContentLayer>& layers) {
  json tree = json::array();
  for (const ContentLayer& layer : layers) {
    json packages = json::array();
    for (const ContentPackage& package : layer.packages) {
      json files = json::array();
      for (const ContentFile& file : package.files) {
        files.push_back(
            {{"path", file.path}, {"bytes", file.bytes}, {"needed_by", file.needed_by}});
      }
      packages.push_back({{"name", package.name},
                          {"version", package.version},
                          {"bytes", package.bytes},
                          {"because", package.because},
                          {"files", files}});
    }
    tree.push_back({{"what", layer.layer.what},
                    {"diff_id", layer.layer.diff_id},
                    {"bytes", layer.layer.bytes},
                    {"packages", packages}});
  }
  return tree;
}

std::string HistoryText(const std::vector<LayerUse>& uses) {
  std::string text = fmt::format("{:<28} {:>8}  {:>10}  {:<12}  {}", "layer, lowest first", "size",
                                 "compressed", "diff_id", "in images");
  for (const LayerUse& use : uses) {
    text += fmt::format("\n{:<28} {:>8}  {:>10}  {:<12.12}  {}", use.layer.what,
                        HumanBytes(use.layer.bytes),
                        use.layer.compressed_bytes ? HumanBytes(*use.layer.compressed_bytes) : "-",
                        use.layer.diff_id, use.images);
  }
  return text;
}

json HistoryToJson(const Image& image, const std::vector<LayerUse>& uses) {
  json layers = ImageToJson(image)["layers"];
  for (std::size_t index = 0; index < uses.size(); ++index) {
    layers[index]["images"] = uses[index].images;
  }
  return {{"schema", 1},
          {"tag", ImageTag(image)},
          {"config_digest", image.config_digest},
          {"layers", layers}};
}

}  // namespace envkit

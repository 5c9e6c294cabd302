#include "image/manifest.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <map>

#include "base/digest.h"
#include "base/files.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// Lines and tabs separate; everything else stays readable.
std::string Escape(std::string_view text) {
  std::string escaped;
  for (const char byte : text) {
    if (byte == '%' || byte == '\n' || byte == '\t') {
      escaped += fmt::format("%{:02x}", static_cast<unsigned char>(byte));
    } else {
      escaped += byte;
    }
  }
  return escaped;
}

std::string UnescapePath(std::string_view text) {
  std::string plain;
  for (std::size_t at = 0; at < text.size(); ++at) {
    unsigned value = 0;
    if (text[at] == '%' && at + 2 < text.size() &&
        std::from_chars(text.data() + at + 1, text.data() + at + 3, value, 16).ec == std::errc()) {
      plain += static_cast<char>(value);
      at += 2;
    } else {
      plain += text[at];
    }
  }
  return plain;
}

std::string Short(const std::string& sha256) { return sha256.substr(0, 12) + "…"; }

std::string_view TypeName(char type) {
  return type == 'd' ? "a directory" : type == 'l' ? "a symlink" : "a file";
}

std::string Difference(const TreeEntry& expected, const TreeEntry& found) {
  if (expected.type != found.type) {
    return fmt::format("is {} instead of {}", TypeName(found.type), TypeName(expected.type));
  }
  std::string text;
  auto add = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
  if (expected.size != found.size) {
    add(fmt::format("has {} bytes instead of {}", found.size, expected.size));
  }
  if (expected.sha256 != found.sha256) {
    add(fmt::format("other content: sha256 {} instead of {}", Short(found.sha256),
                    Short(expected.sha256)));
  }
  if (expected.target != found.target) {
    add(fmt::format("points to {} instead of {}", found.target, expected.target));
  }
  if (expected.mode != found.mode) {
    add(fmt::format("mode {:04o} instead of {:04o}", found.mode, expected.mode));
  }
  return text;
}

}  // namespace

Result<TreeScan> ScanTree(const fs::path& tree, std::int64_t mtime) {
  TreeScan scan;
  Sha256 hash;
  ENVKIT_TRY(scan.bytes, WriteCanonicalTar(
                             tree, mtime,
                             [&](const char* data, std::size_t size) {
                               hash.Update(data, size);
                               return Result<void>();
                             },
                             [&](TreeEntry entry) { scan.entries.push_back(std::move(entry)); }));
  scan.diff_id = hash.Hex();
  return scan;
}

std::string ManifestLine(const TreeEntry& entry) {
  return fmt::format("{} {:04o} {} {} {}{}\n", entry.type, entry.mode, entry.size,
                     entry.sha256.empty() ? "-" : entry.sha256, Escape(entry.path),
                     entry.target.empty() ? "" : "\t" + Escape(entry.target));
}

Result<std::vector<TreeEntry>> ParseManifest(std::string_view text) {
  std::vector<TreeEntry> entries;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    std::array<std::string_view, 4> words;
    bool whole = end < text.size();
    for (std::string_view& word : words) {
      const std::size_t space = line.find(' ');
      whole = whole && space != std::string_view::npos;
      if (!whole) break;
      word = line.substr(0, space);
      line.remove_prefix(space + 1);
    }
    TreeEntry entry;
    auto number = [](std::string_view word, auto& value, int base) {
      const char* last = word.data() + word.size();
      const auto [rest, error] = std::from_chars(word.data(), last, value, base);
      return error == std::errc() && rest == last;
    };
    if (!whole || words[0].size() != 1 || !number(words[1], entry.mode, 8) ||
        !number(words[2], entry.size, 10) || line.empty()) {
      return Fail("the list of a layer's files is damaged");
    }
    entry.type = words[0][0];
    if (words[3] != "-") entry.sha256 = words[3];
    const std::size_t tab = line.find('\t');
    entry.path = UnescapePath(line.substr(0, tab));
    if (tab != std::string_view::npos) entry.target = UnescapePath(line.substr(tab + 1));
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<void> WriteManifest(const fs::path& tree, const std::vector<TreeEntry>& entries) {
  std::string text;
  for (const TreeEntry& entry : entries) text += ManifestLine(entry);
  return WriteFileAtomic(tree.parent_path() / kManifestName, text);
}

Result<std::vector<TreeEntry>> ReadManifest(const fs::path& tree) {
  ENVKIT_TRY(const std::string text, ReadFile(tree.parent_path() / kManifestName));
  return ParseManifest(text);
}

std::vector<TreeDifference> CompareTrees(const std::vector<TreeEntry>& expected,
                                         const std::vector<TreeEntry>& found) {
  std::map<std::string_view, std::pair<const TreeEntry*, const TreeEntry*>> paths;
  for (const TreeEntry& entry : expected) paths[entry.path].first = &entry;
  for (const TreeEntry& entry : found) paths[entry.path].second = &entry;
  std::vector<TreeDifference> differences;
  for (const auto& [path, sides] : paths) {
    const auto& [want, have] = sides;
    std::string what;
    if (have == nullptr) {
      what = "is missing";
    } else if (want == nullptr) {
      what = fmt::format("does not belong there ({})", TypeName(have->type));
    } else {
      what = Difference(*want, *have);
    }
    if (!what.empty()) differences.push_back({std::string(path), std::move(what)});
  }
  return differences;
}

}  // namespace envkit

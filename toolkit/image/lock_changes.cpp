#include "image/lock_changes.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <system_error>

namespace envkit {
namespace {

struct Package {
  std::string version, sha256;  // of all its files
  std::uint64_t bytes = 0;
};

template <class Locked>
std::map<std::string, Package> ByName(const std::vector<Locked>& files) {
  std::map<std::string, Package> packages;
  for (const Locked& file : files) {
    Package& package = packages[file.name];
    package.version += (package.version.empty() ? "" : ", ") + file.version;
    package.sha256 += file.sha256;
    package.bytes += file.size;
  }
  return packages;
}

void Compare(const std::map<std::string, Package>& before,
             const std::map<std::string, Package>& after, bool debian,
             std::vector<LockChange>& changes) {
  std::set<std::string> names;
  for (const auto& [name, package] : before) names.insert(name);
  for (const auto& [name, package] : after) names.insert(name);
  for (const std::string& name : names) {
    const auto old_one = before.find(name);
    const auto new_one = after.find(name);
    LockChange change;
    change.debian = debian;
    change.package = name;
    if (old_one != before.end()) change.before = old_one->second.version;
    if (new_one != after.end()) {
      change.after = new_one->second.version;
      change.bytes = new_one->second.bytes;
    }
    if (old_one == before.end()) {
      change.kind = LockChange::Kind::kAdded;
    } else if (new_one == after.end()) {
      change.kind = LockChange::Kind::kRemoved;
    } else if (change.before == change.after) {
      if (old_one->second.sha256 == new_one->second.sha256) continue;
      change.kind = LockChange::Kind::kOtherFile;
    }
    changes.push_back(std::move(change));
  }
}

std::string LineOf(const LockChange& change) {
  const std::string size = change.bytes == 0 ? "" : fmt::format(" ({})", HumanBytes(change.bytes));
  switch (change.kind) {
    case LockChange::Kind::kAdded:
      return fmt::format("+ {} {}{}", change.package, change.after, size);
    case LockChange::Kind::kRemoved:
      return fmt::format("- {} {}", change.package, change.before);
    case LockChange::Kind::kOtherFile:
      return fmt::format("~ {} {}, another file{}", change.package, change.after, size);
    case LockChange::Kind::kChanged:
      break;
  }
  return fmt::format("~ {} {} → {}{}", change.package, change.before, change.after, size);
}

}  // namespace

std::vector<LockChange> ChangesBetween(const Lock& before, const Lock& after) {
  std::vector<LockChange> changes;
  Compare(ByName(before.wheels), ByName(after.wheels), false, changes);
  Compare(ByName(before.debs), ByName(after.debs), true, changes);
  return changes;
}

std::string LockDiff(const Lock& before, const Lock& after) {
  std::string diff;
  for (const LockChange& change : ChangesBetween(before, after)) {
    diff += (diff.empty() ? "" : "\n") + LineOf(change);
  }
  return diff;
}

NewFiles FilesToFetch(const Lock& before, const Lock& after, const Store& store) {
  std::set<std::string> known;
  for (const LockedWheel& wheel : before.wheels) known.insert(wheel.sha256);
  for (const LockedDeb& deb : before.debs) known.insert(deb.sha256);
  NewFiles files;
  const auto count = [&](const auto& locked) {
    for (const auto& file : locked) {
      if (!known.insert(file.sha256).second) continue;
      files.bytes += file.size;
      std::error_code error;
      if (std::filesystem::exists(store.DownloadPath(file.sha256, file.file), error)) {
        files.in_store += file.size;
      }
    }
  };
  count(after.wheels);
  count(after.debs);
  return files;
}

std::string DescribeFetch(const NewFiles& files) {
  if (files.bytes == 0) return "";
  if (files.in_store >= files.bytes) {
    return fmt::format("nothing to download: {} are in the store", HumanBytes(files.bytes));
  }
  std::string text = fmt::format("{} to download", HumanBytes(files.bytes));
  if (files.in_store > 0) {
    text += fmt::format(", of which {} are in the store", HumanBytes(files.in_store));
  }
  return text;
}

}  // namespace envkit

// envkit.lock: what `envkit lock` resolved, committed to git. It names no mirror: a file is its
// name, size and sha256. The digest covers everything except [[built]].
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "project/project.h"

namespace envkit {

struct LockedWheel {
  std::string name;  // normalised (PEP 503)
  std::string version;
  std::string file;
  std::string sha256;
  std::uint64_t size = 0;  // 0: the index does not say
  // Where no index has it: a path (relative to the project), a URL, or "sdist:FILE". Files are
  // known by their hash, and this is where to look.
  std::string from = {};
  std::vector<std::string> roots = {};  // profiles that hold it because something in them needs it
};

// What a wheel is built from that no index has as a wheel; its `from` is "sdist:" and FILE.
struct LockedSource {
  std::string name;   // normalised
  std::string wheel;  // the file that comes out
  std::string file;   // the sdist
  std::string sha256;
  std::uint64_t size = 0;
  std::vector<std::string> requires_files;  // of build_wheels; sorted
};

struct LockedDeb {
  std::string name;
  std::string version;
  std::string architecture;
  std::string suite;  // trixie | trixie-updates | trixie-security: which archive has it
  std::string file;   // path below that archive's root: "pool/main/…"
  std::string sha256;
  std::uint64_t size = 0;
  std::vector<std::string> roots;  // which roots hold it: "train", "builder", …; sorted
};

// What the lock was made from; a difference to the project makes it stale, and names the change.
struct LockInputs {
  std::string torch, cuda, python, base;
  std::vector<std::string> packages, system;  // sorted
  std::string recipes;  // sha256 over the recipes' own requirements (images/profiles/*)
  std::vector<std::string> requirements = {};  // sorted
  std::vector<InputFile> files = {};           // sorted by path
  std::string architecture = "x86_64";
  bool operator==(const LockInputs&) const = default;
};

struct BuiltImage {
  std::string profile, variant, architecture, config_digest;
  std::vector<std::string> diff_ids;
};

struct Lock {
  LockInputs inputs;
  std::string torch;   // exact, "2.15.0"
  std::string cuda;    // of the cuda variant, "13.2"
  std::string python;  // "3.13"
  std::int64_t source_date_epoch = 0;
  std::vector<LockedWheel> wheels;             // sorted by name, version
  std::vector<LockedDeb> debs;                 // sorted by name, version
  std::vector<LockedSource> sources = {};      // sorted by name
  std::vector<LockedWheel> build_wheels = {};  // what builds of SOURCES need; in no image
  std::vector<BuiltImage> built;               // outside the digest

  std::string Digest() const;  // 64 hex digits
};

std::string LockToToml(const Lock& lock);  // sorted, stable, ends with a newline
// FILE is for messages; a damaged lock is kUsage with file:line:column and "run envkit lock".
Result<Lock> ParseLock(std::string_view text, const std::filesystem::path& file);

LockInputs InputsOf(const Project& project, std::string recipes_digest);
// Empty where the lock fits; else one line per difference: `environment.torch: "2.14" → "2.15"`.
std::vector<std::string> LockDifferences(const Lock& lock, const LockInputs& inputs);

}  // namespace envkit

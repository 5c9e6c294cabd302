// uv, the resolver of Python packages: found or fetched, run, and its pylock output read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/index.h"
#include "image/store.h"
#include "project/lock.h"

namespace envkit {

// Images are locked for this platform: wheels that run on Debian 13's glibc 2.41 and older ones.
inline constexpr char kMachine[] = "x86_64";
inline constexpr int kGlibcMinor = 40;

// The uv on PATH where it is new enough, else the pinned wheel's (images/uv.toml) out of the store.
// Without any configured index pip fetches that wheel, since pip knows its default one.
Result<std::filesystem::path> EnsureUv(const PythonIndexes& indexes, const Store& store,
                                       Terminal& terminal);

// INDEXES with uv's own default as MAIN where nothing is configured; remembered in the store.
Result<PythonIndexes> CompleteIndexes(PythonIndexes indexes, const Store& store,
                                      Terminal& terminal);

struct PythonResolution {
  std::vector<LockedWheel> wheels;  // sorted
  std::int64_t torch_uploaded = 0;  // seconds since 1970; 0 where the index does not say
};

struct PythonRequest {
  std::vector<std::string> requirements;
  std::string python;                  // "3.13"
  std::vector<LockedWheel> preferred;  // versions to keep where they still fit
  bool offline = false;                // from what uv has seen before
};

Result<PythonResolution> ResolvePython(const PythonRequest& request, const PythonIndexes& indexes,
                                       const Store& store, Terminal& terminal);

// Of uv's pylock.toml: of each package the wheel that PYTHON prefers.
Result<PythonResolution> ParsePylock(std::string_view text, std::string_view python);

// The certificates that our own downloads trust, as uv reads such settings.
Environment TrustForUv(const Environment& environment);

// What uv said, as an Error with what to do next.
Error UvError(const std::string& words, const PythonIndexes& indexes);

// "2026-10-28T02:51:00Z" as seconds since 1970; 0 for anything else.
std::int64_t ParseUtc(std::string_view text);

}  // namespace envkit

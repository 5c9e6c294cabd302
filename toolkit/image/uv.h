// uv, the resolver of Python packages: found or fetched, run, and its pylock output read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/index.h"
#include "image/store.h"
#include "project/lock.h"

namespace envkit {

// Images are locked for wheels that run on Debian 13's glibc 2.41 and older ones.
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

struct PythonSource {
  std::string name;  // as uv's messages shall call it: "envkit.toml"
  std::vector<std::string> requirements;
  bool of_profiles = false;  // what the image profiles ask for, all of them together
};

struct PythonRequest {
  std::vector<PythonSource> sources;
  std::vector<std::filesystem::path> files;  // absolute, in the format of requirements.txt
  std::filesystem::path root;                // where relative paths in FILES begin
  std::string python;                        // "3.13"
  std::string machine = "x86_64";            // or "aarch64"
  std::vector<LockedWheel> preferred;        // versions to keep where they still fit
  bool offline = false;                      // from what uv has seen before
};

Result<PythonResolution> ResolvePython(const PythonRequest& request, const PythonIndexes& indexes,
                                       const Store& store, Terminal& terminal);

// The same resolution again as text with "# via" comments, from uv's own cache; empty where that
// fails, since it only makes a message better.
std::string AnnotatePython(const PythonRequest& request, const PythonIndexes& indexes,
                           const Store& store, Terminal& terminal);

// Of uv's pylock.toml: of each package the wheel that PYTHON on MACHINE prefers. FROM is as uv says
// it.
Result<PythonResolution> ParsePylock(std::string_view text, std::string_view python,
                                     std::string_view machine = "x86_64");

// The certificates that our own downloads trust, as uv reads such settings.
ProxyVariables TrustForUv(const ProxyVariables& environment);

// What uv said, as an Error with what to do next.
Error UvError(const std::string& words, const PythonIndexes& indexes);

// Who wants another PyTorch, in what uv said of a conflict.
struct TorchConflict {
  std::string package;      // empty: one of the requirements themselves
  std::string requirement;  // "torch==2.14.0"
};
std::optional<TorchConflict> FindTorchConflict(const std::string& words);

// "srconly", "==0.5" of uv's explanation why there is no solution; nullopt where wheels are not the
// reason. BOUNDS may be empty, or "<2", ">=0.4".
struct SourceOnly {
  std::string name, bounds;
  std::string words;  // uv's, in one line
};
std::optional<SourceOnly> FindSourceOnly(const std::string& words);

// How to come by a wheel of WANTED ("six==1.17.0") where none can be had.
std::string PrebuildHint(const std::string& python, const std::string& wanted,
                         std::string_view machine = "x86_64");

// "2026-10-28T02:51:00Z" as seconds since 1970; 0 for anything else.
std::int64_t ParseUtc(std::string_view text);

}  // namespace envkit

// The user's Python index: which one it is, and what it lists. Our own files name none. Settings
// are read where uv and pip read them, since each ignores the other's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "project/project.h"

namespace envkit {

using ProxyVariables = std::map<std::string, std::string>;
ProxyVariables CurrentEnvironment();

// URLs may hold credentials: print them through RedactUrl only.
struct PythonIndexes {
  std::string main;                // empty: nothing is configured
  std::string origin;              // where MAIN was found, for people
  std::vector<std::string> extra;  // asked besides MAIN

  std::vector<std::string> All() const;  // MAIN first
  std::string Describe() const;  // "https://example.com/simple (UV_DEFAULT_INDEX)", redacted
  // The settings as uv reads them. Never on a command line, which everybody on the machine sees.
  ProxyVariables ForUv() const;
  // TEXT without the indexes' credentials.
  std::string Scrub(std::string text) const;
};

// In this order: UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL, uv.toml of the user, then of the
// system, pip.conf of the user, then of the system. ROOT stands before system paths (for tests).
PythonIndexes ConfiguredIndexes(const std::vector<IndexSetting>& of_project,
                                const ProxyVariables& environment,
                                const std::filesystem::path& root = "/");

struct IndexFile {
  std::string name;
  std::string url;     // absolute, http or https
  std::string sha256;  // empty where the index lists none
  std::uint64_t size = 0;
};

// The indexes of this machine, of [index] and of the requirement files.
PythonIndexes IndexesOf(const Project& project, const ProxyVariables& environment);

// A project's page of the simple API, as JSON (PEP 691) or HTML (PEP 503). PAGE_URL resolves
// relative links. What is listed is the index's word only: files are verified when they arrive.
Result<std::vector<IndexFile>> ParseSimplePage(std::string_view body, std::string_view page_url);

// RFC 3986 for the cases that indexes have; nullopt where the result is neither http nor https.
std::optional<std::string> ResolveUrl(std::string_view base, std::string_view reference);

std::string PercentDecode(std::string_view text);

// What the first index that knows the project NAME lists of it; further indexes come before the
// main one, as uv asks them.
Result<std::vector<IndexFile>> ListProject(const PythonIndexes& indexes, const std::string& name);

// FILE with this hash on the first index that has it.
Result<IndexFile> FindOnIndexes(const PythonIndexes& indexes, const std::string& file,
                                const std::string& sha256);

// The answer was that there is no such page or file, rather than that nobody answered.
bool IsNotFound(const Error& error);

}  // namespace envkit

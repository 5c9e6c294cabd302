// Reading below a root prefix: this machine's "/", or a captured tree that stands in for one. Never
// waits for a pipe or a terminal; reads no more than is sensible.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "doctor/facts.h"

namespace envkit::doctor {

class Root {
 public:
  explicit Root(std::filesystem::path prefix) : prefix_(std::move(prefix)) {}

  // This very machine: then programs may be asked too, and access rights mean something.
  bool live() const { return prefix_ == "/"; }
  const std::filesystem::path& prefix() const { return prefix_; }

  // PATH is absolute, as on the machine. Symbolic links are followed below the prefix.
  std::filesystem::path Real(std::string_view path) const;
  bool Exists(std::string_view path) const;
  std::vector<std::string> List(std::string_view directory) const;  // names, sorted
  std::string Read(std::string_view file) const;                    // "" where it cannot be read
  std::string ReadLine(std::string_view file) const;                // the first, trimmed
  std::string LinkName(std::string_view link) const;  // the last part of where it points

  // Absent where there is no such file; unknown where it may not be read or its file system (/sys,
  // /proc) is not mounted.
  Text Line(std::string_view file) const;
  Number Integer(std::string_view file) const;

  // What a program prints, or, in a captured tree, what /.envkit/NAME holds. nullopt: not to be
  // had.
  std::optional<std::string> Ask(std::string_view name, const std::vector<std::string>& argv) const;

 private:
  std::filesystem::path prefix_;
};

std::optional<std::int64_t> ToInteger(std::string_view text);  // decimal, optional minus; whole
// "580.95.05" in TEXT: the first word of digits and at least one dot; "" where there is none.
std::string FirstVersion(std::string_view text);
std::vector<std::string> Lines(std::string_view text);
std::string Trimmed(std::string_view text);

}  // namespace envkit::doctor

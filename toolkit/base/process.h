// The one place where child programs are started and waited for (Boost.Process v2 inside).
// Long-lived supervision of ranks is launch/'s own, with pidfds.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

enum class Stream { kInherit, kCapture, kDiscard };

struct ProcessSpec {
  std::vector<std::string> argv = {};  // argv[0] is looked up on PATH unless it has a slash
  std::filesystem::path cwd = {};      // empty: ours
  std::map<std::string, std::string> env = {};  // added to (or replacing in) our environment
  std::vector<std::string> env_unset = {};
  // nullopt: /dev/null; else fed to stdin (any size, no deadlock)
  std::optional<std::string> input = {};
  bool inherit_input = false;  // our own stdin (terminals)
  Stream out = Stream::kCapture;
  Stream err = Stream::kCapture;
  std::optional<std::chrono::milliseconds> timeout = {};  // then SIGKILL to its process group
  // Called for each whole line of stderr or stdout that is captured, while the child runs.
  std::function<void(std::string_view line)> on_line = {};
};

struct ProcessResult {
  int exit_code = 0;  // 128 + signal where a signal ended it
  std::string out;
  std::string err;
};

// Runs to the end. An Error only where the program could not be started (kMissing, "NAME is not
// installed") or timed out; a non-zero exit is a result. Thread-safe. The child inherits no
// descriptor but 0, 1, 2, and gets SIGTERM when this process dies.
Result<ProcessResult> RunProcess(const ProcessSpec& spec);

// The same, but a non-zero exit is an Error with the last lines of the program's own output.
Result<std::string> RunForOutput(ProcessSpec spec);

// nullopt where NAME is not an executable on PATH (looks in /usr/sbin and /sbin too).
std::optional<std::filesystem::path> FindExecutable(std::string_view name);

// A command line as a person would type it, quoted for a POSIX shell.
std::string ShellQuote(const std::vector<std::string>& argv);

}  // namespace envkit

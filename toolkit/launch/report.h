// Why a job ended, as data and as text. The report is the last thing that a user sees of a failed
// job: one rank, one cause, one place to look.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "symptoms/symptoms.h"

namespace envkit {

std::string SignalName(int signal);  // "SIGKILL"

// How a rank ended. CODE is what a shell shows: 128 + SIGNAL where a signal ended it.
struct RankEnd {
  int rank = 0;
  pid_t pid = 0;
  int code = 0;
  int signal = 0;    // 0: it exited by itself
  std::string gpu;   // "2, GPU-5f3c…"; empty: none of its own
  std::string host;  // empty where there is only one node
};
// "rank 2 (pid 48213, GPU 2) ended with signal 9 (SIGKILL)"
std::string EndText(const RankEnd& end);

// Counters of the OOM killer; what grew between two readings happened in between.
struct OomCounters {
  std::uint64_t cgroup = 0;                  // kills in our memory cgroup
  std::uint64_t machine = 0;                 // kills anywhere on this machine
  bool known = false;                        // the kernel told at least one of them
  std::optional<std::uint64_t> limit_bytes;  // the tightest limit over us
};
OomCounters ReadOomCounters(const std::filesystem::path& root = "/");

// First line of the message in the error.json that torch's @record writes.
std::optional<std::string> ReadErrorFile(const std::filesystem::path& file);

// "" where nothing more is known than how it ended.
std::string CauseText(const RankEnd& end, const OomCounters& before, const OomCounters& after,
                      const std::optional<std::string>& python_error);

// Up to COUNT last lines of OUTPUT that are not blank, safe to print: no control characters, not
// longer than a few screen lines, what a progress bar drew over is gone.
std::vector<std::string> LastLines(std::string_view output, std::size_t count);

struct FailureReport {
  std::string headline;  // EndText, or what else was wrong
  int rank = 0;
  std::string cause;                   // CauseText
  std::vector<std::string> last;       // LastLines
  std::optional<Symptom> symptom;      // what its output means, by the doctor's table
  std::vector<int> stopped;            // peers that ended after SIGTERM
  std::vector<int> killed;             // peers that did not
  std::chrono::milliseconds grace{0};  // what the killed ones were given
  std::chrono::milliseconds took{0};   // from the failure to the end of the last of the stopped
  std::vector<std::string> left;       // processes that even SIGKILL did not end
  bool out_of_memory = false;
  std::string log;  // the file to read
  int exit_code = 0;
};
std::string FailureText(const FailureReport& report);

std::string RankList(const std::vector<int>& ranks);       // "ranks 0, 1, 3", "ranks 0-62"
std::string DurationText(std::chrono::milliseconds time);  // "31 ms", "2.1 s"
std::string MemoryText(std::uint64_t bytes);               // "64 GiB": limits are set in these

// What outcome.json says of the root cause.
std::string CauseJson(const RankEnd& end, const FailureReport& report);

// FILE, complete or not at all. False where it cannot be written (errno).
struct Outcome {
  int exit_code = 0;
  int world_size = 0;
  int attempts = 1;
  std::string cause;  // CauseJson; empty: nothing failed
};
bool WriteOutcome(const std::filesystem::path& file, const Outcome& outcome);

}  // namespace envkit

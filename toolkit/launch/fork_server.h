// Ranks that are forked from one process which has the program's libraries loaded: loading LibTorch
// takes a core 0.3 s, and eight ranks on two cores 1.2 s.
//
// The supervisor starts the program once, with ENVKIT_FORK_SERVER in its environment. While its
// libraries are initialised, libenvkit_runtime (src/distributed/fork_server.cpp there) reads what
// the ranks shall be, forks them, tells their numbers and ends, so that they become the
// supervisor's own children: from then on nothing tells them from ranks that were started singly.
// Whatever goes wrong before, ranks are started singly.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "launch/process.h"

namespace envkit {

// "DESCRIPTION,ANSWER,GO": descriptors. DESCRIPTION has words that end with NUL: the supervisor's
// pid, the number of ranks, and for each its stdin, stdout and stderr (descriptors, -1: as it is),
// its CPUs ("0,2", empty: all), the number of its environment's entries, and these. ANSWER gets the
// ranks' pids, each a pid_t. Each rank reads a byte from GO before it does anything.
inline constexpr const char* kForkServerVariable = "ENVKIT_FORK_SERVER";

std::string ForkDescription(pid_t supervisor, const std::vector<SpawnSpec>& ranks);

// Whether the ELF file PROGRAM needs LIBRARY (DT_NEEDED).
bool NeedsLibrary(const std::string& program, std::string_view library);

// Whether RANKS can be forked from one process: their program and arguments are the same, and so is
// what libraries read when they are loaded.
bool CanFork(const std::vector<SpawnSpec>& ranks);

// The pids of RANKS, our children; empty where it did not come to that. Waits for as long as the
// program takes to load; gives up when INTERRUPT becomes readable, or after a minute.
std::vector<pid_t> ForkRanks(const std::vector<SpawnSpec>& ranks, int interrupt);

}  // namespace envkit

// Two processes, so that a kill -9 on either leaves nothing behind: the one that the user started
// stays the parent and forwards signals; its child supervises. Both are subreapers, so whatever the
// ranks start stays below both. When the child dies, all that is left becomes the parent's and is
// ended by it; when the parent dies, the child sees the end of a pipe and ends everything.
#pragma once

#include <signal.h>

#include <functional>

#include "launch/process.h"

namespace envkit {

struct Supervised {
  Fd parent_alive;       // becomes readable (end of file) when the parent is gone
  sigset_t watched{};    // blocked here; to be read from a signalfd
  sigset_t rank_mask{};  // the mask that we were started with: the ranks' own
};

// Runs SUPERVISE in the child; the exit code of the whole.
int RunGuarded(const std::function<int(Supervised)>& supervise);

// Signals that we act on, less those that our starter had ignored (nohup, background jobs).
sigset_t WatchedSignals();

// Ends every process below this one with SIGKILL and reaps it. Processes that do not end (they hang
// in the kernel) are given up after a few seconds.
void EndAllDescendants();

}  // namespace envkit

// One training run: data, model, loop, checkpoints, records.
#pragma once

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>

#include "config.h"

namespace envkit {

struct TrainJob {
  TrainConfig config;
  std::filesystem::path run;          // its record; empty: a new one below .envkit/runs
  std::string name = "train";         // of the job
  std::optional<std::string> resume;  // "latest" or a checkpoint, a run or a folder of checkpoints
};

// Set by a signal handler: save at the end of the step on which all ranks agree, and end with 75.
extern volatile std::sig_atomic_t stop_requested;

// Returns the exit code: 0, or 75 when it was stopped with a durable checkpoint. Throws Failure.
int Train(const TrainJob& job);

}  // namespace envkit

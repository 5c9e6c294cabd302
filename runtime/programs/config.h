// train.toml: what envkit-train is asked to do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace envkit {

struct TrainConfig {
  std::int64_t seed = 1;
  std::int64_t epochs = 3;
  std::int64_t max_steps = 0;  // stop after so many steps of the schedule; 0: train all epochs
  std::int64_t global_batch = 128;
  std::int64_t log_every = 10;          // steps
  std::int64_t checkpoint_every = 200;  // steps; 0: at the ends of epochs only
  std::int64_t keep_checkpoints = 2;
  std::string device = "auto";
  struct {
    std::string name = "adamw";
    double learning_rate = 2e-3, weight_decay = 0.01;
  } optimizer;
  struct {
    std::string name = "cosine";
    std::int64_t warmup_steps = 100;
  } schedule;
  struct {
    std::string kind = "mnist", directory = "/data/mnist";
    double max_shift = 0, max_rotation = 0, max_scaling = 0;  // pixels, degrees, a fraction
  } data;
  struct {
    std::string kind = "cnn";
  } model;
};

// FILE, then each of SETTINGS ("optimizer.learning_rate=0.001") over it. All problems at once, with
// file:line:column; unknown keys are errors.
Result<TrainConfig> LoadConfig(const std::filesystem::path& file,
                               const std::vector<std::string>& settings);

}  // namespace envkit

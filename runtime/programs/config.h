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
  std::int64_t accumulation = 1;        // micro-steps that a step's batch is divided into
  std::int64_t log_every = 10;          // steps
  std::int64_t evaluate_every = 0;      // steps; 0: at the ends of epochs only
  std::int64_t checkpoint_every = 200;  // steps; 0: at the ends of epochs only
  std::int64_t keep_checkpoints = 2;
  bool keep_best = false;
  bool background_checkpoints = true;
  std::string device = "auto";
  struct {
    std::string name = "adamw";
    double learning_rate = 2e-3, weight_decay = 0.01, momentum = 0.9;
    double clip_norm = 0;  // 0: gradients are not clipped
  } optimizer;
  struct {
    std::string name = "cosine";
    std::int64_t warmup_steps = 100;
    double final_rate = 0;
  } schedule;
  struct {
    std::string mixed = "no";
    bool tf32 = true;
  } precision;
  struct {
    std::int64_t zero_stage = 0;
    std::string comm_hook = "no";
    bool activation_checkpointing = false, cpu_offload = false;
  } distributed;
  struct {
    std::string kind = "mnist", directory = "/data/mnist";
    double max_shift = 0, max_rotation = 0, max_scaling = 0;  // pixels, degrees, a fraction
    bool augment = false;                                     // CIFAR-10, images
    std::int64_t size = 224;                                  // images: pixels a side
    std::int64_t threads = 0;                                 // 0: by the kind of data
    std::int64_t evaluation_samples = 0;                      // 0: all
  } data;
  struct {
    std::string kind = "cnn";
    std::string weights;        // a safetensors file to start from
    std::int64_t hidden = 512;  // mlp
    std::string size;           // gpt: gpt2, gpt2-medium …; empty: by the numbers below
    std::int64_t vocabulary = 50257, context = 256, layers = 6, heads = 6, width = 384;
    double dropout = 0;
  } model;
};

// The configuration as a train.toml that says all of it.
std::string ConfigText(const TrainConfig& config);

// FILE, then each of SETTINGS ("optimizer.learning_rate=0.001") over it. All problems at once, with
// file:line:column; unknown keys are errors.
Result<TrainConfig> LoadConfig(const std::filesystem::path& file,
                               const std::vector<std::string>& settings);

}  // namespace envkit

// What a checkpoint says beside tensors.
#pragma once

#include <cstdint>
#include <string>

namespace envkit {

// Where training stands; independent of the number of ranks.
struct TrainingState {
  std::string job;
  std::int64_t step = 0;                      // optimizer steps done
  std::int64_t epoch = 0, sample_offset = 0;  // ShardedSampler::Position
  std::uint64_t seed = 0;
  std::int64_t global_batch = 0, dataset_samples = 0;
  std::string model;   // its kind
  int world_size = 1;  // for information
};

}  // namespace envkit

// What can be trained: a model with its loss, and the data that it fits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "envkit/datasets.h"
#include "envkit/module.h"
#include "envkit/named_tensor.h"

namespace envkit {

struct TrainingData {
  std::shared_ptr<const Dataset> train, test;
  std::int64_t channels = 1, rows = 1, columns = 1, classes = 10;
  const char* unit = "images";                   // of what train has
  std::shared_ptr<const ImageDataset> pictures;  // the test images, where they can be looked at
};

TrainingData OpenData(const TrainConfig& config);  // throws Failure

// Sums over samples, to be summed over batches and ranks.
struct EvaluationSums {
  double loss = 0, right = 0, count = 0;
};

class Learner {
 public:
  virtual ~Learner() = default;
  virtual std::vector<NamedTensor> Parameters() const = 0;
  virtual std::vector<NamedTensor> Buffers() const { return {}; }
  virtual Blocks& blocks() { return no_blocks_; }
  virtual void Train(bool /*training*/) {}
  virtual at::Tensor Loss(const Batch& batch) const = 0;  // the mean over the batch
  // Adds to SUMS. RIGHT, where given, gets a tensor of booleans for each sample.
  virtual void Evaluate(const Batch& batch, EvaluationSums* sums, at::Tensor* right) const = 0;

 private:
  Blocks no_blocks_;
};

std::unique_ptr<Learner> MakeLearner(const TrainConfig& config, const TrainingData& data,
                                     at::Device device);

}  // namespace envkit

// Optimizers and learning-rate schedules on torch's fused operators.
#pragma once

#include <cstdint>
#include <vector>

#include "envkit/named_tensor.h"

namespace envkit {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.01;  // decoupled; not applied to tensors with fewer than two dimensions
};

// Not thread-safe. Local: every rank steps its own copy with the averaged gradients.
class AdamW {
 public:
  // PARAMETERS: leaves that require grad; any dtype that at::_fused_adamw_ takes.
  AdamW(const std::vector<NamedTensor>& parameters, const AdamWOptions& options = {});

  void Step(double learning_rate);  // parameters without a gradient are left alone
  void ZeroGrad();                  // in place: DataParallel's gradients are views of its buckets

  // "step" (a float scalar), "exp_avg.<name>", "exp_avg_sq.<name>": the tensors themselves, so that
  // copying into them restores the optimizer.
  std::vector<NamedTensor> State() const;

 private:
  struct Group {
    double weight_decay;
    std::vector<at::Tensor> parameters, exp_avg, exp_avg_sq;
    std::vector<std::string> names;
  };
  AdamWOptions options_;
  at::Tensor step_;
  std::vector<Group> groups_;
};

// Linear warm-up from 0, then half a cosine down to FINAL_RATE. Counted in optimizer steps,
// whatever the number of ranks.
struct WarmupCosine {
  double peak_rate = 1e-3, final_rate = 0;
  std::int64_t warmup_steps = 0, total_steps = 1;

  // STEP counts from 1: the rate of the first optimizer step is LearningRate(1). After TOTAL_STEPS
  // it stays at FINAL_RATE.
  double LearningRate(std::int64_t step) const;
};

}  // namespace envkit

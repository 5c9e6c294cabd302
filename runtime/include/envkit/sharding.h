// ZeRO: parameters, gradients and optimizer state in shards, one for each rank.
//
// Parameters are put into flat groups, one for each block of the model and one for the rest, padded
// so that every rank has an equal shard. The optimizer steps this rank's shards alone.
//   stage 1: each rank has all parameters and gradients, and a shard of the optimizer's state
//   stage 2: and gradients only as a shard, summed as soon as a group's are complete
//   stage 3: and parameters only as a shard, gathered before a group's forward and backward, the
//            next group's while this one computes, and freed after it
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "envkit/distributed.h"
#include "envkit/module.h"
#include "envkit/named_tensor.h"
#include "envkit/optim.h"

namespace envkit {

struct ShardingOptions {
  int stage = 1;  // 1, 2 or 3
  // The type that forward sees. Shards (master weights), their gradients and the optimizer's state
  // keep the parameters' own type.
  std::optional<at::ScalarType> compute_type = std::nullopt;
  // Shards, their gradients and the optimizer's state on the CPU, also when the model is on a GPU.
  bool cpu_offload = false;
  bool prefetch = true;
};

// Not thread-safe. Collective where it says so.
class Sharding {
 public:
  // Collective. Takes over rank 0's values; PARAMETERS become views of flat groups, row-major, and
  // OPTIMIZER is rebound to shards. Throws c10::Error when a parameter's type is not that of the
  // others.
  Sharding(std::shared_ptr<Communicator> communicator, const std::vector<NamedTensor>& parameters,
           Optimizer& optimizer, const std::vector<std::string>& block_prefixes,
           const ShardingOptions& options = {});
  ~Sharding();
  Sharding(const Sharding&) = delete;
  Sharding& operator=(const Sharding&) = delete;

  void BeforeForward();  // collective
  // Collective. A block's forward between gathering and freeing; see Blocks.
  at::Tensor RunBlock(std::size_t block, const at::Tensor& input, const Blocks::Forward& forward,
                      bool checkpointed);
  void BeforeBackward();
  void AfterBackward(bool sync);  // collective
  // Collective. As DataParallel's; with SYNC false, stage 1 keeps this rank's gradients to itself
  // until the next call with SYNC true. Stages 2 and 3 sum shards each time.
  void Backward(const at::Tensor& loss, bool sync);
  double GradientNorm();               // collective: of the mean gradient, over all parameters
  void ScaleGradients(double factor);  // local
  void ClampGradients(double limit);   // local: each value to [-limit, limit]
  // Collective. After the optimizer's step: parameters follow their shards.
  void AfterStep();
  // After gradients have been used: the shards' are zeroed, whole ones freed.
  void ZeroGrad();

  // Collective. Parameters can be read (and not written) until the next forward.
  void GatherAll();
  // This rank's part of parameters, and of an optimizer that was rebound to it ("exp_avg.<name>").
  std::vector<Slice> Parameters() const;
  std::vector<Slice> Gradients() const;
  std::vector<Slice> OptimizerState(const Optimizer& optimizer) const;
  // Collective. All parameters in their own type and shape, on the CPU of rank 0; empty elsewhere.
  std::vector<NamedTensor> Whole() const;
  // Collective. After Parameters() were written to, as by loading a checkpoint.
  void Refresh();
  const std::vector<NamedTensor>& shards() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace envkit

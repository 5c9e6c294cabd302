// Optimizers and learning-rate schedules on torch's fused operators.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "envkit/named_tensor.h"

namespace envkit {

// Parameters that are stepped alike.
struct ParameterGroup {
  std::vector<NamedTensor> parameters;  // leaves that require grad
  double weight_decay = 0;
  double rate_scale = 1;  // times the learning rate
};

// Two groups: what has two dimensions or more decays, norms and biases do not.
std::vector<ParameterGroup> DecayGroups(const std::vector<NamedTensor>& parameters,
                                        double weight_decay);

// Not thread-safe. Local: every rank steps what it holds (a copy, or its shard) with gradients that
// are averaged already. Parameters without a gradient are left alone.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  void Step(double learning_rate);
  void Step() { Step(learning_rate); }
  void ZeroGrad();  // leaves no gradient; a parameter that the next backward does not reach is not
                    // stepped

  // "step" (a float scalar) and "<slot>.<name>" for each slot of each parameter: the tensors
  // themselves, so that copying into them restores the optimizer.
  std::vector<NamedTensor> State() const;
  const std::vector<ParameterGroup>& groups() const { return groups_; }
  std::int64_t steps() const;

  // Steps these tensors instead, with new state: what sharding does with the optimizer that it is
  // given. As many groups as before; each keeps its weight decay and its rate scale.
  void Rebind(const std::vector<std::vector<NamedTensor>>& parameters);

  double learning_rate = 1e-3;  // of Step()

 protected:
  // SLOTS: the state that each parameter has, shaped as it is.
  Optimizer(std::vector<ParameterGroup> groups, std::vector<std::string> slots);
  struct Lists {
    std::vector<at::Tensor> parameters, gradients;
    std::vector<std::vector<at::Tensor>> slots;
    std::vector<at::Tensor> steps;
  };
  virtual void Update(const Lists& lists, double rate, double weight_decay) = 0;

 private:
  void MakeState();
  std::vector<ParameterGroup> groups_;
  std::vector<std::string> slot_names_;
  std::vector<std::vector<std::vector<at::Tensor>>> slots_;  // [group][slot][parameter]
  at::Tensor step_;
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0.01;  // decoupled; not applied to tensors with fewer than two dimensions
};

// State: "exp_avg", "exp_avg_sq". Any dtype that at::_fused_adamw_ takes.
class AdamW : public Optimizer {
 public:
  explicit AdamW(const std::vector<NamedTensor>& parameters, const AdamWOptions& options = {});
  explicit AdamW(std::vector<ParameterGroup> groups, const AdamWOptions& options = {});

 private:
  void Update(const Lists& lists, double rate, double weight_decay) override;
  AdamWOptions options_;
};

struct SgdOptions {
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;  // added to the gradient; not for tensors of fewer than two dimensions
};

// State: "momentum_buffer" where there is momentum.
class Sgd : public Optimizer {
 public:
  explicit Sgd(const std::vector<NamedTensor>& parameters, const SgdOptions& options = {});
  explicit Sgd(std::vector<ParameterGroup> groups, const SgdOptions& options = {});

 private:
  void Update(const Lists& lists, double rate, double weight_decay) override;
  SgdOptions options_;
};

// Linear warm-up from 0, then a way down to FINAL_RATE. Counted in optimizer steps, whatever the
// number of ranks.
struct Schedule {
  enum class Kind { kCosine, kLinear, kConstant };  // half a cosine, a line, or the peak for good
  double peak_rate = 1e-3, final_rate = 0;
  std::int64_t warmup_steps = 0, total_steps = 1;
  Kind kind = Kind::kCosine;

  // STEP counts from 1: the rate of the first optimizer step is LearningRate(1). After TOTAL_STEPS
  // it stays at FINAL_RATE.
  double LearningRate(std::int64_t step) const;
};

// Euclidean norm, in double, of the gradients that PARAMETERS have here.
double GradientNorm(const std::vector<at::Tensor>& parameters);
void ScaleGradients(const std::vector<at::Tensor>& parameters, double factor);
// The name of the first of PARAMETERS with a value, else with a gradient, that is not finite
// ("h.3.mlp.c_fc.weight", "the gradient of …"); empty when all are finite.
std::string FirstNotFinite(const std::vector<NamedTensor>& parameters);

}  // namespace envkit

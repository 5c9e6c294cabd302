#include "envkit/optim.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace envkit {
namespace {

// The fused operator walks memory, not indices: all it is given must be laid out alike. Strides of
// dimensions with one element say nothing.
bool SameLayout(const at::Tensor& a, const at::Tensor& b) {
  for (std::int64_t i = 0; i < a.dim(); ++i)
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  return a.sizes() == b.sizes();
}

}  // namespace

AdamW::AdamW(const std::vector<NamedTensor>& parameters, const AdamWOptions& options)
    : options_(options) {
  Group decayed{options.weight_decay, {}, {}, {}, {}}, other{0, {}, {}, {}, {}};
  for (const NamedTensor& parameter : parameters) {
    Group& group = parameter.tensor.dim() >= 2 ? decayed : other;
    group.parameters.push_back(parameter.tensor);
    group.exp_avg.push_back(at::zeros_like(parameter.tensor));
    group.exp_avg_sq.push_back(at::zeros_like(parameter.tensor));
    group.names.push_back(parameter.name);
  }
  at::TensorOptions scalar = at::kFloat;
  if (!parameters.empty()) scalar = scalar.device(parameters[0].tensor.device());
  step_ = at::zeros({}, scalar);
  for (Group* group : {&decayed, &other})
    if (!group->parameters.empty()) groups_.push_back(std::move(*group));
}

void AdamW::Step(double learning_rate) {
  const c10::AutoGradMode no_grad(false);
  step_.add_(1);
  for (const Group& group : groups_) {
    std::vector<at::Tensor> parameters, gradients, exp_avg, exp_avg_sq;
    for (std::size_t i = 0; i < group.parameters.size(); ++i) {
      const at::Tensor& gradient = group.parameters[i].grad();
      if (!gradient.defined()) continue;
      TORCH_CHECK(SameLayout(gradient, group.parameters[i]), "AdamW: the gradient of ",
                  group.names[i], " is not laid out as its parameter is");
      parameters.push_back(group.parameters[i]);
      gradients.push_back(gradient);
      exp_avg.push_back(group.exp_avg[i]);
      exp_avg_sq.push_back(group.exp_avg_sq[i]);
    }
    if (parameters.empty()) continue;
    const std::vector<at::Tensor> steps(parameters.size(), step_);
    at::_fused_adamw_(parameters, gradients, exp_avg, exp_avg_sq, {}, steps, learning_rate,
                      options_.beta1, options_.beta2, group.weight_decay, options_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  }
}

void AdamW::ZeroGrad() {
  const c10::AutoGradMode no_grad(false);
  std::vector<at::Tensor> gradients;
  for (const Group& group : groups_)
    for (const at::Tensor& parameter : group.parameters)
      if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  if (!gradients.empty()) at::_foreach_zero_(gradients);
}

std::vector<NamedTensor> AdamW::State() const {
  std::vector<NamedTensor> state = {{"step", step_}};
  for (const Group& group : groups_) {
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      state.push_back({"exp_avg." + group.names[i], group.exp_avg[i]});
      state.push_back({"exp_avg_sq." + group.names[i], group.exp_avg_sq[i]});
    }
  }
  return state;
}

double WarmupCosine::LearningRate(std::int64_t step) const {
  if (step <= warmup_steps)
    return peak_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
  const double length = static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup_steps));
  const double done = std::min(1.0, static_cast<double>(step - warmup_steps) / length);
  return final_rate + (peak_rate - final_rate) * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace envkit

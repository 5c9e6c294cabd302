#include "envkit/optim.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace envkit {
namespace {

// The fused operators walk memory, not indices: all they are given must be laid out alike. Strides
// of dimensions with one element say nothing.
bool SameLayout(const at::Tensor& a, const at::Tensor& b) {
  for (std::int64_t i = 0; i < a.dim(); ++i)
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  return a.sizes() == b.sizes();
}

}  // namespace

std::vector<ParameterGroup> DecayGroups(const std::vector<NamedTensor>& parameters,
                                        double weight_decay) {
  ParameterGroup decayed{{}, weight_decay}, other{{}, 0};
  for (const NamedTensor& parameter : parameters)
    (parameter.tensor.dim() >= 2 ? decayed : other).parameters.push_back(parameter);
  std::vector<ParameterGroup> groups;
  for (ParameterGroup* group : {&decayed, &other})
    if (!group->parameters.empty()) groups.push_back(std::move(*group));
  return groups;
}

Optimizer::Optimizer(std::vector<ParameterGroup> groups, std::vector<std::string> slots)
    : groups_(std::move(groups)), slot_names_(std::move(slots)) {
  MakeState();
}

void Optimizer::MakeState() {
  const c10::AutoGradMode no_grad(false);
  at::TensorOptions scalar = at::kFloat;
  slots_.clear();
  for (const ParameterGroup& group : groups_) {
    auto& of_group = slots_.emplace_back(slot_names_.size());
    for (const NamedTensor& parameter : group.parameters) {
      scalar = scalar.device(parameter.tensor.device());
      for (auto& slot : of_group) slot.push_back(at::zeros_like(parameter.tensor));
    }
  }
  step_ = at::zeros({}, scalar);
}

void Optimizer::Rebind(const std::vector<std::vector<NamedTensor>>& parameters) {
  TORCH_CHECK(parameters.size() == groups_.size(), "Rebind: ", parameters.size(), " groups for ",
              groups_.size());
  for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i].parameters = parameters[i];
  MakeState();
}

std::int64_t Optimizer::steps() const { return std::llround(step_.item<double>()); }

void Optimizer::Step(double rate) {
  const c10::AutoGradMode no_grad(false);
  step_.add_(1);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const ParameterGroup& group = groups_[g];
    Lists lists;
    lists.slots.resize(slot_names_.size());
    for (std::size_t i = 0; i < group.parameters.size(); ++i) {
      const auto& [name, parameter] = group.parameters[i];
      const at::Tensor& gradient = parameter.grad();
      if (!gradient.defined() || parameter.numel() == 0) continue;
      TORCH_CHECK(SameLayout(gradient, parameter), "Optimizer: the gradient of ", name,
                  " is not laid out as its parameter is");
      lists.parameters.push_back(parameter);
      lists.gradients.push_back(gradient);
      for (std::size_t slot = 0; slot < slot_names_.size(); ++slot)
        lists.slots[slot].push_back(slots_[g][slot][i]);
    }
    if (lists.parameters.empty()) continue;
    lists.steps.assign(lists.parameters.size(), step_);
    Update(lists, rate * group.rate_scale, group.weight_decay);
  }
}

void Optimizer::ZeroGrad() {
  // Without one, backward keeps what it made instead of adding it to zeros.
  for (const ParameterGroup& group : groups_)
    for (const NamedTensor& parameter : group.parameters)
      parameter.tensor.mutable_grad() = at::Tensor();
}

std::vector<NamedTensor> Optimizer::State() const {
  std::vector<NamedTensor> state = {{"step", step_}};
  for (std::size_t g = 0; g < groups_.size(); ++g)
    for (std::size_t i = 0; i < groups_[g].parameters.size(); ++i)
      for (std::size_t slot = 0; slot < slot_names_.size(); ++slot)
        state.push_back(
            {slot_names_[slot] + "." + groups_[g].parameters[i].name, slots_[g][slot][i]});
  return state;
}

AdamW::AdamW(const std::vector<NamedTensor>& parameters, const AdamWOptions& options)
    : AdamW(DecayGroups(parameters, options.weight_decay), options) {}

AdamW::AdamW(std::vector<ParameterGroup> groups, const AdamWOptions& options)
    : Optimizer(std::move(groups), {"exp_avg", "exp_avg_sq"}), options_(options) {}

void AdamW::Update(const Lists& lists, double rate, double weight_decay) {
  at::_fused_adamw_(lists.parameters, lists.gradients, lists.slots[0], lists.slots[1], {},
                    lists.steps, rate, options_.beta1, options_.beta2, weight_decay,
                    options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
}

Sgd::Sgd(const std::vector<NamedTensor>& parameters, const SgdOptions& options)
    : Sgd(DecayGroups(parameters, options.weight_decay), options) {}

Sgd::Sgd(std::vector<ParameterGroup> groups, const SgdOptions& options)
    : Optimizer(std::move(groups), options.momentum != 0
                                       ? std::vector<std::string>{"momentum_buffer"}
                                       : std::vector<std::string>{}),
      options_(options) {}

void Sgd::Update(const Lists& lists, double rate, double weight_decay) {
  // Buffers of zeros without dampening: the first step needs no case of its own.
  at::_fused_sgd_(lists.parameters, lists.gradients,
                  lists.slots.empty() ? std::vector<at::Tensor>() : lists.slots[0], weight_decay,
                  options_.momentum, rate, /*dampening=*/0, options_.nesterov,
                  /*maximize=*/false, /*is_first_step=*/false);
}

double Schedule::LearningRate(std::int64_t step) const {
  if (step <= warmup_steps)
    return peak_rate * static_cast<double>(step) / static_cast<double>(warmup_steps);
  if (kind == Kind::kConstant) return peak_rate;
  const double length = static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup_steps));
  const double done = std::min(1.0, static_cast<double>(step - warmup_steps) / length);
  const double left =
      kind == Kind::kLinear ? 1 - done : 0.5 * (1 + std::cos(std::numbers::pi * done));
  return final_rate + (peak_rate - final_rate) * left;
}

double GradientNorm(const std::vector<at::Tensor>& parameters) {
  const c10::AutoGradMode no_grad(false);
  double sum = 0;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (!gradient.defined() || gradient.numel() == 0) continue;
    const auto type = gradient.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const double norm =
        at::linalg_vector_norm(gradient, 2, at::OptionalIntArrayRef(), false, type).item<double>();
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

void ScaleGradients(const std::vector<at::Tensor>& parameters, double factor) {
  const c10::AutoGradMode no_grad(false);
  for (const at::Tensor& parameter : parameters)
    if (parameter.grad().defined()) parameter.grad().mul_(factor);
}

std::string FirstNotFinite(const std::vector<NamedTensor>& parameters) {
  const c10::AutoGradMode no_grad(false);
  const auto finite = [](const at::Tensor& values) {
    return values.numel() == 0 || at::isfinite(values).all().item<bool>();
  };
  for (const auto& [name, tensor] : parameters)
    if (!finite(tensor)) return name;
  for (const auto& [name, tensor] : parameters)
    if (tensor.grad().defined() && !finite(tensor.grad())) return "the gradient of " + name;
  return "";
}

}  // namespace envkit

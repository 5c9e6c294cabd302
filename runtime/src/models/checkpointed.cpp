// Activation checkpointing, which LibTorch has for Python alone.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "envkit/module.h"
#include "envkit/precision.h"

namespace envkit {
namespace {

at::Generator GeneratorOf(const at::Device& device) {
  return device.is_cpu() ? at::Generator(at::detail::getDefaultCPUGenerator())
                         : at::globalContext().defaultGenerator(device);
}

// What forward depends on besides its arguments.
struct Surroundings {
  at::Device device;
  at::Tensor random_state;
  bool autocast = false;
  at::ScalarType autocast_type{};

  explicit Surroundings(const at::Device& of)
      : device(of),
        random_state(GeneratorOf(of).get_state()),
        autocast(at::autocast::is_autocast_enabled(of.type())),
        autocast_type(at::autocast::get_autocast_dtype(of.type())) {}
};

// Random numbers as they were, for a scope.
class SameRandomness {
 public:
  explicit SameRandomness(const Surroundings& then)
      : generator_(GeneratorOf(then.device)), now_(generator_.get_state()) {
    generator_.set_state(then.random_state);
  }
  ~SameRandomness() { generator_.set_state(now_); }
  SameRandomness(const SameRandomness&) = delete;
  SameRandomness& operator=(const SameRandomness&) = delete;

 private:
  at::Generator generator_;
  at::Tensor now_;
};

// Forward and its surroundings travel in a tensor's place: a holder that autograd keeps.
struct Recompute : torch::CustomClassHolder {
  Recompute(Blocks::Forward function, std::function<void()> before, const at::Device& device)
      : forward(std::move(function)), before_backward(std::move(before)), surroundings(device) {}
  Blocks::Forward forward;
  std::function<void()> before_backward;
  Surroundings surroundings;
};

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const c10::intrusive_ptr<Recompute>& recompute) {
    context->save_for_backward({input});
    context->saved_data["recompute"] = c10::IValue::make_capsule(recompute);
    const c10::AutoGradMode no_grad(false);
    // An input that is returned as it is would be autograd's own business.
    const at::Tensor output = recompute->forward(input);
    return output.is_same(input) ? output.clone() : output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto recompute =
        c10::static_intrusive_pointer_cast<Recompute>(context->saved_data["recompute"].toCapsule());
    if (recompute->before_backward) recompute->before_backward();
    const at::Tensor input = context->get_saved_variables()[0].detach().set_requires_grad(true);
    at::Tensor output;
    {
      const Surroundings& then = recompute->surroundings;
      const SameRandomness randomness(then);
      // A scope that ends: copies of weights in the narrow type must not outlive the optimizer's
      // step.
      const Autocast autocast(then.device.type(), then.autocast_type, then.autocast);
      const c10::AutoGradMode grad(true);
      output = recompute->forward(input);
    }
    torch::autograd::backward({output}, {gradients[0]});
    return {input.grad(), at::Tensor()};
  }
};

}  // namespace

at::Tensor Checkpointed(const at::Tensor& input, const Blocks::Forward& forward,
                        std::function<void()> before_backward) {
  if (!c10::GradMode::is_enabled()) return forward(input);
  TORCH_CHECK(input.requires_grad(), "Checkpointed: the input requires no grad");
  return CheckpointFunction::apply(
      input, c10::make_intrusive<Recompute>(forward, std::move(before_backward), input.device()));
}

}  // namespace envkit

// What the runtime wants to know of a model. A model is any class with `forward` and either
// `Parameters()` (as envkit's own models have) or torch::nn::Module's `named_parameters()`; state
// that is no parameter (running means) comes from `Buffers()` or `named_buffers()`.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "envkit/named_tensor.h"

namespace envkit {

template <class Model>
std::vector<NamedTensor> ParametersOf(const Model& model) {
  if constexpr (requires { model.Parameters(); }) {
    return model.Parameters();
  } else {
    std::vector<NamedTensor> parameters;
    for (const auto& item : model.named_parameters())
      parameters.push_back({item.key(), item.value()});
    return parameters;
  }
}

template <class Model>
std::vector<NamedTensor> BuffersOf(const Model& model) {
  std::vector<NamedTensor> buffers;
  if constexpr (requires { model.Buffers(); }) {
    return model.Buffers();
  } else if constexpr (requires { model.named_buffers(); }) {
    for (const auto& item : model.named_buffers()) buffers.push_back({item.key(), item.value()});
  }
  return buffers;
}

// The repeated parts of a model (a transformer's layers), each run through Run. That is where
// activation checkpointing recomputes, and where ZeRO-3 gathers and frees parameters. A model that
// has them shows them: `envkit::Blocks& blocks()`. Without, a model is one piece for both.
class Blocks {
 public:
  using Forward = std::function<at::Tensor(const at::Tensor&)>;
  using Runner = std::function<at::Tensor(std::size_t, const at::Tensor&, const Forward&)>;

  Blocks() = default;
  // PREFIXES: of the names of each block's parameters ("h.0.", "h.1."), in the order of forward.
  explicit Blocks(std::vector<std::string> prefixes) : prefixes_(std::move(prefixes)) {}

  // FORWARD may be called again in backward, so that what it captures must live until then. It must
  // use no parameter but its block's own.
  at::Tensor Run(std::size_t block, const at::Tensor& input, const Forward& forward) const {
    return runner_ ? runner_(block, input, forward) : forward(input);
  }

  const std::vector<std::string>& prefixes() const { return prefixes_; }
  void SetRunner(Runner runner) { runner_ = std::move(runner); }

 private:
  std::vector<std::string> prefixes_;
  Runner runner_;
};

// Runs FORWARD without keeping what its backward needs, and once more in backward, with the same
// random numbers and the same autocast. INPUT must require grad, or nothing is computed backward.
// BEFORE_BACKWARD, where given, is called before that second time.
at::Tensor Checkpointed(const at::Tensor& input, const Blocks::Forward& forward,
                        std::function<void()> before_backward = {});

}  // namespace envkit

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <string>

#include "envkit/failure.h"
#include "envkit/models.h"
#include "fused_convolution.h"

namespace envkit {
namespace {

constexpr std::int64_t kFirst = 32, kSecond = 64, kHidden = 128;  // channels, features

// Channels-last also in its strides where there is one channel, which contiguous() leaves as it is:
// by the strides LibTorch chooses the layout of all that follows.
at::Tensor ChannelsLast(const at::Tensor& values) {
  if (values.suggest_memory_format() == at::MemoryFormat::ChannelsLast) return values;
  return at::empty_like(values, values.options(), at::MemoryFormat::ChannelsLast).copy_(values);
}

at::Tensor Leaf(const at::Tensor& values, at::Device device) {
  const at::Tensor leaf = values.to(device);
  return (values.dim() == 4 ? ChannelsLast(leaf) : leaf).set_requires_grad(true);
}

}  // namespace

ConvNet::ConvNet(const Options& options, at::Device device) {
  if (options.rows < 4 || options.columns < 4)
    throw Failure("images of " + std::to_string(options.rows) + " x " +
                      std::to_string(options.columns) + " pixels are too small for model \"cnn\"",
                  "it needs 4 x 4 or more", 2);
  const c10::AutoGradMode no_grad(false);
  const at::Generator generator = at::detail::createCPUGenerator(options.seed);
  // He's uniform weights, which keep the variance through a ReLU; nothing added at first.
  const auto add = [&](const std::string& name, at::IntArrayRef shape, double gain) {
    std::int64_t fan_in = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) fan_in *= shape[i];
    const double bound = gain * std::sqrt(3.0 / static_cast<double>(fan_in));
    const at::Tensor weight = at::empty(shape, at::kFloat).uniform_(-bound, bound, generator);
    parameters_.push_back({name + ".weight", Leaf(weight, device)});
    parameters_.push_back({name + ".bias", Leaf(at::zeros({shape[0]}, at::kFloat), device)});
  };
  const double relu = std::sqrt(2.0);
  add("conv1", {kFirst, options.channels, 3, 3}, relu);
  add("conv2", {kFirst, kFirst, 3, 3}, relu);
  add("conv3", {kSecond, kFirst, 3, 3}, relu);
  add("conv4", {kSecond, kSecond, 3, 3}, relu);
  add("fc1", {kHidden, kSecond * (options.rows / 4) * (options.columns / 4)}, relu);
  add("fc2", {options.classes, kHidden}, 1);
}

at::Tensor ConvNet::Forward(const at::Tensor& images) const {
  const auto weight = [this](std::size_t layer) { return parameters_[2 * layer].tensor; };
  const auto bias = [this](std::size_t layer) { return parameters_[2 * layer + 1].tensor; };
  const auto linear = [&](const at::Tensor& x, std::size_t layer) {
    return at::linear(x, weight(layer), bias(layer));
  };
  at::Tensor x = ChannelsLast(images);
  for (const std::size_t layer : {0, 2}) {
    x = ConvolveRelu(x, weight(layer), bias(layer));
    x = ConvolvePoolRelu(x, weight(layer + 1), bias(layer + 1));
  }
  return linear(linear(x.flatten(1), 4).relu_(), 5);
}

std::vector<NamedTensor> ConvNet::Parameters() const { return parameters_; }

}  // namespace envkit

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <string>

#include "envkit/failure.h"
#include "envkit/models.h"

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
  const auto convolve = [this](const at::Tensor& x, std::size_t layer) {
    return at::conv2d(x, parameters_[2 * layer].tensor, parameters_[2 * layer + 1].tensor,
                      /*stride=*/1, /*padding=*/1);
  };
  // The ReLU of what was pooled is what would be pooled of the ReLU, gradients too, on a quarter of
  // the values.
  const auto pool = [](const at::Tensor& x) { return at::max_pool2d(x, 2).relu_(); };
  const auto linear = [this](const at::Tensor& x, std::size_t layer) {
    return at::linear(x, parameters_[2 * layer].tensor, parameters_[2 * layer + 1].tensor);
  };
  at::Tensor x = ChannelsLast(images);
  x = pool(convolve(convolve(x, 0).relu_(), 1));
  x = pool(convolve(convolve(x, 2).relu_(), 3));
  return linear(linear(x.flatten(1), 4).relu_(), 5);
}

std::vector<NamedTensor> ConvNet::Parameters() const { return parameters_; }

}  // namespace envkit

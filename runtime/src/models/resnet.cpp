#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "envkit/failure.h"
#include "envkit/models.h"

namespace envkit {

class ResNet::Builder {
 public:
  Builder(ResNet* net, at::Device device)
      : net_(net),
        device_(device),
        generator_(at::detail::createCPUGenerator(net->options_.seed)) {}

  // torch's names for a convolution and the batch norm behind it.
  Convolution Add(const std::string& convolution, const std::string& norm, std::int64_t in,
                  std::int64_t out, std::int64_t size, std::int64_t stride) {
    Convolution result;
    const double deviation = std::sqrt(2.0 / static_cast<double>(out * size * size));
    const at::Tensor weight =
        at::empty({out, in, size, size}, at::kFloat).normal_(0, deviation, generator_);
    result.weight = Parameter(convolution + ".weight",
                              weight.to(device_).contiguous(at::MemoryFormat::ChannelsLast));
    result.scale = Parameter(norm + ".weight", at::ones({out}).to(device_));
    result.shift = Parameter(norm + ".bias", at::zeros({out}).to(device_));
    result.mean = Buffer(norm + ".running_mean", at::zeros({out}));
    result.variance = Buffer(norm + ".running_var", at::ones({out}));
    result.batches = Buffer(norm + ".num_batches_tracked", at::zeros({}, at::kLong));
    result.stride = stride;
    result.padding = (size - 1) / 2;
    return result;
  }

  at::Tensor Parameter(const std::string& name, const at::Tensor& values) {
    net_->parameters_.push_back({name, values.set_requires_grad(true)});
    return values;
  }

  at::Tensor Uniform(at::IntArrayRef shape, double bound) {
    return at::empty(shape, at::kFloat).uniform_(-bound, bound, generator_).to(device_);
  }

 private:
  at::Tensor Buffer(const std::string& name, const at::Tensor& values) {
    net_->buffers_.push_back({name, values.to(device_)});
    return net_->buffers_.back().tensor;
  }

  ResNet* net_;
  at::Device device_;
  at::Generator generator_;
};

ResNet::ResNet(const Options& options, at::Device device) : options_(options) {
  if (options.depth != 18 && options.depth != 50)
    throw Failure("there is no ResNet-" + std::to_string(options.depth), "choose 18 or 50", 2);
  const c10::AutoGradMode no_grad(false);
  Builder builder(this, device);
  constexpr std::int64_t kFirst = 64;
  stem_ = builder.Add("conv1", "bn1", options.channels, kFirst, options.small_images ? 3 : 7,
                      options.small_images ? 1 : 2);
  const bool deep = options.depth == 50;
  const std::int64_t expansion = deep ? 4 : 1;
  const int counts[2][4] = {{2, 2, 2, 2}, {3, 4, 6, 3}};
  std::int64_t in = kFirst;
  for (int stage = 0; stage < 4; ++stage) {
    const std::int64_t width = kFirst << stage, out = width * expansion;
    for (int i = 0; i < counts[deep ? 1 : 0][stage]; ++i) {
      const std::string name = "layer" + std::to_string(stage + 1) + "." + std::to_string(i) + ".";
      const std::int64_t stride = i == 0 && stage > 0 ? 2 : 1;
      Block block;
      if (deep) {
        block.path.push_back(builder.Add(name + "conv1", name + "bn1", in, width, 1, 1));
        block.path.push_back(builder.Add(name + "conv2", name + "bn2", width, width, 3, stride));
        block.path.push_back(builder.Add(name + "conv3", name + "bn3", width, out, 1, 1));
      } else {
        block.path.push_back(builder.Add(name + "conv1", name + "bn1", in, width, 3, stride));
        block.path.push_back(builder.Add(name + "conv2", name + "bn2", width, width, 3, 1));
      }
      if (stride != 1 || in != out)
        block.shortcut.push_back(
            builder.Add(name + "downsample.0", name + "downsample.1", in, out, 1, stride));
      blocks_.push_back(std::move(block));
      in = out;
    }
  }
  const double bound = 1 / std::sqrt(static_cast<double>(in));
  fc_weight_ = builder.Parameter("fc.weight", builder.Uniform({options.classes, in}, bound));
  fc_bias_ = builder.Parameter("fc.bias", builder.Uniform({options.classes}, bound));
}

at::Tensor ResNet::Apply(const Convolution& convolution, const at::Tensor& x) const {
  if (training_) convolution.batches.add_(1);
  constexpr double kMomentum = 0.1, kEpsilon = 1e-5;
  return at::batch_norm(
      at::conv2d(x, convolution.weight, {}, convolution.stride, convolution.padding),
      convolution.scale, convolution.shift, convolution.mean, convolution.variance, training_,
      kMomentum, kEpsilon,
      /*cudnn_enabled=*/true);
}

at::Tensor ResNet::Forward(const at::Tensor& images) const {
  at::Tensor x = Apply(stem_, images.contiguous(at::MemoryFormat::ChannelsLast)).relu_();
  if (!options_.small_images) x = at::max_pool2d(x, 3, 2, 1);
  for (const Block& block : blocks_) {
    at::Tensor y = x;
    for (std::size_t i = 0; i < block.path.size(); ++i) {
      y = Apply(block.path[i], y);
      if (i + 1 < block.path.size()) y = y.relu_();
    }
    x = (y + (block.shortcut.empty() ? x : Apply(block.shortcut[0], x))).relu_();
  }
  return at::linear(at::adaptive_avg_pool2d(x, {1, 1}).flatten(1), fc_weight_, fc_bias_);
}

std::vector<NamedTensor> ResNet::Parameters() const { return parameters_; }
std::vector<NamedTensor> ResNet::Buffers() const { return buffers_; }

}  // namespace envkit

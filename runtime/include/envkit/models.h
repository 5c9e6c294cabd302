// Models as plain tensors and a forward function; names are those of an equal torch.nn module.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "envkit/named_tensor.h"

namespace envkit {

// A small convolutional classifier. Two blocks of two 3×3 convolutions, each block halving the
// image, then one hidden layer. No dropout and no batch norm: a sample's loss depends on nothing
// but the sample, so that any number of ranks has the same loss curve.
class ConvNet {
 public:
  struct Options {
    std::int64_t channels = 1, rows = 28, columns = 28, classes = 10;
    std::uint64_t seed = 0;  // of the initial weights: the same on every rank and machine
  };
  ConvNet(const Options& options, at::Device device);

  // IMAGES: float [n, channels, rows, columns], any strides; channels-last is fastest. Returns
  // logits [n, classes].
  at::Tensor Forward(const at::Tensor& images) const;
  std::vector<NamedTensor> Parameters() const;  // leaves that require grad

 private:
  std::vector<NamedTensor> parameters_;
};

}  // namespace envkit

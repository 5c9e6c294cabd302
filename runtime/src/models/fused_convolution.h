// A convolution and what follows it, each value read and written once. For models whose
// convolutions are so small that the passes between them show.
//
// Values and gradients are those of the ATen operators to the bit; a bias's gradient is the same
// sum in another order, the same for any number of threads. Only float tensors on a CPU with a
// multiple of 16 channels take this way, and not under autocast; everything else takes ATen's.
#pragma once

#include <ATen/core/Tensor.h>

namespace envkit {

// X: [n, channels, rows, columns]; WEIGHT: [out, channels, 3, 3]; BIAS: [out]; stride and
// padding 1.
at::Tensor ConvolveRelu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// The ReLU of the largest of each 2 x 2 values: [n, out, rows / 2, columns / 2].
at::Tensor ConvolvePoolRelu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace envkit

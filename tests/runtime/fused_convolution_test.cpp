// The fused convolutions beside the ATen operators that they replace.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/relu.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <vector>

#include "helpers.h"
#include "models/fused_convolution.h"

using namespace envkit;

namespace {

at::Tensor Random(at::IntArrayRef shape, std::uint64_t seed) {
  return at::empty(shape, at::kFloat).normal_(0, 1, at::detail::createCPUGenerator(seed));
}

struct Run {
  at::Tensor out;
  std::vector<at::Tensor> gradients;  // of x, weight, bias; of x undefined where none is asked for
};
using Operator = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&);

Run Apply(Operator what, const at::Tensor& images, std::int64_t channels, bool input_gradient) {
  const at::Tensor x = images.detach().clone().set_requires_grad(input_gradient);
  const at::Tensor weight = Random({channels, images.size(1), 3, 3}, 2)
                                .contiguous(at::MemoryFormat::ChannelsLast)
                                .set_requires_grad(true);
  const at::Tensor bias = Random({channels}, 3).set_requires_grad(true);
  const at::Tensor out = what(x, weight, bias);
  torch::autograd::backward({out}, {Random(out.sizes(), 4)});
  return {out.detach(), {x.grad(), weight.grad(), bias.grad()}};
}

at::Tensor PlainRelu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::conv2d(x, weight, bias, 1, 1).relu();
}
at::Tensor PlainPoolRelu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::max_pool2d(at::conv2d(x, weight, bias, 1, 1).relu(), 2);
}

}  // namespace

TEST_CASE("fused convolutions give what ATen's operators give one after the other") {
  struct Pair {
    Operator fused, plain;
  };
  for (const Pair& pair : {Pair{ConvolveRelu, PlainRelu}, Pair{ConvolvePoolRelu, PlainPoolRelu}}) {
    for (const std::int64_t channels : {16, 48, 5}) {  // 5 takes ATen's way
      for (const std::int64_t rows : {8, 9}) {         // an odd row and column is in no cell
        for (const bool input_gradient : {true, false}) {
          CAPTURE(channels);
          CAPTURE(rows);
          CAPTURE(input_gradient);
          at::Tensor images = Random({3, 2, rows, rows + 2}, 1);
          if (rows == 8) images = images.contiguous(at::MemoryFormat::ChannelsLast);
          const Run fused = Apply(pair.fused, images, channels, input_gradient);
          const Run plain = Apply(pair.plain, images, channels, input_gradient);
          CHECK(at::equal(fused.out, plain.out));
          CHECK(fused.gradients[0].defined() == input_gradient);
          if (input_gradient)
            CHECK(at::allclose(fused.gradients[0], plain.gradients[0], 1e-5, 1e-6));
          CHECK(at::allclose(fused.gradients[1], plain.gradients[1], 1e-5, 1e-5));
          CHECK(at::allclose(fused.gradients[2], plain.gradients[2], 1e-5, 1e-5));
        }
      }
    }
  }
}

TEST_CASE("fused convolutions: any number of threads has the same bits") {
  const at::Tensor images = Random({7, 16, 12, 12}, 1);
  const int before = at::get_num_threads();
  for (const Operator what : {ConvolveRelu, ConvolvePoolRelu}) {
    at::set_num_threads(1);
    const Run alone = Apply(what, images, 32, false);
    at::set_num_threads(3);
    const Run three = Apply(what, images, 32, false);
    CHECK(at::equal(alone.out, three.out));
    CHECK(at::equal(alone.gradients[2], three.gradients[2]));
  }
  at::set_num_threads(before);
}

TEST_CASE("fused convolutions pass on what is not a number, and ties go to the first") {
  at::Tensor images = Random({1, 1, 6, 6}, 1);
  images[0][0][1][1] = NAN;  // the convolution makes it all of one cell, the first of another …
  for (const Operator what : {ConvolveRelu, ConvolvePoolRelu}) {
    const Run run = Apply(what, images, 16, true);
    const Run plain = Apply(what == ConvolveRelu ? PlainRelu : PlainPoolRelu, images, 16, true);
    CHECK(at::allclose(run.out, plain.out, 0, 0, /*equal_nan=*/true));
    CHECK(at::allclose(run.gradients[2], plain.gradients[2], 1e-5, 1e-5, /*equal_nan=*/true));
    CHECK(run.out.isnan().any().item<bool>());
  }
  // All four of each cell inside are equal.
  const at::Tensor flat = at::ones_like(images);
  const Run run = Apply(ConvolvePoolRelu, flat, 16, true);
  const Run plain = Apply(PlainPoolRelu, flat, 16, true);
  CHECK(at::allclose(run.gradients[0], plain.gradients[0], 1e-5, 1e-6));
}

TEST_CASE("under autocast a fused convolution is ATen's, in the narrow type") {
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const at::Tensor x = Random({1, 1, 4, 4}, 1), weight = Random({16, 1, 3, 3}, 2);
  const at::Tensor out = ConvolvePoolRelu(x, weight, Random({16}, 3));
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  CHECK((out.scalar_type() == at::kBFloat16));
}

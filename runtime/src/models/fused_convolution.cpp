#include "fused_convolution.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

// Compiled for each kind of vector unit, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ENVKIT_VECTORISED __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define ENVKIT_VECTORISED
#endif

namespace envkit {
namespace {

// Channels are next to each other (channels-last): the inner loops go over them, so the compiler
// vectorises them, and the order of a sum does not depend on how wide the machine's vectors are.
constexpr std::int64_t kLanes = 16;
constexpr std::uint8_t kNowhere = 4;  // the largest of a cell was not above 0: no gradient

struct Shape {
  std::int64_t rows, columns, channels;
  std::int64_t Image() const { return rows * columns * channels; }
};
Shape ShapeOf(const at::Tensor& x) { return {x.size(2), x.size(3), x.size(1)}; }

// OUT = GRADIENT, which may be the same memory, where Y, one image of what a ReLU gave, is above 0.
// SUMS: of OUT, by channel.
ENVKIT_VECTORISED void MaskImage(const float* __restrict y, const float* gradient, float* out,
                                 float* __restrict sums, std::int64_t pixels,
                                 std::int64_t channels) {
  std::memset(sums, 0, static_cast<std::size_t>(channels) * sizeof(float));
  for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
#pragma GCC ivdep
    for (std::int64_t c = 0; c < channels; ++c) {
      const float passed = y[c] <= 0 ? 0.0F : gradient[c];  // NaN passes, as ATen has it
      out[c] = passed;
      sums[c] += passed;
    }
    y += channels;
    gradient += channels;
    out += channels;
  }
}

// One image: OUT[cell] = ReLU of the largest of X's 2 x 2 values, WHERE[cell] which of them it was.
ENVKIT_VECTORISED void PoolImage(const float* x, float* __restrict out,
                                 std::uint8_t* __restrict where, std::int64_t rows,
                                 std::int64_t columns, std::int64_t channels) {
  const std::int64_t line = columns * channels;
  for (std::int64_t row = 0; row + 1 < rows; row += 2) {
    for (std::int64_t column = 0; column + 1 < columns; column += 2) {
      const float* const first = x + row * line + column * channels;
      const float* const second = first + channels;
      const float* const third = first + line;
      const float* const fourth = third + channels;
      for (std::int64_t c = 0; c < channels; ++c) {
        float largest = first[c];
        int which = 0;
        // What is not a number is passed on, as ATen does.
        const auto consider = [&](float value, int corner) {
          const bool larger = (value > largest) | (value != value);
          largest = larger ? value : largest;
          which = larger ? corner : which;
        };
        consider(second[c], 1);
        consider(third[c], 2);
        consider(fourth[c], 3);
        const bool cut = largest <= 0;
        out[c] = cut ? 0.0F : largest;
        where[c] = static_cast<std::uint8_t>(cut ? kNowhere : which);
      }
      out += channels;
      where += channels;
    }
  }
}

// The other way: GRADIENT goes where the largest value was, zeros elsewhere. SUMS: by channel.
ENVKIT_VECTORISED void UnpoolImage(const float* __restrict gradient,
                                   const std::uint8_t* __restrict where, float* __restrict out,
                                   float* __restrict sums, std::int64_t rows, std::int64_t columns,
                                   std::int64_t channels) {
  const std::int64_t line = columns * channels;
  std::memset(sums, 0, static_cast<std::size_t>(channels) * sizeof(float));
  // The last row or column of an odd number is in no cell.
  if (rows % 2 != 0 || columns % 2 != 0)
    std::memset(out, 0, static_cast<std::size_t>(rows * line) * sizeof(float));
  for (std::int64_t row = 0; row + 1 < rows; row += 2) {
    for (std::int64_t column = 0; column + 1 < columns; column += 2) {
      float* const cell = out + row * line + column * channels;
      for (int corner = 0; corner < 4; ++corner) {
        float* const to = cell + (corner / 2) * line + (corner % 2) * channels;
        for (std::int64_t c = 0; c < channels; ++c) to[c] = where[c] == corner ? gradient[c] : 0.0F;
      }
      for (std::int64_t c = 0; c < channels; ++c)
        sums[c] += where[c] == kNowhere ? 0.0F : gradient[c];
      gradient += channels;
      where += channels;
    }
  }
}

// DO(n, sums of image n) for all images; returns the sums of all.
template <typename Do>
at::Tensor SumOverImages(std::int64_t images, std::int64_t channels, const Do& work) {
  std::vector<float> sums(static_cast<std::size_t>(images * channels));
  at::parallel_for(0, images, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) work(n, sums.data() + n * channels);
  });
  at::Tensor total = at::empty({channels}, at::kFloat);
  for (std::int64_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (std::int64_t n = 0; n < images; ++n)
      sum += static_cast<double>(sums[static_cast<std::size_t>(n * channels + c)]);
    total.data_ptr<float>()[c] = static_cast<float>(sum);
  }
  return total;
}

at::Tensor ChannelsLastOf(const at::Tensor& x) {
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor Convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::conv2d(x, weight, bias, /*stride=*/1, /*padding=*/1);
}

// Gradients of input, weight and bias, of which the last is known.
torch::autograd::variable_list Backward(torch::autograd::AutogradContext* context,
                                        const at::Tensor& gradient, const at::Tensor& x,
                                        const at::Tensor& weight, at::Tensor bias) {
  auto [input, weights, ignored] = at::convolution_backward(
      gradient, x, weight, /*bias_sizes=*/std::nullopt, /*stride=*/{1, 1}, /*padding=*/{1, 1},
      /*dilation=*/{1, 1}, /*transposed=*/false, /*output_padding=*/{0, 0}, /*groups=*/1,
      {context->needs_input_grad(0), true, false});
  return {std::move(input), std::move(weights), std::move(bias)};
}

struct ConvolveReluFunction : torch::autograd::Function<ConvolveReluFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias) {
    at::Tensor y = ChannelsLastOf(Convolve(x, weight, bias)).relu_();
    context->save_for_backward({x, weight, y});
    return y;
  }

  // By reference: a copy of the list would be somebody else who sees the gradient.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& y = saved[2];
    at::Tensor gradient = std::move(gradients[0]);
    gradient = ChannelsLastOf(gradient);
    // Where nobody else sees it, it need not be kept: memory is what this loop waits for.
    const bool ours = gradient.use_count() == 1 && gradient.storage().use_count() == 1;
    const at::Tensor passed = ours ? gradient : at::empty_like(y);
    const Shape shape = ShapeOf(y);
    at::Tensor bias = SumOverImages(y.size(0), shape.channels, [&](std::int64_t n, float* sums) {
      const std::int64_t at = n * shape.Image();
      MaskImage(y.const_data_ptr<float>() + at, gradient.const_data_ptr<float>() + at,
                passed.data_ptr<float>() + at, sums, shape.rows * shape.columns, shape.channels);
    });
    return Backward(context, passed, saved[0], saved[1], std::move(bias));
  }
};

struct ConvolvePoolReluFunction : torch::autograd::Function<ConvolvePoolReluFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias) {
    const at::Tensor whole = ChannelsLastOf(Convolve(x, weight, bias));
    const Shape shape = ShapeOf(whole);
    const std::int64_t images = whole.size(0), rows = shape.rows / 2, columns = shape.columns / 2;
    const at::Tensor out = at::empty({images, shape.channels, rows, columns}, whole.options(),
                                     at::MemoryFormat::ChannelsLast);
    const at::Tensor where = at::empty({images, rows, columns, shape.channels}, at::kByte);
    const std::int64_t pooled = rows * columns * shape.channels;
    at::parallel_for(0, images, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n)
        PoolImage(whole.const_data_ptr<float>() + n * shape.Image(),
                  out.data_ptr<float>() + n * pooled, where.data_ptr<std::uint8_t>() + n * pooled,
                  shape.rows, shape.columns, shape.channels);
    });
    context->save_for_backward({x, weight, where});
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &where = saved[2];
    const at::Tensor gradient = ChannelsLastOf(gradients[0]);
    const Shape shape{x.size(2), x.size(3), where.size(3)};
    const std::int64_t images = x.size(0);
    const at::Tensor whole = at::empty({images, shape.channels, shape.rows, shape.columns},
                                       gradient.options(), at::MemoryFormat::ChannelsLast);
    const std::int64_t pooled = where.size(1) * where.size(2) * shape.channels;
    at::Tensor bias = SumOverImages(images, shape.channels, [&](std::int64_t n, float* sums) {
      UnpoolImage(gradient.const_data_ptr<float>() + n * pooled,
                  where.const_data_ptr<std::uint8_t>() + n * pooled,
                  whole.data_ptr<float>() + n * shape.Image(), sums, shape.rows, shape.columns,
                  shape.channels);
    });
    return Backward(context, whole, x, saved[1], std::move(bias));
  }
};

bool Fusible(const at::Tensor& x, const at::Tensor& weight) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
         weight.size(0) % kLanes == 0 && !at::autocast::is_autocast_enabled(at::kCPU);
}

}  // namespace

at::Tensor ConvolveRelu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!Fusible(x, weight)) return Convolve(x, weight, bias).relu_();
  return ConvolveReluFunction::apply(x, weight, bias);
}

at::Tensor ConvolvePoolRelu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  // The ReLU of what was pooled is what would be pooled of the ReLU, gradients too, on a quarter of
  // the values.
  if (!Fusible(x, weight)) return at::max_pool2d(Convolve(x, weight, bias), 2).relu_();
  return ConvolvePoolReluFunction::apply(x, weight, bias);
}

}  // namespace envkit

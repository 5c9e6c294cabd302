// A tensor and the name under which checkpoints keep it ("conv1.weight").
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace envkit {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

// Elements [begin, end) of tensor NAME in row-major order.
struct Slice {
  std::string name;
  std::vector<std::int64_t> shape;  // of the whole tensor
  std::int64_t begin = 0, end = 0;
  at::Tensor values;  // [end - begin]; or, where it is the whole, the tensor as it is
};

}  // namespace envkit

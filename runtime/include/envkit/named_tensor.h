// A tensor and the name under which checkpoints keep it ("conv1.weight").
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace envkit {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

}  // namespace envkit

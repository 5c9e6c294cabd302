// Mixed precision: autocast for a scope, and the gradient scaler that fp16 needs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace envkit {

// While it lives, operators on tensors of DEVICE compute in TYPE where that is safe. Of this
// thread; may be nested.
class Autocast {
 public:
  Autocast(at::DeviceType device, at::ScalarType type, bool enabled = true);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  at::DeviceType device_;
  bool was_enabled_;
  at::ScalarType was_type_;
};

// fp32 matrix products of GPUs in TF32: ten bits of mantissa, several times the speed.
void AllowTf32(bool allow);

// Losses are multiplied by scale() before backward, so that small fp16 gradients do not vanish, and
// gradients divided by it before the step. Halved when a gradient overflows, doubled after many
// steps without.
class GradScaler {
 public:
  double scale() const { return scale_; }
  // Local. Divides the gradients of PARAMETERS by scale() where they are. Returns whether all were
  // finite.
  bool Unscale(const std::vector<at::Tensor>& parameters) const;
  void Update(bool finite);  // after each step, taken (FINITE) or skipped

  struct State {
    double scale = 65536;
    std::int64_t steps_without_overflow = 0;
  };
  State state() const { return {scale_, steps_}; }
  void SetState(const State& state) { scale_ = state.scale, steps_ = state.steps_without_overflow; }

 private:
  double scale_ = 65536;
  std::int64_t steps_ = 0;
};

}  // namespace envkit

#include "envkit/precision.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace envkit {

Autocast::Autocast(at::DeviceType device, at::ScalarType type, bool enabled)
    : device_(device),
      was_enabled_(at::autocast::is_autocast_enabled(device)),
      was_type_(at::autocast::get_autocast_dtype(device)) {
  at::autocast::increment_nesting();
  at::autocast::set_autocast_enabled(device, enabled);
  if (enabled) at::autocast::set_autocast_dtype(device, type);
}

Autocast::~Autocast() {
  // Copies of weights in the narrow type are kept until the outermost scope ends.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, was_type_);
}

void AllowTf32(bool allow) {
  at::globalContext().setFloat32MatmulPrecision(allow ? "high" : "highest");
}

bool GradScaler::Unscale(const std::vector<at::Tensor>& parameters) const {
  const c10::AutoGradMode no_grad(false);
  // One list a device and type, as the operator wants it.
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters)
    if (parameter.grad().defined() && parameter.grad().numel() > 0)
      gradients.push_back(parameter.grad());
  bool finite = true;
  while (!gradients.empty()) {
    const at::Tensor first = gradients.front();
    const auto same =
        std::stable_partition(gradients.begin(), gradients.end(), [&](const at::Tensor& each) {
          return each.device() != first.device() || each.scalar_type() != first.scalar_type();
        });
    const std::vector<at::Tensor> list(same, gradients.end());
    gradients.erase(same, gradients.end());
    const auto options = first.options().dtype(at::kFloat);
    at::Tensor found = at::zeros({1}, options);
    at::_amp_foreach_non_finite_check_and_unscale_(list, found, at::full({1}, 1 / scale_, options));
    finite = finite && found.item<float>() == 0;
  }
  return finite;
}

void GradScaler::Update(bool finite) {
  constexpr std::int64_t kGrowAfter = 2000;
  if (!finite) {
    scale_ /= 2;
    steps_ = 0;
  } else if (++steps_ == kGrowAfter) {
    scale_ *= 2;
    steps_ = 0;
  }
}

}  // namespace envkit

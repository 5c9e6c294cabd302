// ElementType as LibTorch's.
#pragma once

#include <c10/core/ScalarType.h>

#include "element_type.h"

namespace envkit {

constexpr at::ScalarType ScalarTypeOf(ElementType type) {
  constexpr at::ScalarType kTypes[] = {at::kDouble, at::kFloat, at::kHalf,  at::kBFloat16,
                                       at::kLong,   at::kInt,   at::kShort, at::kChar,
                                       at::kByte,   at::kBool};
  return kTypes[static_cast<std::size_t>(type)];
}

}  // namespace envkit

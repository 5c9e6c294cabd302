#include "envkit/seed.h"

#include <ATen/Context.h>

namespace envkit {

void set_seed(std::uint64_t seed, int rank) {
  // Seeds that are far apart: those of neighbouring ranks and seeds must not meet.
  at::manual_seed(seed + static_cast<std::uint64_t>(rank) * 0x9e3779b97f4a7c15);
}

}  // namespace envkit

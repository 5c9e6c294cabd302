#pragma once

#include <cstdint>

namespace envkit {

// Accelerate's set_seed: what LibTorch draws from now on, on the CPU and on all GPUs, depends on
// SEED and RANK alone. With the same RANK everywhere all ranks draw the same: dropout wants their
// own, initial weights the same. Data has seeds of its own (DataLoaderOptions). Call it after the
// Accelerator was made: what asks for GPUs before their half is loaded finds none for the rest of
// the process.
void set_seed(std::uint64_t seed, int rank = 0);

}  // namespace envkit

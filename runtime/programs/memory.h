// What to do when there is not enough memory, of a GPU or of the host.
#pragma once

#include <exception>
#include <string>

#include "config.h"

namespace envkit {

// Whether ERROR is LibTorch's, of a GPU or of the host, or the language's own.
bool IsOutOfMemory(const std::exception& error);

// ERROR in a line, and as its next step the settings that need less, those first that change
// nothing else. WORLD_SIZE ranks have run CONFIG.
Error OutOfMemory(const std::exception& error, const TrainConfig& config, int world_size);

}  // namespace envkit

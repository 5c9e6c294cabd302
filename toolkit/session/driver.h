// This machine's driver and the version matrix: `run`, `build`, `lock` and `init` ask here.
#pragma once

#include <string>

#include "base/result.h"
#include "host/facts.h"
#include "matrix/judge.h"
#include "project/lock.h"

namespace envkit {

// The version matrix that is part of envkit.
Result<Matrix> OwnMatrix();

// What the matrix needs to know. A version that cannot be read is no driver: nothing is guessed.
Machine MachineOf(const HostFacts& facts);

// kMissing where this machine's driver is too old for the CUDA that LOCK's images hold, with what
// does run here.
Result<void> CheckDriver(const Lock& lock, const Machine& machine, const Matrix& matrix);
// The same with envkit's own matrix, which is read only where there is a driver.
Result<void> CheckDriver(const Lock& lock, const HostFacts& facts);

}  // namespace envkit

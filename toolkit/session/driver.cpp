#include "session/driver.h"

#include <fmt/format.h>

#include "image/recipe.h"
#include "matrix/advise.h"

namespace envkit {

Result<Matrix> OwnMatrix() {
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  return LoadMatrix(share / "images");
}

Machine MachineOf(const HostFacts& facts) {
  Machine machine;
  if (facts.kernel_module && IsVersion(*facts.kernel_module)) machine.driver = facts.kernel_module;
  return machine;
}

Result<void> CheckDriver(const Lock& lock, const Machine& machine, const Matrix& matrix) {
  const auto advice = AdviseOnDriver(matrix, lock.cuda, lock.python, machine);
  if (!advice) return {};
  return Missing(
      fmt::format("the image for GPUs does not run here: {}", advice->what),
      advice->next +
          "\nA change of envkit.toml needs: envkit lock. On the CPU it runs with --variant cpu.");
}

Result<void> CheckDriver(const Lock& lock, const HostFacts& facts) {
  const Machine machine = MachineOf(facts);
  if (!machine.driver) return {};
  ENVKIT_TRY(const Matrix matrix, OwnMatrix());
  return CheckDriver(lock, machine, matrix);
}

}  // namespace envkit

#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "envkit/distributed.h"
#include "shared_memory.h"

namespace envkit {

struct Communicator::State {
  RankInfo ranks;
  at::Device device{at::kCPU};
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroup> group;  // null with one rank
  std::unique_ptr<SharedMemory> shared;  // between the ranks of this host; null: there is none
  int hosts = 1;
  // With several hosts and shared memory: the first rank of each. Null on the others.
  c10::intrusive_ptr<c10d::ProcessGroup> leaders;
  double seconds = 0;  // spent in collective calls

  SharedMemory* OneHost() const { return hosts == 1 ? shared.get() : nullptr; }
  // Collective, where there is shared memory: in place, the sum over ranks times SCALE. TENSOR:
  // fp32 or fp64, dense, on the CPU. In a host through shared memory; between hosts the first rank
  // of each sums, in the type NARROW where one is given.
  void Reduce(const at::Tensor& tensor, double scale,
              std::optional<at::ScalarType> narrow = std::nullopt);

  // Gloo between COUNT ranks of which this is the one with INDEX; they meet under PREFIX.
  using MakeGloo =
      std::function<c10::intrusive_ptr<c10d::Backend>(const char* prefix, int index, int count)>;
  // Collective. Fills in SHARED, HOSTS and LEADERS of the communicator's state.
  static void ShareMemory(Communicator& communicator, std::chrono::seconds timeout,
                          const MakeGloo& make_gloo);
};

// Adds the time of its scope.
class Stopwatch {
 public:
  explicit Stopwatch(double* seconds) : seconds_(seconds) {}
  ~Stopwatch() {
    *seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double* seconds_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace envkit

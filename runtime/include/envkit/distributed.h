// Ranks: who takes part, how they reach each other, and data-parallel training.
//
//   const RankInfo ranks = RankInfoFromEnvironment();
//   const at::Device device = SelectDevice("auto", ranks.local_rank);
//   auto communicator = Communicator::Connect(ranks, device);
//   DataParallel parallel(communicator, model.Parameters());
//   for (…) {
//     parallel.BeforeForward();
//     at::Tensor loss = …;
//     parallel.Backward(loss);      // gradients are now the mean over all ranks
//     optimizer.Step(…); optimizer.ZeroGrad();
//   }
//
// Collective calls must be made by every rank, in the same order. Nothing here is thread-safe.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "envkit/named_tensor.h"

namespace c10d {
class ProcessGroup;
}

namespace envkit {

struct RankInfo {
  int rank = 0, world_size = 1;
  int local_rank = 0, local_world_size = 1;  // on this host
  std::string master_address = "127.0.0.1";  // where rank 0 keeps the store
  int master_port = 0;
};

// torchrun's variables: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
// None of them set: one rank alone. Throws Failure (exit code 2) when they contradict each other.
RankInfo RankInfoFromEnvironment();

// "auto": the GPU with index LOCAL_RANK where the machine has GPUs, else the CPU. "cuda" and "cpu"
// insist. Loads libenvkit_cuda.so, which lies beside this library, when a GPU is used. Call it
// before anything else of LibTorch: an earlier backward would fix the CPU-only state for good.
// A GPU that is there and cannot be used is a Failure (exit code 3), never a reason to use the CPU.
at::Device SelectDevice(const std::string& wanted, int local_rank);

struct CommunicatorOptions {
  std::chrono::seconds timeout{300};  // for connecting, and for any one collective call
  bool shared_memory = true;          // between ranks of one host, where the system has it
};

class Communicator {
 public:
  // Collective. Rank 0 listens on MASTER_PORT; Gloo carries CPU tensors, NCCL those of a GPU. One
  // rank alone opens no socket. Throws Failure (exit code 1) when the ranks do not find each other.
  static std::shared_ptr<Communicator> Connect(const RankInfo& ranks, at::Device device,
                                               const CommunicatorOptions& options = {});
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const RankInfo& ranks() const;
  at::Device device() const;
  bool is_main() const { return ranks().rank == 0; }
  // Seconds that this rank has spent in collective calls, those of DataParallel's backward
  // included.
  double Seconds() const;
  // How gradients travel: "one rank", "shared memory", "gloo", "nccl", or with several hosts
  // "shared memory and gloo": one rank of each host speaks for it.
  std::string Transport() const;

  // Collective, all of these.
  void AllReduceSum(
      std::span<double> values);  // summed in the order of ranks: the same bits on all
  // In place, over Gloo or NCCL, never through shared memory. TENSOR is on device().
  void AllReduceTensor(const at::Tensor& tensor);
  // In place, summed; the fastest way there is. TENSOR: dense, on device().
  void AllReduceSum(const at::Tensor& tensor);
  void Barrier();
  std::string Broadcast(const std::string& text);            // rank 0's text, on every rank
  std::vector<std::string> Gather(const std::string& text);  // every rank's text, on every rank
  void Broadcast(const std::vector<at::Tensor>& tensors,     // in place, the contents of rank
                 int root = 0);                              // ROOT
  // SHARD: contiguous, n elements. FULL: contiguous, world_size * n, by rank; of the same type.
  void AllGather(const at::Tensor& shard, const at::Tensor& full);
  // The same in the background: FULL is whole once Wait of what is returned has returned.
  class Pending {
   public:
    void Wait() {
      if (wait_) std::exchange(wait_, {})();
    }

   private:
    friend class Communicator;
    std::function<void()> wait_;
  };
  Pending StartAllGather(const at::Tensor& shard, const at::Tensor& full);
  // This rank's part of the sum over ranks. FULL and SHARD as in AllGather.
  void ReduceScatterSum(const at::Tensor& full, const at::Tensor& shard);

 private:
  friend class DataParallel;
  struct State;
  explicit Communicator(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct DataParallelOptions {
  std::int64_t bucket_bytes = 25 << 20, first_bucket_bytes = 1 << 20;
  bool find_unused_parameters = false;
  // The type in which fp32 and fp64 gradients travel: bf16 or fp16 halves what goes through a
  // network, for about 3 digits. Within a host, shared memory carries them as they are.
  std::optional<at::ScalarType> compression = std::nullopt;
};

// Averages gradients over all ranks during backward (c10d::Reducer). With one rank it does nothing.
class DataParallel {
 public:
  // Collective. Checks that every rank has the same parameters, and gives all of them rank 0's
  // values. Throws c10::Error when the shapes differ.
  DataParallel(std::shared_ptr<Communicator> communicator,
               const std::vector<NamedTensor>& parameters, const DataParallelOptions& options = {});
  ~DataParallel();

  // Collective. Before each forward whose gradients Backward will average.
  void BeforeForward();
  // Before a backward whose gradients are to be averaged. Left out (and BeforeForward before it), a
  // backward adds to this rank's own gradients, which the next averaging one takes along.
  void BeforeBackward();
  // Collective. LOSS: a scalar, the mean over this rank's samples. Equal shards give the gradient
  // of the mean over the global batch. Gradients accumulate until zeroed in place.
  void Backward(const at::Tensor& loss);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace envkit

#pragma once

#include <memory>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "envkit/distributed.h"
#include "shared_memory.h"

namespace envkit {

struct Communicator::State {
  RankInfo ranks;
  at::Device device{at::kCPU};
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::ProcessGroup> group;  // null with one rank
  std::unique_ptr<SharedMemory> shared;          // null across hosts, and where there is none
};

}  // namespace envkit

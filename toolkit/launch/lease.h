// One training job for each GPU of this machine: two on one GPU slow each other down or run out of
// memory, and neither says why.
//
// A lease is a flock on a file named after the GPU, which the kernel gives back when the last
// process of the launch ends, whatever ended it. The file's text says who has it; it is there for
// people alone. Whoever may write the directory may take a lease: it guards against accidents.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "launch/process.h"

namespace envkit {

struct LeasePlan {
  std::filesystem::path directory;  // of all users of this machine; empty: no leases
  std::vector<std::pair<std::string, std::string>>
      gpus;            // key (PCI address, UUID), name for people
  bool share = false;  // others may have the same GPUs, and so may we
  std::string holder;  // what others are told of us: "python3 train.py"
};

struct Leases {
  std::vector<Fd> held;
  std::vector<std::string> notes;
};

// /run/lock, or where that cannot be written /tmp: the same for all users. ENVKIT_LOCK_DIR names
// another, such as one that containers of one machine share.
std::filesystem::path LeaseDirectory(const char* named);

// kMissing where another launch has one of the GPUs, with its pid, command and time.
Result<Leases> TakeLeases(const LeasePlan& plan);

}  // namespace envkit

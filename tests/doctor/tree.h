// A machine as one text file: what is in its tree, and what the doctor says of it.
//
//   @base server                      begin with another case's tree
//   @file proc/driver/nvidia/version  the lines until the next "@" are its content
//   @link lib/libcuda.so.1 libcuda.so.580.95.05
//   @gone usr/bin/nvidia-ctk
//   @set .envkit/nvml.json /gpus/0/name "NVIDIA A100"     a value in a JSON file
//   @report                           the rest is the report, to the letter
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "matrix/matrix.h"

namespace envkit {

// The matrix that comes with envkit.
const Result<Matrix>& OwnMatrix();

struct Case {
  std::string name, report, setup;  // setup: everything before @report
};
std::filesystem::path CaseDirectory();
std::vector<std::string> CaseNames();
Case LoadCase(const std::string& name);
void WriteCase(const Case& machine);

// Makes the tree of NAME, bases first, below DIRECTORY.
void MakeTree(const std::string& name, const std::filesystem::path& directory);

}  // namespace envkit

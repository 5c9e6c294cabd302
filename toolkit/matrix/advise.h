// Answers with a way out: does this combination exist and fit, and what is the nearest that does.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "matrix/judge.h"

namespace envkit {

// Empty fields ask for nothing. TORCH is a line ("2.15") or a release.
struct Question {
  std::string torch, cuda, python;
  Machine machine;
};

enum class Fit {
  kFits,
  kNever,    // no such build was ever made
  kUnknown,  // the matrix cannot say
  kPython,   // none for this Python
  kMachine,  // the GPU and the driver do not fit each other
  kDriver,
  kGpu
};
std::string FitName(Fit fit);  // "fits", "never-existed", "unknown", "python", …

struct Judgement {
  Fit fit = Fit::kFits;
  const TorchBuild* build = nullptr;  // that was asked for, where there is one
  std::string what;                   // one sentence without a full stop
  std::string next;                   // what to do, some lines; empty where it fits
  // Of the same torch where one fits, else the nearest torch that the default index serves.
  const TorchBuild* nearest = nullptr;
  const TorchBuild* nearest_served = nullptr;  // the nearest on the default index
};
Judgement Judge(const Matrix& matrix, const Question& question);

// What [environment] asks, and where it is to be resolved.
struct EnvironmentQuestion {
  std::string torch, cuda, python;  // as in envkit.toml
  bool other_indexes = false;       // the default index is not the only one, or not the one
};
struct EnvironmentProblem {
  std::string key;  // of [environment], which is to change
  std::string what, next;
};
// Before anything is resolved. What the matrix does not know is no problem: the index will tell.
// MACHINE counts with cuda = "auto" alone, since a lock is for every machine.
std::optional<EnvironmentProblem> CheckEnvironment(const Matrix& matrix,
                                                   const EnvironmentQuestion& question,
                                                   const Machine& machine);

// Why an image for CUDA does not run on MACHINE; nullopt where it does.
struct DriverAdvice {
  std::string what, next;
};
std::optional<DriverAdvice> AdviseOnDriver(const Matrix& matrix, const std::string& cuda,
                                           const std::string& python, const Machine& machine);

}  // namespace envkit

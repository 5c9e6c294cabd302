// What every function of the runtime throws when something outside the program is wrong: a file,
// an environment variable, a peer. Wrong use of the library itself (a tensor of the wrong shape)
// throws c10::Error, as LibTorch does.
#pragma once

#include <stdexcept>
#include <string>

namespace envkit {

class Failure : public std::runtime_error {
 public:
  // WHAT happened, in one or more lines; NEXT is what the user can do, or empty. EXIT_CODE as in
  // docs/architecture.md: 1 failed, 2 wrong usage, 3 something needed is missing.
  explicit Failure(const std::string& what, std::string next = "", int exit_code = 1)
      : std::runtime_error(what), next_(std::move(next)), exit_code_(exit_code) {}

  const std::string& next() const { return next_; }
  int exit_code() const { return exit_code_; }

 private:
  std::string next_;
  int exit_code_;
};

}  // namespace envkit

// `envkit verify`: proof that an image is what its lock says, that it loads what it should, and
// that ranks can compute together in it on this machine.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/check.h"
#include "image/image.h"

namespace envkit {

struct VerifyRequest {
  std::string image;  // a digest or a tag of the store; empty: the project's, for its job "train"
  std::string profile, variant, engine = "auto";
  bool quick = false, repair = false;
  bool running = false;              // instead: what runs
  std::string container;             // of those, this one; empty: all
  std::filesystem::path provenance;  // a statement to hold against the image
  std::string key;                   // whose signature it must have
  std::string envkit_version;
};

struct VerifyReport {
  Image image;  // empty with `running`
  std::string engine;
  std::vector<Check> checks;
  std::vector<std::string> gpus;  // that took part; empty: no GPU was checked
  std::string bandwidth;
  double seconds = 0;
};

// "gpu-pass" and "cpu-only-pass" are different words, so that nobody takes one for the other.
// "incomplete": nothing failed, and something could not be looked at. "running-pass": what runs is
// what was built.
std::string VerdictOf(const VerifyReport& report);
int ExitCodeOf(const VerifyReport& report);

Result<VerifyReport> Verify(const std::filesystem::path& directory, const VerifyRequest& request,
                            Terminal& terminal);

nlohmann::ordered_json VerifyToJson(const VerifyReport& report);  // docs/schemas/verify.json
void PrintVerify(const VerifyReport& report, Terminal& terminal);

}  // namespace envkit

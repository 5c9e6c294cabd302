// A rule is a pure function from facts to an outcome, and says which other findings explain it
// away.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "doctor/facts.h"
#include "matrix/matrix.h"

namespace envkit::doctor {

enum class Severity { kFail, kWarn, kInfo };

struct Evidence {
  std::string what, value, source;
};
// A command, or words; with both, the words say when ("or, with nothing using the GPUs").
struct Remedy {
  std::string run, say;
};

struct Outcome {
  enum class State { kPass, kFound, kNotApplicable, kUnknown };
  State state = State::kPass;
  std::string because;  // for the last two

  Severity severity = Severity::kInfo;  // the rest for kFound
  std::string title;
  std::vector<Evidence> evidence;
  std::string cause;
  std::vector<Remedy> remedies;

  Outcome& Show(std::string what, std::string value, std::string source) {
    evidence.push_back({std::move(what), std::move(value), std::move(source)});
    return *this;
  }
  Outcome& Show(std::string what, const Text& fact) {
    return Show(std::move(what), fact ? *fact : "none", fact.from);
  }
  Outcome& Why(std::string text) {
    cause = std::move(text);
    return *this;
  }
  Outcome& Run(std::string command, std::string when = "") {
    if (!command.empty()) remedies.push_back({std::move(command), std::move(when)});
    return *this;
  }
  Outcome& Say(std::string text) {
    remedies.push_back({"", std::move(text)});
    return *this;
  }
};

inline Outcome Pass() { return {}; }
inline Outcome NotApplicable(std::string because) {
  Outcome outcome;
  outcome.state = Outcome::State::kNotApplicable;
  outcome.because = std::move(because);
  return outcome;
}
inline Outcome Unknown(std::string because) {
  Outcome outcome = NotApplicable(std::move(because));
  outcome.state = Outcome::State::kUnknown;
  return outcome;
}
inline Outcome Found(Severity severity, std::string title) {
  Outcome outcome;
  outcome.state = Outcome::State::kFound;
  outcome.severity = severity;
  outcome.title = std::move(title);
  return outcome;
}

// A rule asks the facts alone, or the version matrix too: then it is unknown where there is none.
class Check {
 public:
  using OfFacts = Outcome (*)(const Facts&);
  using OfMatrix = Outcome (*)(const Facts&, const Matrix&);
  Check(OfFacts check) : of_facts_(check) {}
  Check(OfMatrix check) : of_matrix_(check) {}
  Outcome operator()(const Facts& facts, const Result<Matrix>& matrix) const;

 private:
  OfFacts of_facts_ = nullptr;
  OfMatrix of_matrix_ = nullptr;
};

struct Rule {
  std::string id;
  std::string subject;  // what is so when it passes: "kernel module and libraries agree"
  std::string story;    // for `doctor explain ID`: what it looks at, why, what users see
  std::vector<std::string> follows_from;  // their findings explain this one
  Check check;
};

// The whole table, in the order of the report.
const std::vector<Rule>& AllRules();
const Rule* FindRule(std::string_view id);  // in any case of letters

std::vector<Rule> DriverRules();
std::vector<Rule> GpuRules();
std::vector<Rule> EngineRules();
std::vector<Rule> ImageRules();
std::vector<Rule> RunRules();

// What rules share.
inline const char kNoGpu[] = "no NVIDIA GPU";
bool IsGpuNode(std::string_view path);  // /dev/nvidia0, not /dev/nvidiactl
bool HasGpu(const Facts& facts);
bool OnWsl(const Facts& facts);
// Why NVML's figures are not to be had; "" where they are.
std::string WithoutNvml(const Facts& facts);
std::string GpuName(const Gpu& gpu);  // "GPU 0 (NVIDIA H100)"
// What a variable of the user's environment holds; nullptr: it is not set.
const std::string* FindVariable(const Facts& facts, const char* name);
// The driver's version, of whatever tells it.
std::string DriverVersion(const Facts& facts);
std::string GiB(std::int64_t bytes);

enum class Family { kDebian, kUbuntu, kRedHat, kSuse, kArch, kOther };
Family FamilyOf(const SystemFacts& system);
struct Packages {
  std::string apt, dnf, zypper, pacman;
};
// "sudo apt-get install …" for this distribution; "" where it has none of that name.
std::string Install(const Facts& facts, const Packages& packages);
std::string InstallDriver(const Facts& facts, bool open);
std::string InstallToolkit(const Facts& facts);
std::string InstallHeaders(const Facts& facts);
std::string RebuildInitramfs(const Facts& facts);

}  // namespace envkit::doctor

#include "doctor/diagnose.h"

#include <algorithm>
#include <map>
#include <set>

namespace envkit::doctor {
namespace {

using FindingById = std::map<std::string, Finding>;

// The finding that explains ID and is not explained itself; "" where there is none. An explanation
// must be as bad as what it explains: a note for information is no cause of a failure.
std::string RootOf(const std::string& id, const FindingById& found, std::set<std::string>& seen) {
  const Finding& finding = found.at(id);
  for (const std::string& cause : finding.rule->follows_from) {
    const auto other = found.find(cause);
    if (other == found.end() || other->second.outcome.severity > finding.outcome.severity) continue;
    if (!seen.insert(cause).second) continue;
    const std::string further = RootOf(cause, found, seen);
    return further.empty() ? cause : further;
  }
  return "";
}

}  // namespace

std::string Diagnosis::Verdict() const {
  std::string verdict = "ok";
  for (const Finding& finding : findings) {
    if (finding.outcome.severity == Severity::kFail) return "fail";
    if (finding.outcome.severity == Severity::kWarn) verdict = "warn";
  }
  return verdict;
}

Diagnosis Diagnose(const Facts& facts, const Result<Matrix>& matrix) {
  Diagnosis diagnosis;
  FindingById found;
  for (const Rule& rule : AllRules()) {
    Outcome outcome = rule.check(facts, matrix);
    switch (outcome.state) {
      case Outcome::State::kPass:
        diagnosis.passed.push_back(&rule);
        break;
      case Outcome::State::kNotApplicable:
        diagnosis.not_applicable.push_back({&rule, outcome.because});
        break;
      case Outcome::State::kUnknown:
        diagnosis.unknown.push_back({&rule, outcome.because});
        break;
      case Outcome::State::kFound:
        found.emplace(rule.id, Finding{&rule, std::move(outcome), {}});
    }
  }
  std::map<std::string, std::string> roots;
  for (const auto& [id, finding] : found) {
    std::set<std::string> seen = {id};
    roots[id] = RootOf(id, found, seen);
  }
  for (const Rule& rule : AllRules()) {
    const auto own = found.find(rule.id);
    if (own == found.end() || !roots[rule.id].empty()) continue;
    for (const Rule& other : AllRules())
      if (const auto root = roots.find(other.id); root != roots.end() && root->second == rule.id)
        own->second.explains.push_back(std::move(found.at(other.id)));
    diagnosis.findings.push_back(std::move(own->second));
  }
  std::stable_sort(
      diagnosis.findings.begin(), diagnosis.findings.end(),
      [](const Finding& a, const Finding& b) { return a.outcome.severity < b.outcome.severity; });
  return diagnosis;
}

}  // namespace envkit::doctor

// Facts in, findings out: every rule is asked, and a finding that another one explains is listed
// under it. Pure.
#pragma once

#include <string>
#include <vector>

#include "doctor/rule.h"

namespace envkit::doctor {

struct Finding {
  const Rule* rule = nullptr;
  Outcome outcome;
  std::vector<Finding> explains;  // suppressed: they follow from this one
};

struct Unasked {
  const Rule* rule = nullptr;
  std::string because;
};

struct Diagnosis {
  std::vector<Finding> findings;  // worst first
  std::vector<const Rule*> passed;
  std::vector<Unasked> not_applicable, unknown;

  // "ok" | "warn" | "fail": the worst finding; one for information is ok.
  std::string Verdict() const;
};

// MATRIX is envkit's own (LoadMatrix), or why it could not be read.
Diagnosis Diagnose(const Facts& facts, const Result<Matrix>& matrix);

}  // namespace envkit::doctor

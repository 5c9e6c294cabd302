// A diagnosis for people, for programs, and as a shell script to review.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "doctor/diagnose.h"

namespace envkit::doctor {

struct ReportStyle {
  bool verbose = false;  // what passed, what does not apply
  bool quiet = false;    // failures and warnings alone
  bool colour = false;
  int columns = 100;
  double seconds = -1;  // how long it took; below 0: not shown
};
std::string ReportText(const Facts& facts, const Diagnosis& diagnosis, const ReportStyle& style);

nlohmann::ordered_json ReportJson(const Facts& facts, const Diagnosis& diagnosis);

// Asks before each step; does nothing without an answer.
std::string FixScript(const Diagnosis& diagnosis);

// The whole story of a check, or what a pasted message means. kUsage: neither is known.
Result<std::string> ExplainText(const std::string& id_or_text);

}  // namespace envkit::doctor

// One thing that was looked at, and what came out: plain data, for people and as JSON.
#pragma once

#include <string>
#include <vector>

namespace envkit {

enum class Verdict { kPass, kFail, kSkipped };

struct Check {
  std::string id;    // "store.layers": stable, for programs
  std::string what;  // one line: what is claimed
  Verdict verdict = Verdict::kPass;
  std::vector<std::string> evidence;  // what was seen, one line each
  std::string next = {};              // kFail, kSkipped: what to do; empty: nothing to be done
  // Skipped for lack of something that could be had (an engine): then nobody may say "verified".
  bool incomplete = false;

  std::string Group() const { return id.substr(0, id.find('.')); }
};

inline const char* VerdictName(Verdict verdict) {
  return verdict == Verdict::kPass ? "pass" : verdict == Verdict::kFail ? "fail" : "skipped";
}

}  // namespace envkit

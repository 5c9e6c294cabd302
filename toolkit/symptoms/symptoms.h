// From an error message to what it means: one table for `envkit doctor explain TEXT` and for the
// last words of a failed job.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace envkit {

struct Symptom {
  std::string name;                   // "shm-full"
  std::vector<std::string> patterns;  // any of them; "*" stands for anything on the same line
  std::string meaning;                // one or two sentences
  std::string next;                   // what to do, lines
  std::string check;                  // the doctor's check that looks for the cause: "R01"; or ""
};

// The specific ones before the general ones, which the same output often holds as well.
const std::vector<Symptom>& AllSymptoms();

// The first of the table that TEXT shows, in any case of letters. TEXT may be a whole log: its last
// 256 KB count.
std::optional<Symptom> Explain(std::string_view text);

}  // namespace envkit

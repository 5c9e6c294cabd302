// What the output of a failed run's first rank means, by the table that `envkit doctor explain`
// uses.
#pragma once

#include <filesystem>
#include <optional>

#include "session/record.h"
#include "symptoms/symptoms.h"

namespace envkit {

// From the last attempt's log of the rank that failed first; nullopt where nothing in it is known,
// or where the launcher has explained it above.
std::optional<Symptom> ExplainFailure(const std::filesystem::path& record,
                                      const RunOutcome& outcome);

}  // namespace envkit

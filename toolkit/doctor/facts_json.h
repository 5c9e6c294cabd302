// Facts as a JSON document: what --save writes, --from reads and the probes' children answer with.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "doctor/facts.h"

namespace envkit::doctor {

nlohmann::json ToJson(const Facts& facts);

// Anything of the wrong type is "unknown, because" and listed in Facts::problems. An Error only
// where TEXT is no JSON object, or of a schema that this envkit does not know.
Result<Facts> FactsFromJson(std::string_view text);

// One section, by its JSON name ("nvml"); problems are added to FACTS.
void ReadSection(std::string_view name, const nlohmann::json& section, Facts& facts);
nlohmann::json SectionToJson(std::string_view name, const Facts& facts);
std::vector<std::string> SectionNames();
void MarkUnknown(std::string_view name, const std::string& why, Facts& facts);

// Without host names, users' names and homes, addresses, credentials: for bug reports.
nlohmann::json Scrub(nlohmann::json facts);

// Valid UTF-8 whatever the machine's files held.
std::string Dump(const nlohmann::json& document, int indent);

}  // namespace envkit::doctor

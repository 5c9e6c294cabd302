// Several machines side by side: which answered, what each lacks, and what differs between them.
// Pure: how they are asked is the session's.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "doctor/diagnose.h"
#include "doctor/report.h"

namespace envkit::doctor {

// "a,b", and as Slurm writes it: "gpu[01-03,07],login1". In the order given, none twice.
Result<std::vector<std::string>> ParseNodes(std::string_view text);
// The other way, for people: "gpu[01-03,07], login1".
std::string FoldNodes(std::vector<std::string> nodes);

struct Node {
  std::string name;
  std::string because;         // why it did not answer; "" where it did
  std::string next;            // then: what may help
  std::optional<Facts> facts;  // where it answered, with its
  Diagnosis diagnosis;
};

struct Difference {
  std::string fact;  // "driver"
  struct Value {
    std::string value;
    std::vector<std::string> nodes;
  };
  std::vector<Value> values;  // what most nodes have first
};
std::vector<Difference> Differences(const std::vector<Node>& nodes);

// "fail" where a node fails or did not answer, else the worst of the nodes'.
std::string FleetVerdict(const std::vector<Node>& nodes);
std::string FleetText(const std::vector<Node>& nodes, const ReportStyle& style);
// docs/schemas/doctor-fleet.json
nlohmann::ordered_json FleetJson(const std::vector<Node>& nodes);

}  // namespace envkit::doctor

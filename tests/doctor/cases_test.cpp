#include <doctest/doctest.h>

#include <cstdlib>
#include <limits>
#include <map>
#include <set>

#include "base/scratch.h"
#include "doctor/diagnose.h"
#include "doctor/facts_json.h"
#include "doctor/probes/probes.h"
#include "doctor/report.h"
#include "doctor/tree.h"

using namespace envkit;
using namespace envkit::doctor;

namespace {

void Note(const Finding& finding, std::map<std::string, std::set<std::string>>& seen) {
  seen[finding.rule->id].insert("found");
  for (const Finding& other : finding.explains) Note(other, seen);
}

}  // namespace

// Each case's report, to the letter. With ENVKIT_UPDATE_GOLDEN=1 they are written anew: read the
// difference before you commit it.
TEST_CASE("every machine of the fixtures has the report that is written down for it") {
  const bool update = std::getenv("ENVKIT_UPDATE_GOLDEN") != nullptr;
  std::map<std::string, std::set<std::string>> seen;
  for (const std::string& name : CaseNames()) {
    CAPTURE(name);
    const Scratch tree;
    MakeTree(name, tree.path());
    const Facts facts = ProbeMachine(tree.path());
    CHECK(facts.problems.empty());
    const Diagnosis diagnosis = Diagnose(facts, OwnMatrix());
    const std::string report = ReportText(facts, diagnosis, {});
    Case machine = LoadCase(name);
    if (update) {
      machine.report = report;
      WriteCase(machine);
    }
    CHECK(report == machine.report);
    // A case is named after the finding that it is about: that is its one cause.
    const std::string about = name.substr(0, 3);
    if (FindRule(about) != nullptr) {
      std::vector<std::string> roots;
      for (const Finding& finding : diagnosis.findings)
        if (finding.rule->id == about || finding.rule->id != "H01")
          roots.push_back(finding.rule->id);
      CHECK(roots == std::vector<std::string>{about});
    }
    // What is saved and read again is diagnosed the same.
    const auto again = FactsFromJson(Dump(ToJson(facts), 1));
    REQUIRE(again);
    CHECK(ReportText(*again, Diagnose(*again, OwnMatrix()), {}) == report);
    for (const Finding& finding : diagnosis.findings) Note(finding, seen);
    for (const Rule* rule : diagnosis.passed) seen[rule->id].insert("passed");
  }
  for (const Rule& rule : AllRules()) {
    CAPTURE(rule.id);
    CHECK_MESSAGE(seen[rule.id].contains("found"), rule.id << " fires in no case");
    CHECK_MESSAGE(seen[rule.id].contains("passed"), rule.id << " is silent in no case");
  }
  CHECK(AllRules().size() >= 40);
}

// A facts file comes from another machine, perhaps edited: no rule may count on a value's shape.
TEST_CASE("a fact that is empty, short or beyond all bounds breaks no rule") {
  for (const char* const name : {"H01-no-gpu", "server", "server without PCI"}) {
    const Scratch tree;
    MakeTree(std::string(name).substr(0, std::string(name).find(' ')), tree.path());
    nlohmann::ordered_json whole = ToJson(ProbeMachine(tree.path()));
    if (std::string(name).ends_with("PCI")) whole["pci"]["gpus"] = nlohmann::ordered_json::array();
    std::vector<nlohmann::ordered_json::json_pointer> places;
    const auto flat = whole.flatten();
    for (const auto& leaf : flat.items()) places.emplace_back(leaf.key());
    REQUIRE(places.size() > 100);
    for (const auto& place : places) {
      CAPTURE(place.to_string());
      const bool text = whole.at(place).is_string();
      for (const nlohmann::ordered_json& value :
           text ? std::vector<nlohmann::ordered_json>{"", "0"}
                : std::vector<nlohmann::ordered_json>{-1,
                                                      std::numeric_limits<std::int64_t>::max()}) {
        nlohmann::ordered_json changed = whole;
        changed[place] = value;
        const auto facts = FactsFromJson(Dump(changed, -1));
        if (!facts) continue;
        CHECK_NOTHROW(ReportText(*facts, Diagnose(*facts, OwnMatrix()), {}));
      }
    }
  }
}

TEST_CASE("the table of rules is whole") {
  std::set<std::string> ids;
  for (const Rule& rule : AllRules()) {
    CAPTURE(rule.id);
    CHECK(ids.insert(rule.id).second);
    CHECK(!rule.subject.empty());
    CHECK(!rule.story.empty());
    for (const std::string& cause : rule.follows_from) {
      CHECK(cause != rule.id);
      CHECK(FindRule(cause) != nullptr);
    }
  }
}

#include "image/show_lock.h"

namespace envkit {

nlohmann::json LockReportToJson(const LockReport& report) {
  const Lock& lock = report.lock;
  nlohmann::json changes = nlohmann::json::array(), findings = nlohmann::json::array();
  for (const LockChange& change : report.changes) {
    constexpr const char* kKinds[] = {"added", "removed", "changed", "other-file"};
    changes.push_back({{"kind", kKinds[static_cast<int>(change.kind)]},
                       {"of", change.debian ? "debian" : "wheel"},
                       {"package", change.package},
                       {"before", change.before},
                       {"after", change.after},
                       {"bytes", change.bytes}});
  }
  for (const LockFinding& finding : report.findings) {
    findings.push_back({{"id", finding.id},
                        {"package", finding.package},
                        {"cause", finding.cause},
                        {"remedy", finding.remedy}});
  }
  return {
      {"schema", 1},
      {"resolved", report.resolved},
      {"changed", report.changed},
      {"digest", lock.Digest()},
      {"torch", lock.torch},
      {"cuda", lock.cuda},
      {"python", lock.python},
      {"wheels", lock.wheels.size()},
      {"debian_packages", lock.debs.size()},
      {"diff", report.diff},
      {"changes", changes},
      {"findings", findings},
      {"download", {{"bytes", report.new_files.bytes}, {"in_store", report.new_files.in_store}}}};
}

nlohmann::json RecordReportToJson(const RecordReport& report) {
  nlohmann::json images = nlohmann::json::array();
  for (const BuiltImage& built : report.built) {
    images.push_back({{"profile", built.profile},
                      {"variant", built.variant},
                      {"architecture", built.architecture},
                      {"config_digest", built.config_digest},
                      {"diff_ids", built.diff_ids}});
  }
  return {{"schema", 1},
          {"built", images},
          {"new", report.new_images},
          {"differences", report.differences}};
}

}  // namespace envkit

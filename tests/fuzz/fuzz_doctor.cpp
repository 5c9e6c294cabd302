// The doctor's readers of what comes from outside. FUZZ_TARGET chooses one; without it the input's
// first byte does.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "doctor/diagnose.h"
#include "doctor/facts_json.h"
#include "doctor/probes/probes.h"
#include "doctor/report.h"
#include "symptoms/symptoms.h"

using namespace envkit;
using namespace envkit::doctor;

namespace {

void FuzzFacts(std::string_view text) {
  const auto facts = FactsFromJson(text);
  if (!facts) return;
  static const Result<Matrix> matrix =
      LoadMatrix(std::filesystem::path(std::getenv("ENVKIT_SOURCE_DIR")) / "images");
  if (!matrix) std::abort();  // then the rules that ask it would not be fuzzed
  const Diagnosis diagnosis = Diagnose(*facts, matrix);
  ReportStyle style;
  style.verbose = true;
  ReportText(*facts, diagnosis, style);
  FixScript(diagnosis);
  Dump(ReportJson(*facts, diagnosis), 1);
  // What was read is written, and read the same.
  const std::string again = Dump(ToJson(*facts), -1);
  const auto twice = FactsFromJson(again);
  if (!twice || Dump(ToJson(*twice), -1) != again) std::abort();
  Scrub(ToJson(*facts));
}

void FuzzLog(std::string_view text) {
  ParseKernelLog(text);
  Explain(text);
}

void FuzzCdi(std::string_view text, const char* file) {
  ParseCdi(text, file);
  CdiHostPaths(text, file);
}

void FuzzDocker(std::string_view text) {
  Docker docker;
  ParseDockerInfo(text, docker);
  ParseDockerConfig(text, docker);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const char* const target = std::getenv("FUZZ_TARGET");
  std::string_view text(reinterpret_cast<const char*>(data), size);
  std::string_view name = target == nullptr ? "" : target;
  if (target == nullptr && !text.empty()) {
    static const char* const names[] = {"facts", "log", "cdi-json", "cdi-yaml", "docker", "cache"};
    name = names[static_cast<unsigned char>(text.front()) % 6];
    text.remove_prefix(1);
  }
  if (name == "facts") FuzzFacts(text);
  if (name == "log") FuzzLog(text);
  if (name == "cdi-json") FuzzCdi(text, "x.json");
  if (name == "cdi-yaml") FuzzCdi(text, "x.yaml");
  if (name == "docker") FuzzDocker(text);
  if (name == "cache") ParseLinkerCache(text);
  return 0;
}

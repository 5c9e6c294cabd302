#include "session/explain_failure.h"

#include <algorithm>
#include <charconv>
#include <fstream>

namespace envkit {
namespace {

namespace fs = std::filesystem;

std::string Tail(const fs::path& file) {
  constexpr std::streamoff kMost = 64 << 10;
  std::ifstream in(file, std::ios::ate);
  if (!in) return "";
  const std::streamoff size = in.tellg();
  std::string text(static_cast<std::size_t>(std::min(size, kMost)), '\0');
  in.seekg(std::max<std::streamoff>(0, size - kMost));
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(0, in.gcount())));
  return text;
}

// log/attempt_0, attempt_1 …: the one that ended the run.
fs::path LastAttempt(const fs::path& log) {
  fs::path last;
  int highest = -1;
  std::error_code error;
  for (fs::directory_iterator it(log, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    constexpr std::string_view kStart = "attempt_";
    int number = -1;
    if (name.starts_with(kStart))
      std::from_chars(name.data() + kStart.size(), name.data() + name.size(), number);
    if (number > highest) last = it->path();
    highest = std::max(highest, number);
  }
  return last;
}

}  // namespace

std::optional<Symptom> ExplainFailure(const fs::path& record, const RunOutcome& outcome) {
  const nlohmann::json& cause = outcome.root_cause;
  if (!cause.is_object() || !cause.contains("rank") || !cause["rank"].is_number_integer())
    return std::nullopt;
  if (cause.contains("symptom")) return std::nullopt;
  const fs::path directory = LastAttempt(record / "log") / std::to_string(cause["rank"].get<int>());
  for (const char* name : {"stderr.log", "stdout.log"})
    if (auto symptom = Explain(Tail(directory / name))) return symptom;
  return std::nullopt;
}

}  // namespace envkit

#include "session/check_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "base/files.h"
#include "image/verify_image.h"

namespace envkit {
namespace {

using nlohmann::json;

std::string Text(const json& object, const char* key) {
  return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : "";
}

// The last lines, which say why a program failed.
std::vector<std::string> LastWords(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (!line.empty() && line.find("envkit_probe") == std::string::npos) lines.push_back(line);
  }
  if (lines.size() > 12) lines.erase(lines.begin(), lines.end() - 12);
  return lines;
}

// The version of a locked wheel that begins with PREFIX: CUDA's major is part of some names.
std::string LockedVersion(const Lock& lock, std::string_view prefix) {
  for (const LockedWheel& wheel : lock.wheels) {
    if (wheel.name.starts_with(prefix)) return wheel.version;
  }
  return "";
}

// "9.26.0" is what 9.26.0.51 says of itself.
bool IsOrBegins(const std::string& found, const std::string& locked) {
  const std::string bare = locked.substr(0, locked.find('+'));
  return bare == found || bare.starts_with(found + ".");
}

Check CheckVersions(const json& rank, const ProbeExpectation& expected) {
  Check check = {
      "libraries.versions", "the loaded libraries are of the locked versions", Verdict::kPass, {}};
  const json versions = rank.value("versions", json::object());
  struct Row {
    const char* key;
    const char* name;
    std::string locked;
    bool needed;
  };
  const bool cuda = expected.variant == "cuda";
  std::vector<Row> rows = {{"torch", "torch", "", true},
                           {"cuda_runtime", "CUDA runtime", "", true},
                           {"cudnn", "cuDNN", "", cuda},
                           {"nccl", "NCCL", "", cuda}};
  if (expected.lock != nullptr) {
    rows[0].locked = expected.lock->torch;
    rows[1].locked = expected.lock->cuda;
    rows[2].locked = LockedVersion(*expected.lock, "nvidia-cudnn");
    rows[3].locked = LockedVersion(*expected.lock, "nvidia-nccl");
    rows[1].needed = !expected.lock->cuda.empty();
  }
  for (const Row& row : rows) {
    const std::string found = Text(versions, row.key);
    if (found.empty() && !row.needed) continue;
    const bool judged = expected.lock != nullptr && !row.locked.empty();
    const bool right = !found.empty() && (!judged || IsOrBegins(found, row.locked));
    if (!right) check.verdict = Verdict::kFail;
    check.evidence.push_back(fmt::format("{} says {}{}", row.name,
                                         found.empty() ? "nothing" : found,
                                         judged ? fmt::format(", locked is {}", row.locked) : ""));
  }
  if (const std::string driver = Text(versions, "cuda_driver"); !driver.empty()) {
    check.evidence.push_back("the driver runs CUDA up to " + driver);
  }
  if (check.verdict == Verdict::kFail) {
    check.next =
        "Another library came first: look at LD_LIBRARY_PATH and LD_PRELOAD in [run] env, and at "
        "[run] mounts.";
  }
  return check;
}

Check CheckCudaHalf(const json& rank, const ProbeExpectation& expected) {
  Check check = {"libraries.cuda", "the CUDA libraries load", Verdict::kPass, {}};
  if (expected.variant != "cuda") {
    check.verdict = Verdict::kSkipped;
    check.evidence = {"the cpu image has none"};
    return check;
  }
  const std::string state = Text(rank, "cuda_half");
  if (state == "loaded") {
    check.evidence = {"libtorch_cuda, cuBLAS, cuDNN, NCCL and what they need"};
    return check;
  }
  check.verdict = Verdict::kFail;
  check.evidence = {state.empty() ? "the image has no libenvkit_cuda.so" : state};
  check.next = "envkit build --variant cuda; where it is said again, the image lacks a library.";
  return check;
}

// One rank's exactness, for the evidence.
bool Exact(const json& rank, const char* part) {
  return rank.contains(part) && rank[part].is_object() && rank[part].value("exact", false);
}

Check CheckSums(const ProbeOutput& probe, const char* part, std::string id, std::string what) {
  Check check = {std::move(id), std::move(what), Verdict::kPass, {}};
  for (std::size_t rank = 0; rank < probe.ranks.size(); ++rank) {
    if (Exact(probe.ranks[rank], part)) continue;
    check.verdict = Verdict::kFail;
    check.evidence.push_back(fmt::format("rank {} got another result than the known one", rank));
  }
  if (check.verdict == Verdict::kFail) {
    check.next = "Memory, links or drivers of this machine corrupt data: envkit doctor";
  }
  return check;
}

Check CheckGpus(const ProbeOutput& probe, const ProbeExpectation& expected) {
  Check check = {"smoke.gpus", "every rank computed on a GPU of its own", Verdict::kPass,
                 GpusOf(probe)};
  if (!expected.gpus) {
    check.verdict = Verdict::kSkipped;
    check.what = "no GPU was checked";
    check.evidence = {expected.variant == "cuda"
                          ? "this machine has no GPU; the image for GPUs ran on the CPU"
                          : "the cpu image"};
    return check;
  }
  std::set<std::string> places;
  for (const json& rank : probe.ranks) {
    if (rank.contains("gpu") && rank["gpu"].is_object()) places.insert(Text(rank["gpu"], "pci"));
  }
  if (places.size() != static_cast<std::size_t>(expected.ranks)) {
    check.verdict = Verdict::kFail;
    check.evidence.push_back(
        fmt::format("{} ranks had {} GPUs between them", expected.ranks, places.size()));
    check.next = "envkit doctor";
  }
  return check;
}

}  // namespace

ProbeOutput ParseProbe(int exit_code, std::string text) {
  ProbeOutput output{exit_code, std::move(text), {}};
  std::istringstream in(output.text);
  for (std::string line; std::getline(in, line);) {
    const std::size_t start = line.find("{\"envkit_probe\"");  // "[1] " may stand before it
    if (start == std::string::npos) continue;
    json rank = json::parse(line.substr(start), nullptr, false);
    if (rank.is_object() && rank.contains("rank") && rank["rank"].is_number_integer()) {
      output.ranks.push_back(std::move(rank));
    }
  }
  std::sort(output.ranks.begin(), output.ranks.end(),
            [](const json& a, const json& b) { return a["rank"] < b["rank"]; });
  return output;
}

std::vector<std::string> GpusOf(const ProbeOutput& probe) {
  std::vector<std::string> gpus;
  for (const json& rank : probe.ranks) {
    if (!rank.contains("gpu") || !rank["gpu"].is_object()) continue;
    gpus.push_back(fmt::format("{} ({})", Text(rank["gpu"], "name"), Text(rank["gpu"], "pci")));
  }
  return gpus;
}

std::string Bandwidth(const ProbeOutput& probe) {
  double slowest = 0;
  for (const json& rank : probe.ranks) {
    const json sums = rank.value("allreduce", json::object());
    const double speed = sums.value("bus_bytes_per_second", 0.0);
    slowest = slowest == 0 ? speed : std::min(slowest, speed);
  }
  if (slowest <= 0) return "";
  return fmt::format("{}/s over {}", HumanBytes(static_cast<std::uint64_t>(slowest)),
                     Text(probe.ranks.front(), "transport"));
}

std::vector<Check> JudgeProbe(const ProbeOutput& probe, const ProbeExpectation& expected) {
  const bool complete = probe.ranks.size() == static_cast<std::size_t>(expected.ranks);
  if (probe.ranks.empty() || !complete) {
    Check check = {"smoke.run", "LibTorch starts in the image, and its ranks find each other",
                   Verdict::kFail, LastWords(probe.text),
                   "Its own words are above; envkit run -- envkit-probe says them again."};
    // 127 is also the dynamic linker's, where a library is missing: then the image is broken.
    if (probe.exit_code == 127 &&
        probe.text.find("error while loading shared libraries") == std::string::npos) {
      check.verdict = Verdict::kSkipped;
      check.incomplete = true;
      check.next = "The image was made by an older envkit, without envkit-probe: envkit build";
    }
    check.evidence.insert(check.evidence.begin(),
                          fmt::format("exit code {}; {} of {} ranks answered", probe.exit_code,
                                      probe.ranks.size(), expected.ranks));
    return {check};
  }
  std::vector<Check> checks = {CheckCudaHalf(probe.ranks.front(), expected),
                               CheckVersions(probe.ranks.front(), expected)};
  Check sums = CheckSums(probe, "allreduce", "smoke.allreduce",
                         fmt::format("sums over {} ranks are exact", expected.ranks));
  const std::string bandwidth = Bandwidth(probe);
  if (!bandwidth.empty()) {
    sums.what += ", " + bandwidth;
    const json& measured = probe.ranks.front()["allreduce"];
    sums.evidence.push_back(fmt::format("all-reduce of {}: {} (bus bandwidth, the slowest rank)",
                                        HumanBytes(measured.value("bytes", std::uint64_t{0})),
                                        bandwidth));
  } else if (expected.ranks == 1) {
    sums.verdict = Verdict::kSkipped;
    sums.what = "one rank has nobody to sum with";
  }
  checks.push_back(std::move(sums));
  checks.push_back(CheckSums(probe, "training", "smoke.training",
                             "a step of data-parallel training gives the known gradient"));
  checks.push_back(CheckGpus(probe, expected));
  return checks;
}

Check CheckDriver(const Lock& lock, const std::string& variant, const Machine& machine,
                  const Matrix& matrix) {
  Check check = {"driver.cuda", "the driver runs the image's CUDA", Verdict::kPass, {}};
  if (variant != "cuda" || !machine.driver) {
    check.verdict = Verdict::kSkipped;
    check.evidence = {variant != "cuda" ? "the cpu image needs no driver"
                                        : "this machine has no NVIDIA driver"};
    return check;
  }
  const auto floor = DriverFloor(matrix, lock.cuda);
  if (!floor) {
    check.verdict = Verdict::kSkipped;
    check.evidence = {fmt::format("the version matrix does not know CUDA {}", lock.cuda)};
    return check;
  }
  check.evidence = {
      fmt::format("driver {}, CUDA {} needs {} or newer", *machine.driver, lock.cuda, *floor)};
  if (const auto advice = AdviseOnDriver(matrix, lock.cuda, lock.python, machine)) {
    check.verdict = Verdict::kFail;
    check.next = advice->next + "\nA change of envkit.toml needs: envkit lock.";
  }
  return check;
}

}  // namespace envkit

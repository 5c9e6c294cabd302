#include "session/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "engine/engine.h"
#include "image/stored.h"
#include "image/verify_image.h"
#include "session/check_probe.h"
#include "session/driver.h"
#include "session/environment.h"
#include "session/prove.h"
#include "session/run_probe.h"
#include "session/verify_running.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// What is verified, against what.
struct Subject {
  Environment environment;
  bool in_project = false;
  std::optional<ImagePlan> plan;  // of the image that the lock describes
  std::string digest;
};

// The image of the store that NAME means: a digest or its beginning, or a tag.
Result<std::string> FindByName(const Store& store, std::string name) {
  if (name.starts_with("sha256:")) name.erase(0, 7);
  std::vector<std::string> found;
  std::vector<std::string> known;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(store.data / "images", error)) {
    const std::string digest = entry.path().stem().string();
    if (!IsSha256(digest)) continue;
    if (name.size() >= 6 && digest.starts_with(name)) {
      found.push_back(digest);
      continue;
    }
    const auto image = LoadImageRecord(store, digest);
    if (!image) continue;
    known.push_back(fmt::format("{}  {}", digest.substr(0, 12), ImageTag(*image)));
    if (ImageTag(*image) == name) found.push_back(digest);
  }
  if (found.size() == 1) return found.front();
  std::sort(known.begin(), known.end());
  std::string next = "The store has:";
  for (const std::string& line : known) next += "\n" + line;
  if (known.empty()) next = "The store has no image. Make one:  envkit build";
  if (found.empty()) return Usage(fmt::format("the store has no image \"{}\"", name), next);
  return Usage(fmt::format("{} images are called \"{}\"", found.size(), name),
               fmt::format("Say which by its digest: {}", fmt::join(found, ", ")));
}

Result<Subject> FindSubject(const fs::path& directory, const VerifyRequest& request,
                            const HostFacts& facts) {
  Subject subject;
  auto environment = LoadEnvironment(directory);
  if (environment) {
    subject.environment = std::move(*environment);
    subject.in_project = true;
  } else if (request.image.empty()) {
    return Unexpected(std::move(environment).error());
  } else {
    ENVKIT_TRY(subject.environment.store, Store::Open());
    subject.environment.project.run.mounts.clear();
  }
  const Environment& env = subject.environment;
  std::string profile = MainProfile(env.project, request.profile);
  std::string variant = request.variant, why;
  if (!request.image.empty()) {
    ENVKIT_TRY(subject.digest, FindByName(env.store, request.image));
    const auto image = LoadImageRecord(env.store, subject.digest);
    if (!image || !subject.in_project) return subject;
    profile = image->profile;
    variant = image->variant;
  } else if (variant.empty()) {
    ENVKIT_TRY(variant, ChooseVariant(env.project, env.lock, facts, why));
  }
  ENVKIT_TRY(ImagePlan plan, PlanImage(env.project, env.lock, env.recipes, profile, variant));
  const auto digest = BuiltDigest(plan, env.store);
  if (request.image.empty()) {
    if (!digest) {
      return Missing(fmt::format("the image {}:{}-{} is not built", plan.name, profile, variant),
                     fmt::format("envkit build --profile {} --variant {}", profile, variant));
    }
    subject.digest = *digest;
  }
  subject.plan = std::move(plan);
  return subject;
}

// After it: the image's record and its layers, or what is wrong with them.
struct StoreState {
  std::optional<Image> image;
  StoreCheck check;
};

StoreState LookAtStore(const Subject& subject, bool quick, Terminal& terminal) {
  StoreState state;
  auto image = LoadImageRecord(subject.environment.store, subject.digest);
  Check record = {"store.image",
                  "the image's record is what its digest says",
                  Verdict::kPass,
                  {"config digest " + subject.digest}};
  if (!image) {
    record.verdict = Verdict::kFail;
    record.evidence = {image.error().what};
    record.next = image.error().next;
    state.check.checks = {record};
    return state;
  }
  state.image = std::move(*image);
  state.check = CheckStore(*state.image, quick, terminal);
  state.check.checks.insert(state.check.checks.begin(), std::move(record));
  return state;
}

Result<void> Repair(const Subject& subject, const StoreState& state, Terminal& terminal) {
  if (!subject.plan) {
    return Usage("--repair needs the project that the image was built from",
                 "Run it there, without the image's name.");
  }
  const Environment& env = subject.environment;
  for (const Layer* layer : state.check.damaged) {
    terminal.Step("repair", fmt::format("{} is made anew", layer->what));
  }
  ENVKIT_CHECK(RemoveDamaged(state.check, env.store));
  if (!state.image) {
    std::error_code ignored;
    fs::remove(env.store.data / "images" / (subject.digest + ".json"), ignored);
  }
  ENVKIT_TRY(const Image image,
             BuildImage(env.project, env.lock, env.recipes, subject.plan->profile,
                        subject.plan->variant, env.store, RunInBuildSandbox, terminal));
  if (image.config_digest != subject.digest) {
    return Fail(fmt::format("the image that was built anew has another digest: {} instead of {}",
                            image.config_digest, subject.digest),
                "Something that shapes it is not in the lock; please report it.");
  }
  return {};
}

Check Unavailable(std::string id, std::string what, const Error& error) {
  Check check = {std::move(id), std::move(what), Verdict::kSkipped, {error.what}, error.next};
  check.incomplete = error.code == ExitCode::kMissing;
  if (!check.incomplete) check.verdict = Verdict::kFail;
  return check;
}

Check CheckMapped(const Image& image, const StoreCheck& scanned, const ImageRunner& runner,
                  const std::vector<std::string>& mapped) {
  Check check = {"libraries.mapped", "", Verdict::kPass, {}};
  std::vector<std::string> argv = {"sha256sum", "--"};
  argv.insert(argv.end(), mapped.begin(), mapped.end());
  const auto ran = runner.Run(argv);
  if (!ran) return Unavailable(check.id, "the loaded libraries are the image's", ran.error());
  const ImageFiles files(image, scanned.scans);
  std::istringstream lines(ran->output);
  std::size_t same = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.size() < 67 || !IsSha256(line.substr(0, 64))) continue;
    const std::string hash = line.substr(0, 64), path = line.substr(66);
    const std::string expected = files.HashOf(path);
    if (expected == hash) {
      ++same;
      check.evidence.push_back(fmt::format("{} {}", hash, path));
    } else if (expected.empty()) {
      check.evidence.push_back(
          fmt::format("{} is not the image's: mounted from this machine", path));
    } else {
      check.verdict = Verdict::kFail;
      check.evidence.push_back(fmt::format("{}: sha256 {} instead of {}", path, hash, expected));
    }
  }
  check.what = fmt::format("{} loaded libraries have the hashes of the image's files", same);
  if (same == 0) {
    check.verdict = Verdict::kFail;
    check.what = "the loaded libraries could not be hashed in the image";
    check.evidence.push_back(fmt::format("sha256sum ended with exit code {}", ran->exit_code));
  }
  if (check.verdict == Verdict::kFail) {
    check.next =
        "The layer was changed (envkit verify says where), or something is mounted over the "
        "image's files: look at [run] mounts.";
  }
  return check;
}

void CheckInImage(const Subject& subject, const StoreState& state, const HostFacts& facts,
                  const VerifyRequest& request, VerifyReport& report, Terminal& terminal) {
  const Image& image = *state.image;
  auto engine = OpenEngine(request.engine);
  if (!engine) {
    report.checks.push_back(
        Unavailable("smoke.run", "LibTorch starts in the image", engine.error()));
    return;
  }
  report.engine = (*engine)->Name();
  if (KeepsImages(report.engine)) {
    const auto loaded = LoadImage(
        report.engine, RootImageOf(image), DiffIdsOf(image),
        [&image](int fd, std::size_t known) { return WriteDockerArchive(image, fd, known); },
        terminal);
    if (!loaded) {
      report.checks.push_back(
          Unavailable("engine.image", report.engine + " has the image", loaded.error()));
      return;
    }
    report.checks.push_back(CheckEngineImage(report.engine, image));
  }
  const ImageRunner runner(subject.environment.project, image, facts, **engine);
  ProbeExpectation expected;
  expected.variant = image.variant;
  expected.gpus = image.variant == "cuda" && !facts.device_nodes.empty();
  expected.ranks = expected.gpus ? static_cast<int>(facts.device_nodes.size()) : 2;
  if (subject.plan) expected.lock = &subject.environment.lock;
  const auto ran = runner.Run({"envkit-launch", "--quiet", "--log-dir", "/tmp/envkit-verify",
                               "--processes", std::to_string(expected.ranks), "--", "envkit-probe",
                               expected.gpus ? "cuda" : "cpu"});
  if (!ran) {
    report.checks.push_back(Unavailable("smoke.run", "LibTorch starts in the image", ran.error()));
    return;
  }
  const ProbeOutput probe = ParseProbe(ran->exit_code, ran->output);
  std::vector<Check> checks = JudgeProbe(probe, expected);
  if (!probe.ranks.empty() && probe.ranks.front().contains("mapped")) {
    checks.insert(checks.begin(),
                  CheckMapped(image, state.check, runner, probe.ranks.front()["mapped"]));
  }
  report.checks.insert(report.checks.end(), checks.begin(), checks.end());
  const bool computed = std::none_of(checks.begin(), checks.end(), [](const Check& check) {
    return check.verdict == Verdict::kFail;
  });
  if (computed && expected.gpus) report.gpus = GpusOf(probe);
  report.bandwidth = Bandwidth(probe);
}

Result<void> VerifyImage(const fs::path& directory, const VerifyRequest& request,
                         VerifyReport& report, Terminal& terminal) {
  const HostFacts facts = ProbeHost();
  ENVKIT_TRY(const Subject subject, FindSubject(directory, request, facts));
  StoreState state = LookAtStore(subject, request.quick, terminal);
  auto sound = [&] { return state.image && state.check.damaged.empty(); };
  if (request.repair && !sound()) {
    ENVKIT_CHECK(Repair(subject, state, terminal));
    state = LookAtStore(subject, request.quick, terminal);
  }
  report.checks = state.check.checks;
  if (!state.image) return {};
  report.image = *state.image;
  const Environment& env = subject.environment;
  if (subject.plan) {
    for (Check& check :
         CheckLock(*state.image, *subject.plan, env.lock, env.store, state.check, request.quick)) {
      report.checks.push_back(std::move(check));
    }
  } else {
    report.checks.push_back(
        {"lock.packages",
         "the image was built from a lock",
         Verdict::kSkipped,
         {"no project is here; its lock has digest " + state.image->lock_digest}});
  }
  if (!request.provenance.empty()) {
    if (!subject.plan) {
      return Usage("--provenance needs the project that the image was built from");
    }
    const Bill bill =
        MakeBill(*state.image, *subject.plan, env.lock, env.store, request.envkit_version);
    for (Check& check : CheckProvenance(request.provenance, request.key, bill)) {
      report.checks.push_back(std::move(check));
    }
  }
  if (subject.in_project && !env.lock.cuda.empty()) {
    ENVKIT_TRY(const Matrix matrix, OwnMatrix());
    report.checks.push_back(CheckDriver(env.lock, state.image->variant, MachineOf(facts), matrix));
  }
  if (!sound()) {
    report.checks.push_back({"smoke.run",
                             "LibTorch starts in the image",
                             Verdict::kSkipped,
                             {"nothing is started from a damaged image"}});
    return {};
  }
  CheckInImage(subject, state, facts, request, report, terminal);
  return {};
}

bool Any(const VerifyReport& report, Verdict verdict) {
  return std::any_of(report.checks.begin(), report.checks.end(),
                     [&](const Check& check) { return check.verdict == verdict; });
}

bool Incomplete(const VerifyReport& report) {
  return std::any_of(report.checks.begin(), report.checks.end(),
                     [](const Check& check) { return check.incomplete; });
}

}  // namespace

std::string VerdictOf(const VerifyReport& report) {
  if (Any(report, Verdict::kFail)) return "fail";
  if (Incomplete(report) || report.checks.empty()) return "incomplete";
  if (report.image.config_digest.empty()) return "running-pass";
  return report.gpus.empty() ? "cpu-only-pass" : "gpu-pass";
}

int ExitCodeOf(const VerifyReport& report) {
  const std::string verdict = VerdictOf(report);
  if (verdict == "fail") return static_cast<int>(ExitCode::kFailed);
  return verdict == "incomplete" ? static_cast<int>(ExitCode::kMissing) : 0;
}

Result<VerifyReport> Verify(const fs::path& directory, const VerifyRequest& request,
                            Terminal& terminal) {
  const auto start = std::chrono::steady_clock::now();
  VerifyReport report;
  if (request.running) {
    ENVKIT_CHECK(VerifyRunning(directory, request.container, request.engine, report));
  } else {
    ENVKIT_CHECK(VerifyImage(directory, request, report, terminal));
  }
  report.seconds = SecondsSince(start);
  return report;
}

nlohmann::ordered_json VerifyToJson(const VerifyReport& report) {
  nlohmann::ordered_json json;
  json["schema"] = 1;
  json["verdict"] = VerdictOf(report);
  json["gpu_checked"] = !report.gpus.empty();
  json["gpus"] = report.gpus;
  json["image"] = nullptr;
  if (!report.image.config_digest.empty()) {
    json["image"] = {{"name", ImageTag(report.image)},
                     {"profile", report.image.profile},
                     {"variant", report.image.variant},
                     {"config_digest", report.image.config_digest},
                     {"lock_digest", report.image.lock_digest}};
  }
  json["engine"] = nullptr;
  if (!report.engine.empty()) json["engine"] = report.engine;
  json["checks"] = nlohmann::ordered_json::array();
  for (const Check& check : report.checks) {
    json["checks"].push_back({{"id", check.id},
                              {"group", check.Group()},
                              {"what", check.what},
                              {"verdict", VerdictName(check.verdict)},
                              {"evidence", check.evidence},
                              {"next", check.next}});
  }
  json["seconds"] = report.seconds;
  return json;
}

void PrintVerify(const VerifyReport& report, Terminal& terminal) {
  std::size_t passed = 0, skipped = 0, failed = 0;
  for (const Check& check : report.checks) {
    const bool pass = check.verdict == Verdict::kPass, skip = check.verdict == Verdict::kSkipped;
    ++(pass ? passed : skip ? skipped : failed);
    terminal.Step(pass   ? "ok"
                  : skip ? "-"
                         : "FAIL",
                  fmt::format("{:<10} {}", check.Group(), check.what));
    const bool told = terminal.verbose() || !pass;
    for (const std::string& line : told ? check.evidence : std::vector<std::string>()) {
      terminal.Note("           " + line);
    }
    std::istringstream next(pass ? "" : check.next);
    const char* label = skip ? "note" : "fix";
    for (std::string line; std::getline(next, line); label = "") {
      terminal.Note(fmt::format("      {:<4} {}", label, line));
    }
  }
  const std::string verdict = VerdictOf(report);
  std::string counts = fmt::format("{} checks passed", passed);
  if (failed > 0) counts += fmt::format(", {} failed", failed);
  if (skipped > 0) counts += fmt::format(", {} not done", skipped);
  counts += fmt::format(" · {}", HumanSeconds(report.seconds));
  const std::string name = report.image.config_digest.empty()
                               ? ""
                               : fmt::format("{} · {} · ", ImageTag(report.image),
                                             report.image.config_digest.substr(0, 12));
  if (verdict == "gpu-pass") {
    terminal.Step("verified",
                  fmt::format("{}{} × {} · {}{}", name, report.gpus.size(), report.gpus.front(),
                              report.bandwidth.empty() ? "" : report.bandwidth + " · ", counts));
  } else if (verdict == "cpu-only-pass") {
    terminal.Step("cpu only", fmt::format("{}no GPU was checked · {}", name, counts));
  } else if (verdict == "running-pass") {
    terminal.Step("running", fmt::format("what runs is what was built · {}", counts));
  } else {
    terminal.Step(verdict == "fail" ? "FAILED" : "missing", name + counts);
  }
}

}  // namespace envkit

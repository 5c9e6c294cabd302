#include "session/check_machine.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <iterator>

#include "base/files.h"
#include "doctor/facts_json.h"
#include "doctor/probes/probes.h"
#include "doctor/report.h"
#include "engine/engine.h"
#include "engine/isolate.h"
#include "session/driver.h"
#include "session/environment.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// What the oci engine does before it starts a container, without an image.
Result<std::string> TryOciEngine() {
  ENVKIT_TRY(const auto engine, OpenEngine("oci"));
  IsolateOptions options;
  options.user_namespace = geteuid() != 0;
  ENVKIT_TRY(const int code, RunIsolated(options, [](Isolated& isolated) -> Result<int> {
               ENVKIT_TRY(const fs::path scratch, MountScratch());
               const fs::path lower = scratch / "lower";
               if (mkdir(lower.c_str(), 0755) != 0) return Fail(ErrnoText("mkdir"));
               ENVKIT_CHECK(MountOverlay({lower}, isolated.user_namespace()));
               return 0;
             }));
  if (code != 0) return Fail(fmt::format("a namespace of its own ended with exit code {}", code));
  return engine->Version();
}

void ProbeOci(doctor::EngineFacts& facts) {
  auto version = TryOciEngine();
  facts.oci.from = "envkit's own engine was tried";
  if (version) {
    facts.oci.value = *version;
    facts.oci.unknown.clear();
    return;
  }
  facts.oci.unknown = version.error().what;
  facts.oci_next = version.error().next;
}

// The first diagnostic's own line, without the excerpt below it.
std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

void ReadLock(const Project& project, doctor::ProjectFacts& facts) {
  const fs::path file = LockFile(project);
  const auto text = ReadFile(file);
  if (!text) {
    facts.lock = "missing";
    return;
  }
  const auto lock = ParseLock(*text, file);
  if (!lock) {
    facts.lock = "damaged";
    facts.lock_detail = FirstLine(lock.error().what);
    return;
  }
  facts.lock = "fits";
  facts.torch = lock->torch;
  facts.python = lock->python;
  if (facts.cuda != "cpu") facts.cuda = lock->cuda;
  for (const LockedWheel& wheel : lock->wheels)
    if (wheel.name.starts_with("torch") || wheel.name.starts_with("nvidia-") ||
        wheel.name == "triton")
      facts.locked.push_back({wheel.name, wheel.version});
  const auto share = ShareDirectory();
  if (!share) return;
  const auto recipes = LoadRecipes(*share / "images", ProfileOptions(project));
  if (!recipes) return;
  const auto changes = LockDifferences(*lock, InputsOf(project, RecipesDigest(*recipes)));
  if (changes.empty()) return;
  facts.lock = "stale";
  facts.lock_detail = changes.front();
}

}  // namespace

doctor::ProjectFacts FindProject(const fs::path& directory) {
  doctor::ProjectFacts facts;
  fs::path file;
  for (fs::path at = fs::absolute(directory).lexically_normal(); file.empty();
       at = at.parent_path()) {
    std::error_code error;
    if (fs::exists(at / "envkit.toml", error)) file = at / "envkit.toml";
    if (!at.has_relative_path()) break;
  }
  if (file.empty()) return facts;
  facts.found = true;
  facts.file = file.string();
  const auto project = LoadProject(directory);
  if (!project) {
    facts.error = FirstLine(project.error().what);
    return facts;
  }
  facts.torch = project->environment.torch;
  facts.python = project->environment.python;
  facts.cuda = project->environment.cuda;
  facts.gpus = project->run.gpus;
  facts.shm = project->run.shm;
  for (const auto& [name, job] : project->jobs)
    if (const auto count = doctor::ToInteger(job.processes))
      facts.most_processes = std::max(facts.most_processes, *count);
  ReadLock(*project, facts);
  return facts;
}

doctor::ReportStyle StyleOf(const Terminal& terminal) {
  doctor::ReportStyle style;
  const Terminal::Options& options = terminal.options();
  style.verbose = terminal.verbose();
  style.quiet = options.verbosity == Verbosity::kQuiet;
  style.colour = options.colour && isatty(options.output_fd) == 1;
  if (isatty(options.output_fd) == 1) style.columns = std::clamp(options.columns, 60, 120);
  return style;
}

namespace {

Result<doctor::Facts> Gather(const fs::path& directory, const DoctorRequest& request) {
  if (!request.from.empty()) {
    std::string text;
    if (request.from == "-") {
      text.assign(std::istreambuf_iterator<char>(std::cin), {});
    } else {
      ENVKIT_TRY(text, ReadFile(directory / request.from));
    }
    auto facts = doctor::FactsFromJson(text);
    if (!facts) return Wrap(facts.error(), "reading " + request.from);
    return facts;
  }
  fs::path root = "/";
  if (!request.root.empty()) {
    root = directory / request.root;
    if (!fs::is_directory(root))
      return Usage(request.root + " is no directory",
                   "--root takes a tree with the machine's /proc, /sys, /dev and /etc.");
    root = fs::canonical(root);
  }
  doctor::Facts facts = doctor::ProbeMachine(root);
  if (root != "/") return facts;
  ProbeOci(facts.engines);
  facts.project = FindProject(directory);
  return facts;
}

}  // namespace

Result<int> CheckMachine(const fs::path& directory, const DoctorRequest& request,
                         Terminal& terminal) {
  const auto begin = std::chrono::steady_clock::now();
  ENVKIT_TRY(const doctor::Facts facts, Gather(directory, request));
  if (!request.save.empty()) {
    const auto scrubbed = doctor::Scrub(doctor::ToJson(facts));
    if (request.save == "-") {
      terminal.Answer(doctor::Dump(scrubbed, 2));
      return 0;
    }
    ENVKIT_CHECK(WriteFileAtomic(directory / request.save, doctor::Dump(scrubbed, 2) + "\n"));
    terminal.Step("saved", request.save +
                               ", without host names, user names and addresses; look it "
                               "through before you pass it on");
  }
  const doctor::Diagnosis diagnosis = doctor::Diagnose(facts, OwnMatrix());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  if (request.fix_script) {
    terminal.Answer(doctor::FixScript(diagnosis));
    return 0;
  }
  if (request.json) {
    terminal.Answer(doctor::ReportJson(facts, diagnosis)
                        .dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    doctor::ReportStyle style = StyleOf(terminal);
    style.seconds = request.from.empty() ? took.count() : -1;
    const std::string text = doctor::ReportText(facts, diagnosis, style);
    if (!text.empty()) terminal.Answer(text);  // --quiet has nothing to say of a sound machine
  }
  return diagnosis.Verdict() == "fail" ? 1 : 0;
}

}  // namespace envkit

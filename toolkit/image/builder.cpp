#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/files.h"
#include "host/facts.h"
#include "image/layer.h"
#include "image/parts.h"
#include "image/prune.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kCompilerMemory = 2'000'000'000;  // a file that includes torch's headers

int CompileJobs() {
  const HostFacts facts = ProbeHost();
  std::uint64_t jobs = static_cast<std::uint64_t>(std::max(facts.cpus, 1));
  if (facts.memory_bytes) {
    jobs = std::min(jobs, std::max<std::uint64_t>(*facts.memory_bytes / kCompilerMemory, 1));
  }
  return static_cast<int>(jobs);
}

// Follows a log that the sandbox writes, and turns ninja's "[7/42] …" into progress.
class LogFollower {
 public:
  LogFollower(fs::path log, Terminal& terminal)
      : log_(std::move(log)),
        progress_(terminal.StartProgress("build", "runtime", 0, "files")),
        thread_([this](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            Read();
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
          }
        }) {}

 private:
  void Read() {
    std::ifstream file(log_);
    file.seekg(offset_);
    for (std::string line; std::getline(file, line);) {
      if (file.eof()) break;  // its end is still to come
      offset_ = file.tellg();
      if (!line.starts_with('[')) continue;
      char* end = nullptr;
      const unsigned long done = std::strtoul(line.c_str() + 1, &end, 10);
      if (*end != '/') continue;
      const unsigned long total = std::strtoul(end + 1, &end, 10);
      if (*end != ']') continue;
      progress_->SetTotal(total);
      progress_->Set(done);
    }
  }

  fs::path log_;
  std::streamoff offset_ = 0;
  std::unique_ptr<Progress> progress_;
  std::jthread thread_;
};

Result<fs::path> Real(const fs::path& path) {
  std::error_code error;
  fs::path real = fs::canonical(path, error);
  if (error) return Missing(fmt::format("{}: {}", path.string(), error.message()));
  return real;
}

std::vector<std::string_view> Lines(std::string_view text) {
  std::vector<std::string_view> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

std::string FirstErrors(std::string_view log) {
  constexpr std::size_t kShown = 12;
  const std::vector<std::string_view> lines = Lines(log);
  auto first = std::find_if(lines.begin(), lines.end(), [](std::string_view line) {
    return line.find("error:") != std::string_view::npos || line.starts_with("CMake Error") ||
           line.find("undefined reference") != std::string_view::npos;
  });
  // Nothing that looks like an error: then its last lines.
  if (first == lines.end()) first = lines.end() - static_cast<long>(std::min(kShown, lines.size()));
  std::string text;
  for (auto line = first; line != lines.end() && line - first < static_cast<long>(kShown); ++line) {
    if (line->starts_with('[') || line->starts_with("ninja: ")) break;
    if (!line->empty()) text += fmt::format("\n  {}", *line);
  }
  return text;
}

Result<Layer> MakeRuntimeLayer(const ImagePlan& plan, const BuilderPlan& builder,
                               const Store& store, const fs::path& work, const RunInRoot& run,
                               Terminal& terminal) {
  const LayerPlan& layer = *FindKind(plan, "runtime");
  ENVKIT_TRY(const FileLock lock, LockKey(store, layer.key, layer.what, terminal));
  if (auto made = FindLayer(store, layer.key, layer.what)) return std::move(*made);

  ENVKIT_TRY(const fs::path share, ShareDirectory());
  ENVKIT_TRY(const fs::path runtime, Real(share / "runtime"));
  ENVKIT_TRY(const fs::path toolkit, Real(share / "toolkit"));
  const fs::path directory = work / layer.key;
  const fs::path build = work / "compile";
  ENVKIT_CHECK(MakeDirectories(directory / "fs"));
  ENVKIT_CHECK(MakeDirectories(build / "tmp"));

  BuildSandbox sandbox;
  sandbox.lower = BuilderTrees(plan, builder, store);
  sandbox.binds = {{runtime, "/src/runtime", true},
                   {toolkit, "/src/toolkit", true},
                   {build, "/build", false},
                   {directory / "fs", "/out", false}};
  sandbox.env = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                 {"HOME", "/build/tmp"},
                 {"TMPDIR", "/build/tmp"},
                 {"LC_ALL", "C.UTF-8"},
                 {"TZ", "UTC"},
                 {"SOURCE_DATE_EPOCH", std::to_string(layer.mtime)}};
  sandbox.argv = {
      "/bin/sh", "-c",
      fmt::format(
          "umask 022; {{ cmake -S /src/runtime -B /build -G Ninja "
          "-DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=ON -DCMAKE_INSTALL_PREFIX=/opt/envkit "
          "-DENVKIT_SITE_PACKAGES=/{} -DENVKIT_CUDA={} && ninja -C /build -j{} && "
          "DESTDIR=/out ninja -C /build install; }} > /build/envkit.log 2>&1",
          layer.site, plan.variant == "cuda" ? "ON" : "OFF", CompileJobs())};
  auto result = [&] {
    const LogFollower follower(build / "envkit.log", terminal);
    return run(sandbox);
  }();
  if (!result) return Wrap(std::move(result).error(), "compiling the runtime");
  if (result->exit_code != 0) {
    const std::string log = ReadFile(build / "envkit.log").value_or(result->output);
    const fs::path kept = store.data / "compile.log";
    ENVKIT_CHECK(WriteFileAtomic(kept, log));
    return Wrap(Error{ExitCode::kFailed,
                      fmt::format("exit code {}{}", result->exit_code, FirstErrors(log)),
                      fmt::format("All that the compiler said: {}", kept.string()),
                      {},
                      false},
                "compiling the runtime");
  }
  ENVKIT_TRY(Layer made, FinishTree(directory / "fs", layer.mtime, Modes::kPlain));
  return PublishLayer(store, layer, directory, std::move(made));
}

Result<std::vector<fs::path>> EnsureBuilderRoot(const Project& project, const Lock& lock,
                                                const Recipes& recipes, const std::string& variant,
                                                const Store& store, Terminal& terminal) {
  ENVKIT_TRY(const ImagePlan plan, PlanImage(project, lock, recipes, "train", variant));
  const BuilderPlan builder = PlanBuilder(plan);
  ENVKIT_TRY(const FileLock hold, HoldStore(store));
  const MissingParts missing = FindMissing(plan, builder, store, Wanted::kBuilder);
  if (missing.AnyLocked()) {
    ENVKIT_TRY(const FetchOutcome outcome,
               FetchParts(project, plan, builder, missing, store, terminal));
    if (!outcome.gone_debs.empty()) return Unexpected(GoneError(project, outcome.gone_debs));
    ENVKIT_CHECK(MakeParts(project, plan, builder, missing, store, {}, terminal));
  }
  return BuilderTrees(plan, builder, store);
}

}  // namespace envkit

// envkit-train: the bundled trainer.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "memory.h"
#include "report.h"
#include "trainer.h"

namespace {

using envkit::Error;

int Report(const Error& error) {
  std::fputs(error.Text().c_str(), stderr);
  return static_cast<int>(error.code);
}

std::string Environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

// What CALL returns, or the exit code of what it throws, which is printed. CONFIG is what it runs.
template <class Call>
int Guarded(const envkit::TrainConfig& config, const Call& call) {
  try {
    return call();
  } catch (const envkit::Failure& failure) {
    return Report({static_cast<envkit::ExitCode>(failure.exit_code()),
                   failure.what(),
                   failure.next(),
                   {},
                   false});
  } catch (const std::exception& error) {  // c10::Error: a bug, or LibTorch out of memory
    if (envkit::IsOutOfMemory(error)) {
      const std::string ranks = Environment("WORLD_SIZE", "1");
      return Report(envkit::OutOfMemory(error, config, std::max(1, std::atoi(ranks.c_str()))));
    }
    return Report({envkit::ExitCode::kFailed, error.what(), "", {}, false});
  }
}

int Export(const std::filesystem::path& checkpoint, const std::filesystem::path& out) {
  envkit::CheckFolder(checkpoint);
  const std::filesystem::path fresh = out.string() + ".part";
  envkit::WriteSafetensors(fresh, envkit::MergeSlices(checkpoint, "model"), {{"format", "pt"}});
  std::filesystem::rename(fresh, out);
  return 0;
}

int Report(const std::filesystem::path& run, const std::filesystem::path& out) {
  const std::string page = envkit::RunReport(run);
  const std::filesystem::path file = out.empty() ? run / "report.html" : out;
  envkit::WriteText(file, page);
  std::printf("%s\n", file.c_str());
  return 0;
}

int Main(int argc, char** argv) {
  // Activations of some MB come and go each step; by default glibc hands their pages back each
  // time, and the page faults cost more than the convolutions.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);

  CLI::App app(
      "Trains the model that a train.toml describes, on every rank that the launcher starts.",
      "envkit-train");
  app.footer(
      "Examples:\n"
      "  envkit-train --config train.toml\n"
      "  envkit-train --config train.toml --set epochs=1 --set optimizer.learning_rate=0.001\n"
      "  envkit-launch --processes 2 -- envkit-train --config train.toml --resume\n"
      "  envkit-train export .envkit/runs/latest/checkpoints/latest -o model.safetensors\n"
      "  envkit-train report .envkit/runs/latest\n"
      "The run's record goes to ENVKIT_RUN_DIR, else to a new folder below .envkit/runs.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 something is missing,\n"
      "75 told to stop (SIGTERM, SIGUSR1) and saved: go on with --resume.");
  std::string config = "train.toml";
  std::vector<std::string> settings;
  std::string resume;
  app.add_option("--config", config, "The configuration")->type_name("FILE")->capture_default_str();
  app.add_option("--set", settings, "Override one value of it; may be repeated")
      ->type_name("KEY=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  CLI::Option* wants_resume =
      app.add_option(
             "--resume", resume,
             "Go on at the exact step of a checkpoint: of the newest earlier run of this job "
             "(latest, the default), or of DIR")
          ->type_name("[latest|DIR]")
          ->expected(0, 1);
  app.require_subcommand(0, 1);
  std::string checkpoint, run, out;
  CLI::App* exporting = app.add_subcommand(
      "export",
      "Puts a checkpoint's weights together, as one safetensors file for any other program");
  exporting->add_option("CHECKPOINT", checkpoint, "Such as RUN/checkpoints/latest")->required();
  exporting->add_option("-o,--output", out, "The file")->type_name("FILE")->required();
  CLI::App* reporting =
      app.add_subcommand("report", "Writes a run's curves, times and environment as one HTML file");
  reporting->add_option("RUN", run, "Such as .envkit/runs/latest")->required();
  reporting->add_option("-o,--output", out, "The file; else RUN/report.html")->type_name("FILE");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return Report({envkit::ExitCode::kUsage, error.what(), "see envkit-train --help", {}, false});
  }

  if (*exporting) return Guarded({}, [&] { return Export(checkpoint, out); });
  if (*reporting) return Guarded({}, [&] { return Report(run, out); });
  envkit::TrainJob job;
  auto loaded = envkit::LoadConfig(config, settings);
  if (!loaded) return Report(loaded.error());
  job.config = *loaded;
  job.run = Environment("ENVKIT_RUN_DIR", "");
  job.name = Environment("ENVKIT_JOB", "train");
  if (*wants_resume) job.resume = resume.empty() ? "latest" : resume;

  struct sigaction stop {};
  stop.sa_handler = [](int) { envkit::stop_requested = 1; };
  stop.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &stop, nullptr);
  sigaction(SIGUSR1, &stop, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return Guarded(job.config, [&] { return envkit::Train(job); });
}

}  // namespace

int main(int argc, char** argv) {
  const int code = Main(argc, argv);
  // LibTorch's destructors take 0.1 s, and a rank that ends must not wait for its peers in them.
  std::fflush(nullptr);
  _exit(code);
}

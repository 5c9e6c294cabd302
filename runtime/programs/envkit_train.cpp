// envkit-train: the bundled trainer.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>

#include "envkit/failure.h"
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
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return Report({envkit::ExitCode::kUsage, error.what(), "see envkit-train --help", {}, false});
  }

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
  try {
    return envkit::Train(job);
  } catch (const envkit::Failure& failure) {
    return Report({static_cast<envkit::ExitCode>(failure.exit_code()),
                   failure.what(),
                   failure.next(),
                   {},
                   false});
  } catch (const std::exception& error) {  // c10::Error: a bug, or LibTorch out of memory
    return Report({envkit::ExitCode::kFailed, error.what(), "", {}, false});
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int code = Main(argc, argv);
  // LibTorch's destructors take 0.1 s, and a rank that ends must not wait for its peers in them.
  std::fflush(nullptr);
  _exit(code);
}

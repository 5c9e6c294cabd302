#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <stdexcept>

#include "commands/all.h"

using envkit::Action;
using envkit::Command;
using envkit::CommandGroup;
using envkit::Context;
using envkit::Missing;
using envkit::Result;
using envkit::RunCommandLine;

namespace {

// Sends a descriptor to a file without a name until Text() takes what was written.
class Capture {
 public:
  explicit Capture(int fd) : fd_(fd), saved_(dup(fd)), file_(std::tmpfile()) {
    std::fflush(nullptr);
    dup2(fileno(file_), fd_);
  }
  std::string Text() {
    dup2(saved_, fd_);
    close(saved_);
    std::string text(static_cast<std::size_t>(lseek(fileno(file_), 0, SEEK_END)), '\0');
    if (pread(fileno(file_), text.data(), text.size(), 0) < 0) text = "unreadable";
    std::fclose(file_);
    return text;
  }

 private:
  int fd_, saved_;
  std::FILE* file_;
};

// What the action saw.
struct Seen {
  std::string engine, job, directory;
  std::vector<std::string> passthrough, remaining;
  bool json = false, verbose = false, quiet = false;
};

std::vector<CommandGroup> Groups(Seen& seen) {
  const Command run{"run", "Run a job", "envkit run train\nenvkit run -- nproc",
                    [&seen](CLI::App& app) -> Action {
                      app.add_option("job", seen.job, "The job");
                      app.add_option("--engine", seen.engine, "Which engine")
                          ->check(CLI::IsMember({"docker", "oci"}));
                      return [&seen](Context& context) -> Result<int> {
                        seen.directory = context.directory.string();
                        seen.passthrough = context.passthrough;
                        seen.json = context.json;
                        seen.verbose = context.terminal.verbose();
                        seen.quiet =
                            context.terminal.options().verbosity == envkit::Verbosity::kQuiet;
                        if (seen.job == "missing") return Missing("no engine", "install one");
                        if (seen.job == "throw") throw std::logic_error("a defect");
                        return 42;
                      };
                    }};
  const Command launch{"launch", "Launch a program", "envkit launch ./train",
                       [&seen](CLI::App& app) -> Action {
                         app.prefix_command();
                         return [&seen, &app](Context&) -> Result<int> {
                           seen.remaining = app.remaining();
                           return 0;
                         };
                       }};
  return {{"Jobs", {run, launch}}};
}

struct Outcome {
  int code = 0;
  std::string out, error;
  Seen seen;
};

Outcome Call(const std::vector<std::string>& arguments) {
  Outcome outcome;
  const auto groups = Groups(outcome.seen);
  Capture out(1), error(2);
  outcome.code = RunCommandLine(groups, arguments);
  outcome.error = error.Text();
  outcome.out = out.Text();
  return outcome;
}

}  // namespace

TEST_CASE("global options may stand before and after the command") {
  Outcome outcome = Call({"-C", "/usr", "--json", "-v", "run", "train", "--engine", "oci"});
  CHECK(outcome.code == 42);
  CHECK(outcome.error.empty());
  CHECK(outcome.seen.directory == "/usr");
  CHECK(outcome.seen.json);
  CHECK(outcome.seen.verbose);
  CHECK(outcome.seen.engine == "oci");
  CHECK(outcome.seen.job == "train");

  outcome = Call({"run", "--engine=docker", "-q", "train", "--directory=bin", "-C/usr/bin"});
  CHECK(outcome.code == 42);
  CHECK(outcome.seen.directory == "/usr/bin");
  CHECK(outcome.seen.quiet);
  CHECK_FALSE(outcome.seen.json);
  CHECK(Call({"run"}).seen.directory == std::filesystem::current_path());
  CHECK(Call({"run", "-C", "x"}).seen.directory == std::filesystem::current_path() / "x");
}

TEST_CASE("what follows -- is never parsed") {
  const Outcome outcome = Call({"run", "train", "--", "--json", "-C", "--", "--engine", ""});
  CHECK(outcome.code == 42);
  CHECK_FALSE(outcome.seen.json);
  CHECK(outcome.seen.passthrough == std::vector<std::string>{"--json", "-C", "--", "--engine", ""});
  CHECK(Call({"run", "--"}).seen.passthrough.empty());
}

TEST_CASE("a command that runs a program leaves it its own options") {
  CHECK(Call({"launch", "-v", "./train", "-v", "--json", "--", "x"}).seen.remaining ==
        std::vector<std::string>{"./train", "-v", "--json", "--", "x"});
  CHECK(Call({"launch", "--", "./train", "-x"}).seen.remaining ==
        std::vector<std::string>{"--", "./train", "-x"});
}

TEST_CASE("wrong usage: what is wrong, and the nearest right word") {
  struct Row {
    std::vector<std::string> arguments;
    std::string text;
  };
  const Row rows[] = {
      {{"rnu", "train"},
       "error: there is no command \"rnu\"\n  did you mean run?\n  All commands: envkit --help\n"},
      {{"evaluate"}, "error: there is no command \"evaluate\"\n  All commands: envkit --help\n"},
      {{"run", "--eninge", "oci"},
       "error: envkit run has no option --eninge\n  did you mean --engine?\n"
       "  Options: envkit run --help\n"},
      {{"run", "--verbsoe"},
       "error: envkit run has no option --verbsoe\n  did you mean --verbose?\n"
       "  Options: envkit run --help\n"},
      {{"run", "-x"}, "error: envkit run has no option -x\n  Options: envkit run --help\n"},
      {{"run", "a", "b"}, "error: envkit run: what is \"b\" for?\n  Options: envkit run --help\n"},
      {{"run", "--engine", "dokcer"},
       "error: envkit run: --engine is docker or oci, not \"dokcer\"\n  did you mean docker?\n"
       "  Options: envkit run --help\n"},
      {{"run", "--engine"},
       "error: envkit run: --engine: 1 required TEXT:{docker,oci} missing\n"
       "  Options: envkit run --help\n"},
      {{"--engine=oci", "run"},
       "error: envkit has no option --engine\n"
       "  A command's own options follow its name: envkit COMMAND [OPTIONS]\n"},
      {{"run", "-q", "-v"}, "error: --quiet and --verbose exclude each other\n"},
  };
  for (const Row& row : rows) {
    const Outcome outcome = Call(row.arguments);
    CHECK(outcome.code == 2);
    CHECK(outcome.error == row.text);
    CHECK(outcome.out.empty());
  }
}

TEST_CASE("errors and defects end with their exit codes") {
  Outcome outcome = Call({"run", "missing"});
  CHECK(outcome.code == 3);
  CHECK(outcome.error == "error: no engine\n  install one\n");
  outcome = Call({"run", "throw"});
  CHECK(outcome.code == 1);
  CHECK(outcome.error ==
        "error: internal error: a defect\n"
        "  This is a defect of envkit; please report it with the command that you gave.\n");
}

TEST_CASE("help: of envkit, and of a command with its example") {
  const std::string help =
      "envkit: from one file to a locked, reproducible PyTorch image and a trained model\n"
      "\n"
      "Usage: envkit [-C DIR] COMMAND [OPTIONS]\n"
      "\n"
      "Jobs:\n"
      "  run         Run a job\n"
      "  launch      Launch a program\n"
      "\n"
      "With every command: -C DIR, --json, --quiet, --verbose, --help\n"
      "\n"
      "Example:\n"
      "  envkit run train        build what is missing, then train on every GPU\n";
  for (const auto& arguments : {std::vector<std::string>{}, {"--help"}, {"-h"}}) {
    const Outcome outcome = Call(arguments);
    CHECK(outcome.code == 0);
    CHECK(outcome.out == help);
    CHECK(outcome.error.empty());
  }
  for (const auto& arguments : {std::vector<std::string>{"run", "--help"}, {"--help", "run"}}) {
    const Outcome outcome = Call(arguments);
    CHECK(outcome.code == 0);
    CHECK(outcome.out ==
          "Run a job\n"
          "\n"
          "Usage: envkit run [OPTIONS] [job]\n"
          "\n"
          "Positionals:\n"
          "  job TEXT                    The job\n"
          "\n"
          "Options:\n"
          "  --engine docker|oci         Which engine\n"
          "\n"
          "Everywhere:\n"
          "  -C,--directory DIR          The project, or a directory in it\n"
          "  --json                      The answer as JSON on stdout\n"
          "  -q,--quiet                  Only errors and warnings\n"
          "  -v,--verbose                More about what is being done\n"
          "  -h,--help                   This text\n"
          "\n"
          "Example:\n"
          "  envkit run train\n"
          "  envkit run -- nproc\n");
  }
}

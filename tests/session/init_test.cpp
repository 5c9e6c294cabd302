#include "session/init.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <deque>
#include <fstream>

#include "base/files.h"
#include "base/scratch.h"
#include "project/project.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

const Matrix& Own() {
  static const Matrix matrix = *LoadMatrix(fs::path(std::getenv("ENVKIT_SOURCE_DIR")) / "images");
  return matrix;
}

Machine Driver(const std::string& driver) {
  Machine machine;
  machine.driver = driver;
  return machine;
}

Result<InitPlan> Plan(const InitRequest& request, const Machine& machine = {}) {
  return PlanInit(Own(), machine, request, "/home/ana/My Project", false);
}

std::string Refused(const InitRequest& request, const Machine& machine = {}) {
  const auto plan = Plan(request, machine);
  REQUIRE_FALSE(plan);
  CHECK(plan.error().code == ExitCode::kUsage);
  return plan.error().Text();
}

}  // namespace

TEST_CASE("the file that init writes") {
  const auto plan = Plan({"", "", "", "train.py", false}, Driver("550.54.14"));
  REQUIRE(plan);
  CHECK(plan->text ==
        "# Written by envkit init. Every key: docs/project-file.md. Then: envkit lock, envkit run "
        "train\n"
        "schema = 1\n"
        "\n"
        "[project]\n"
        "name = \"my-project\"\n"
        "\n"
        "[environment]\n"
        "torch = \"2.10\"             # the newest that driver 550.54.14 runs (CUDA 12.8)\n"
        "cuda = \"auto\"              # the build for GPUs; a machine without one gets the CPU "
        "variant of the same lock\n"
        "python = \"3.13\"            # the base's own\n"
        "base = \"debian:trixie\"\n"
        "packages = []              # Python requirements, such as \"numpy>=2\"\n"
        "system = []                # Debian packages, such as \"git\"\n"
        "\n"
        "[jobs.train]\n"
        "command = [\"train.py\"]\n"
        "processes = \"auto\"         # one per GPU; on a CPU one per NUMA node\n");
  const auto project = ParseProject(plan->text, "envkit.toml");
  REQUIRE(project);
  CHECK(project->jobs.at("train").command == std::vector<std::string>{"train.py"});
}

TEST_CASE("why which torch") {
  CHECK(Plan({})->torch == "2.15");
  CHECK(Plan({})->why == "the newest (CUDA 13.2); this machine has no NVIDIA driver to go by");
  CHECK(Plan({}, Driver("580.95.05"))->why ==
        "the newest (CUDA 13.2), which driver 580.95.05 runs");
  CHECK(Plan({"", "", "12.8", "", false})->torch == "2.10");
  CHECK(Plan({"", "", "12.8", "", false})->why == "the newest that is built for CUDA 12.8");
  CHECK(Plan({"", "", "cpu", "", false}, Driver("400.1"))->torch == "2.15");
  CHECK(Plan({"", "2.9.1", "", "", false}, Driver("550.54.14"))->torch == "2.9.1");
  CHECK(Plan({"", "2.15", "13.2", "", false}, Driver("550.54.14"))->cuda == "13.2");
}

TEST_CASE("what init refuses") {
  CHECK(Refused({"", "2.8", "12.1", "", false}) ==
        "error: PyTorch 2.8 has no build for CUDA 12.1\n"
        "  It was built for CUDA 12.6, 12.8 (default index) and 12.9.\n"
        "  The nearest that exists is cuda = \"12.6\"; the default index does not serve it: name "
        "one that does in [index].\n"
        "  On the default index the nearest is cuda = \"12.8\".\n"
        "  Details: envkit matrix --torch 2.8\n");
  CHECK(Refused({}, Driver("400.10")) ==
        "error: no PyTorch of the default index runs here: CUDA 13.2 needs NVIDIA driver 580 or "
        "newer, and this is 400.10\n"
        "  Update the driver to 580 or newer: driver 400.10 runs no build of the default index.\n"
        "  For the CPU alone: envkit init --cuda cpu\n");
  CHECK(Refused({"", "2.15", "", "", false}, Driver("550.54.14"))
            .starts_with("error: this machine cannot run PyTorch 2.15: CUDA 13.2 needs"));
  CHECK(Refused({"", "", "12.1", "", false})
            .starts_with("error: no PyTorch from 2.6 to 2.15 was built for CUDA 12.1\n"));
  CHECK(Refused({"My Name", "", "", "", false}) ==
        "error: --name is lower-case letters, digits, '.', '_' and '-', not \"My Name\"\n"
        "  envkit init --help has an example.\n");
  CHECK(
      Refused({"", "latest", "", "", false})
          .starts_with("error: --torch is a line such as 2.15, or a release such as 2.15.0, not"));
  CHECK(Refused({"", "", "twelve", "", false})
            .starts_with("error: --cuda is auto, cpu or a version such as 12.8, not \"twelve\""));
  CHECK(Refused({"", "", "", "-c", false})
            .starts_with("error: --script is a Python program in the project, not \"-c\""));
}

TEST_CASE("a script's name is quoted") {
  const auto plan = Plan({"", "", "", "my \"own\" \\ train.py", false});
  REQUIRE(plan);
  const auto project = ParseProject(plan->text, "envkit.toml");
  REQUIRE(project);
  CHECK(project->jobs.at("train").command[0] == "my \"own\" \\ train.py");
}

TEST_CASE("a name from a directory's") {
  CHECK(NameFrom("/home/ana/mnist") == "mnist");
  CHECK(NameFrom("/home/ana/My  Project!") == "my-project");
  CHECK(NameFrom("/home/ana/_x") == "x");
  CHECK(NameFrom("/home/ana/...") == "project");
  CHECK(NameFrom("/") == "project");
  CHECK(NameFrom("/" + std::string(200, 'a')) == std::string(63, 'a'));
  CHECK(NameFrom("/home/ana/Größe") == "gr-e");
}

TEST_CASE("scripts that are there are taken; else envkit's own trainer") {
  Scratch scratch;
  CHECK(ScriptIn(scratch.path()).empty());
  std::ofstream(scratch.path() / "main.py") << "pass\n";
  CHECK(ScriptIn(scratch.path()) == "main.py");
  std::ofstream(scratch.path() / "train.py") << "pass\n";
  CHECK(ScriptIn(scratch.path()) == "train.py");
  CHECK(Plan({})->text.find(R"(command = ["envkit-train", "--config", "train.toml"])") !=
        std::string::npos);
}

TEST_CASE("questions: what is given is not asked, an empty line and the end take the choice") {
  const auto plan = Plan({});
  std::vector<std::string> asked;
  std::deque<std::string> answers = {"", "2.10"};
  const AskLine ask = [&](const std::string& question) -> std::optional<std::string> {
    asked.push_back(question);
    if (answers.empty()) return std::nullopt;
    std::string line = answers.front();
    answers.pop_front();
    return line;
  };
  const InitRequest request = AskInit({"", "", "", "train.py", false}, *plan, ask);
  CHECK(request.name.empty());
  CHECK(request.torch == "2.10");
  CHECK(request.cuda.empty());
  REQUIRE(asked.size() == 3);
  CHECK(asked[0] == "name of the project and its images [my-project]: ");
  CHECK(asked[1] ==
        "torch (the newest (CUDA 13.2); this machine has no NVIDIA driver to go by) [2.15]: ");
  CHECK(asked[2] == "cuda: auto, cpu or a version [auto]: ");
}

TEST_CASE(
    "accelerate's questions are asked where they are wanted, and both files get the answers") {
  Scratch scratch;
  std::vector<std::string> asked;
  std::deque<std::string> answers = {"", "", "cpu", "yes", "several CPU processes"};
  const AskLine ask = [&](const std::string& question) -> std::optional<std::string> {
    asked.push_back(question);
    std::string line = answers.empty() ? "" : answers.front();
    if (!answers.empty()) answers.pop_front();
    return line;
  };
  const auto plan = Init(scratch.path(), {"", "", "", "train.py", false}, ask);
  REQUIRE(plan);
  CHECK(asked[3] == "ask what `accelerate config` asks as well [no]: ");
  const auto project = LoadProject(scratch.path() / "envkit.toml");
  REQUIRE(project);
  CHECK(project->jobs.at("train").processes == "2");
  const std::string yaml = ReadFile(scratch.path() / ".accelerate/config.yaml").value();
  CHECK(yaml.find("num_processes: 2\n") != std::string::npos);
}

TEST_CASE("a file that is there stays, unless it is to be overwritten") {
  Scratch scratch;
  const auto plan = Plan({});
  REQUIRE(WriteInit(scratch.path(), *plan, false));
  const auto again = WriteInit(scratch.path(), *plan, false);
  REQUIRE_FALSE(again);
  CHECK(again.error().code == ExitCode::kUsage);
  CHECK(again.error().Text() == "error: " + (scratch.path() / "envkit.toml").string() +
                                    " is there already\n  Edit it, or let it be written anew: "
                                    "envkit init --force\n");
  CHECK(WriteInit(scratch.path(), *plan, true));
  // A link to nowhere is one too.
  fs::remove(scratch.path() / "envkit.toml");
  fs::create_symlink("nowhere", scratch.path() / "envkit.toml");
  CHECK_FALSE(WriteInit(scratch.path(), *plan, false));
}

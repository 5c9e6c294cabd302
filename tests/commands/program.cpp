// The built program itself.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "commands/all.h"

namespace {

std::string Program() {
  const char* build = std::getenv("ENVKIT_BUILD_DIR");
  REQUIRE(build != nullptr);
  return std::string(build) + "/bin/envkit";
}

envkit::ProcessResult RunProgram(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), Program());
  envkit::ProcessSpec spec;
  spec.argv = std::move(arguments);
  auto result = envkit::RunProcess(spec);
  if (!result) FAIL(result.error().Text());
  return *result;
}

// SCRIPT, with the program as $1.
envkit::ProcessResult Bash(const std::string& script) {
  envkit::ProcessSpec spec;
  spec.argv = {"bash", "-c", script, "bash", Program()};
  auto result = envkit::RunProcess(spec);
  if (!result) FAIL(result.error().Text());
  return *result;
}

}  // namespace

TEST_CASE("version, for people and for machines") {
  auto result = RunProgram({"version"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.starts_with("envkit 0."));
  CHECK(RunProgram({"--version"}).out == result.out);

  result = RunProgram({"version", "--json"});
  const auto json = nlohmann::json::parse(result.out);
  CHECK(result.err.empty());
  CHECK(json.size() == 4);
  const std::string commit = json.at("commit");
  CHECK((commit == "unknown" || commit.size() >= 12));
  CHECK(json.at("version").get<std::string>().starts_with("0."));
  CHECK_FALSE(json.at("compiler").get<std::string>().empty());
  CHECK(json.at("libraries").size() >= 8);
  for (const auto& [name, version] : json.at("libraries").items()) {
    CAPTURE(name);
    CHECK_FALSE(version.get<std::string>().empty());
  }
  const auto verbose = RunProgram({"version", "--verbose"});
  CHECK(verbose.out.find("CLI11") != std::string::npos);
}

TEST_CASE("wrong usage is exit code 2, with nothing on stdout") {
  const auto result = RunProgram({"completion", "tcsh"});
  CHECK(result.exit_code == 2);
  CHECK(result.out.empty());
  CHECK(result.err ==
        "error: envkit completion: shell is bash, zsh or fish, not \"tcsh\"\n"
        "  Options: envkit completion --help\n");
}

TEST_CASE("a directory that is gone is no defect") {
  const auto result = Bash(R"(d=$(mktemp -d) && cd "$d" && rmdir "$d" && exec "$1" version)");
  CHECK(result.exit_code == 2);
  CHECK(result.err ==
        "error: the current directory: No such file or directory\n"
        "  It was removed or renamed. Change to one that is there.\n");
}

TEST_CASE("a reader that has gone is no failure") {
  const auto result = Bash(R"("$1" completion bash | true; echo "${PIPESTATUS[0]}")");
  CHECK(result.out == "0\n");
  CHECK(result.err.empty());
}

TEST_CASE("bash completes commands, options and choices") {
  const auto complete = [](const std::string& words) {
    const auto result = Bash("eval \"$(\"$1\" completion bash)\"; COMP_WORDS=(" + words +
                             "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _envkit; "
                             "echo \"${COMPREPLY[@]}\"");
    CHECK(result.err.empty());
    return result.out;
  };
  std::string all;
  for (const envkit::Command& command : envkit::AllCommands()) all += command.name + " ";
  CHECK(complete("envkit ''") == all + "-C --help --version\n");
  CHECK(complete("envkit vers") == "version\n");
  CHECK(complete("envkit -C /usr vers") == "version\n");
  CHECK(complete("envkit completion ''").starts_with("bash zsh fish --directory"));
  CHECK(complete("envkit version --ver") == "--verbose\n");
  CHECK(complete("envkit build --variant c") == "cpu cuda\n");
  CHECK(complete("envkit run -- --ver") == "\n");
}

TEST_CASE("the other shells' scripts name every command and option") {
  for (const char* shell : {"zsh", "fish"}) {
    const auto result = RunProgram({"completion", shell});
    CHECK(result.exit_code == 0);
    for (const envkit::Command& command : envkit::AllCommands())
      CHECK(result.out.find(command.name) != std::string::npos);
    CHECK(result.out.find("cpu cuda") != std::string::npos);
    CHECK(result.out.find("verbose") != std::string::npos);
  }
}

TEST_CASE("envkit starts in milliseconds") {
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    RunProgram({"version"});
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  MESSAGE("started and ended in ", best * 1000, " ms");
  CHECK(best < 1);  // something heavy is loaded; bench/start.py bounds the milliseconds
}

TEST_CASE("commands of two words") {
  auto result = RunProgram({"image"});
  CHECK(result.exit_code == 2);
  CHECK(result.err ==
        "error: envkit image: what is to be done?\n  ls, inspect, history, diff, sbom, provenance, "
        "save, load, push, pull or prune; with --help after it for more\n");
  result = RunProgram({"image", "inspekt"});
  CHECK(result.exit_code == 2);
  CHECK(result.err ==
        "error: there is no command \"image inspekt\"\n  did you mean inspect?\n  All of them: "
        "envkit "
        "image --help\n");
  result = RunProgram({"image", "prune", "--older-than", "3x"});
  CHECK(result.exit_code == 2);
  CHECK(result.err.find("an age such as 30d or 12h, not 3x") != std::string::npos);
  result = RunProgram({"image", "save", "--fromat", "oci"});
  CHECK(result.err.find("did you mean --format?") != std::string::npos);
  result = RunProgram({"image", "pull", "mnist"});
  CHECK(result.exit_code == 2);
  CHECK(RunProgram({"render"}).err ==
        "error: envkit render: what is to be written?\n  dockerfile, compose or devcontainer; with "
        "--help after it for more\n");
  result = RunProgram({"image", "inspect", "--help"});
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("Usage: envkit image inspect") != std::string::npos);
  CHECK(result.out.ends_with("Example:\n  envkit image inspect --tree mnist:train-cuda\n"));
  CHECK(RunProgram({"completion", "bash"}).out.find("inspect") != std::string::npos);
}

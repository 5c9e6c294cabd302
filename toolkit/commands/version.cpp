#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands/all.h"

// ENVKIT_VERSION, ENVKIT_COMMIT and ENVKIT_LIBRARIES ("curl 7.88.1,…") come from CMake.

namespace envkit {
namespace {

std::string Compiler() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

nlohmann::json Libraries() {
  nlohmann::json libraries = nlohmann::json::object();
  const std::string list = ENVKIT_LIBRARIES;
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    const std::size_t space = list.find(' ', at);
    libraries[list.substr(at, space - at)] = list.substr(space + 1, end - space - 1);
    at = end + 1;
  }
  return libraries;
}

Result<int> Version(Context& context) {
  if (context.json) {
    context.terminal.Answer(nlohmann::json{
        {"version", ENVKIT_VERSION},
        {"commit", ENVKIT_COMMIT},
        {"compiler", Compiler()},
        {"libraries",
         Libraries()}}.dump(2));
    return 0;
  }
  context.terminal.Answer(fmt::format("envkit {} ({})", ENVKIT_VERSION, ENVKIT_COMMIT));
  if (!context.terminal.verbose()) return 0;
  context.terminal.Answer(fmt::format("  {:14}{}", "compiler", Compiler()));
  const nlohmann::json libraries = Libraries();
  for (const auto& [name, version] : libraries.items())
    context.terminal.Answer(fmt::format("  {:14}{}", name, version.get<std::string>()));
  return 0;
}

}  // namespace

std::string EnvkitVersion() { return ENVKIT_VERSION; }

Command VersionCommand() {
  return {"version", "Say which envkit this is, and what it was built with",
          "envkit version --json", [](CLI::App&) -> Action { return Version; }};
}

}  // namespace envkit

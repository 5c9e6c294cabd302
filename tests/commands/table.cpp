#include <doctest/doctest.h>

#include <set>

#include "commands/all.h"

// Every command of the real table: what its help needs is there, and its flags do not clash.
TEST_CASE("the table of commands") {
  std::set<std::string> names;
  for (const envkit::Command& command : envkit::AllCommands()) {
    CAPTURE(command.name);
    CHECK(names.insert(command.name).second);
    CHECK_FALSE(command.summary.empty());
    CHECK(command.summary.size() <= 68);
    CHECK_FALSE(command.summary.ends_with('.'));
    CHECK(command.summary.find('\n') == std::string::npos);
    CHECK(command.example.find("envkit " + command.name) != std::string::npos);
    CHECK_FALSE(command.example.ends_with('\n'));

    CLI::App app;
    envkit::GlobalOptions global;
    envkit::Action action;
    REQUIRE_NOTHROW(action = command.setup(app));
    CHECK(action);
    REQUIRE_NOTHROW(envkit::AddGlobalOptions(app, global));
    std::set<std::string> flags;
    for (const CLI::Option* option : std::as_const(app).get_options()) {
      if (option->get_group().empty()) continue;  // known, but not shown
      CAPTURE(option->get_name());
      CHECK_FALSE(option->get_description().empty());
      CHECK_FALSE(option->get_description().ends_with('.'));
      for (const std::string& flag : option->get_lnames()) CHECK(flags.insert("--" + flag).second);
      for (const std::string& flag : option->get_snames()) CHECK(flags.insert("-" + flag).second);
    }
    for (const char* flag : {"--directory", "-C", "--json", "--quiet", "--verbose", "--help"})
      CHECK(flags.contains(flag));
  }
  for (const char* name :
       {"lock", "build", "image", "render", "run", "launch", "completion", "version"})
    CHECK(names.contains(name));
}

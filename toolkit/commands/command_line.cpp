#include <fmt/format.h>

#include <exception>
#include <memory>

#include "base/text.h"
#include "commands/all.h"
#include "commands/command.h"

namespace envkit {
namespace {

// What is written before the command's name: global options alone.
struct Split {
  std::vector<std::string> arguments;    // without the command's name, before any "--"
  std::vector<std::string> passthrough;  // after it
  bool separated = false;                // was there a "--"?
  std::string command;                   // "" where there is none
  std::string foreign;                   // an option before the command that is not a global one
  bool version = false;                  // --version without a command
};

bool IsGlobalFlag(const std::string& word) {
  for (const char* flag : {"--json", "--quiet", "-q", "--verbose", "-v", "--help", "-h"})
    if (word == flag) return true;
  return false;
}

Split SplitArguments(const std::vector<std::string>& given) {
  Split split;
  std::size_t i = 0;
  for (; i < given.size() && given[i] != "--"; ++i) {
    const std::string& word = given[i];
    if (!split.command.empty() || (word.starts_with('-') && word.size() > 1)) {
      split.arguments.push_back(word);
    } else {
      split.command = word;
      continue;
    }
    if (!split.command.empty()) continue;
    if (word == "-C" || word == "--directory") {
      if (i + 1 < given.size()) split.arguments.push_back(given[++i]);
    } else if (word == "--version") {
      split.version = true;
    } else if (!IsGlobalFlag(word) && !word.starts_with("-C") &&
               !word.starts_with("--directory=") && split.foreign.empty()) {
      split.foreign = word.substr(0, word.find('='));
    }
  }
  split.separated = i < given.size();
  if (split.separated)
    split.passthrough.assign(given.begin() + static_cast<std::ptrdiff_t>(i) + 1, given.end());
  return split;
}

std::string Help(const std::vector<CommandGroup>& groups) {
  std::string text =
      "envkit: from one file to a locked, reproducible PyTorch image and a trained model\n\n"
      "Usage: envkit [-C DIR] COMMAND [OPTIONS]\n";
  for (const CommandGroup& group : groups) {
    text += fmt::format("\n{}:\n", group.title);
    for (const Command& command : group.commands)
      text += fmt::format("  {:12}{}\n", command.name, command.summary);
  }
  return text +
         "\nWith every command: -C DIR, --json, --quiet, --verbose, --help\n"
         "\nExample:\n  envkit run train        build what is missing, then train on every GPU\n";
}

// CLI11's layout with less in it: "--engine docker|oci", and nothing about what excludes what.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_items_expected_max() == 0) return "";
    std::string text;
    for (const std::string& choice : SplitChoices(option->get_type_name()))
      text += (text.empty() ? " " : "|") + choice;
    if (text.empty()) text.append(" ").append(option->get_type_name());
    return text;
  }
};

std::string CommandHelp(const CLI::App& app, const Command& command) {
  std::string text = app.help();
  for (std::size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
  while (text.ends_with('\n')) text.pop_back();
  if (!app.get_subcommands().empty()) return text + "\n";  // it has an example of its own
  text += "\n\nExample:\n";
  for (std::size_t at = 0; at < command.example.size();) {
    const std::size_t end = std::min(command.example.find('\n', at), command.example.size());
    text += "  " + command.example.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return text;
}

std::string DidYouMean(const std::optional<std::string>& near, const std::string& otherwise) {
  return near ? "did you mean " + *near + "?\n" + otherwise : otherwise;
}

Unexpected NoSuchCommand(const std::string& name, const std::vector<CommandGroup>& groups) {
  std::vector<std::string> names;
  for (const CommandGroup& group : groups)
    for (const Command& command : group.commands) names.push_back(command.name);
  return Usage(fmt::format("there is no command \"{}\"", name),
               DidYouMean(ClosestMatch(name, names), "All commands: envkit --help"));
}

// CLI11's answer to wrong usage, with the nearest right option.
Unexpected WrongUsage(const CLI::App& app, const CLI::ParseError& error, const std::string& name) {
  // The innermost subcommand that was named ("doctor explain") knows the options that fit there.
  const CLI::App* last = &app;
  std::string command = name;
  while (!last->get_subcommands().empty()) {
    last = last->get_subcommands().back();
    command += " " + last->get_name();
  }
  const std::string help = fmt::format("Options: envkit {} --help", command);
  std::vector<std::string> extras;
  for (const CLI::ExitCodes code : {CLI::ExitCodes::ExtrasError, CLI::ExitCodes::RequiredError})
    if (error.get_exit_code() == static_cast<int>(code)) extras = app.remaining(true);
  for (const std::string& extra : extras) {
    if (!extra.starts_with('-') || extra == "-") continue;
    const std::string option = extra.substr(0, extra.find('='));
    std::vector<std::string> known;
    for (const CLI::App* level : {&app, last})
      for (const CLI::Option* one : level->get_options())
        for (const std::string& known_name : one->get_lnames()) known.push_back("--" + known_name);
    return Usage(fmt::format("envkit {} has no option {}", command, option),
                 DidYouMean(ClosestMatch(option, known), help));
  }
  std::vector<std::string> subcommands;
  for (const CLI::App* known : app.get_subcommands([](const CLI::App*) { return true; }))
    subcommands.push_back(known->get_name());
  if (!extras.empty() && last == &app && !subcommands.empty())
    return Usage(fmt::format("there is no command \"{} {}\"", command, extras.front()),
                 DidYouMean(ClosestMatch(extras.front(), subcommands),
                            fmt::format("All of them: envkit {} --help", command)));
  if (!extras.empty())
    return Usage(fmt::format("envkit {}: what is \"{}\" for?", command, extras.front()), help);
  const std::string what = error.what();
  const std::size_t colon = what.find(": "), in = what.rfind(" not in {");
  if (colon == std::string::npos || in == std::string::npos || in < colon || !what.ends_with('}'))
    return Usage(fmt::format("envkit {}: {}", command, what), help);
  const std::string value = what.substr(colon + 2, in - colon - 2);
  const std::vector<std::string> choices = SplitChoices(what.substr(in + 8));
  return Usage(fmt::format("envkit {}: {} is {}, not \"{}\"", command, what.substr(0, colon),
                           JoinOr(choices), value),
               DidYouMean(ClosestMatch(value, choices), help));
}

const Command* Find(const std::vector<CommandGroup>& groups, const std::string& name) {
  for (const CommandGroup& group : groups)
    for (const Command& command : group.commands)
      if (command.name == name) return &command;
  return nullptr;
}

Terminal::Options TerminalOptions(const GlobalOptions& global) {
  Terminal::Options options = Terminal::Detect();
  options.json = global.json;
  if (global.verbose) options.verbosity = Verbosity::kVerbose;
  if (global.quiet) options.verbosity = Verbosity::kQuiet;
  return options;
}

int Print(const Error& error) {
  Terminal(Terminal::Detect()).Error(error.Text());
  return static_cast<int>(error.code);
}

int Run(const Command& command, Split split) {
  CLI::App app(command.summary + "\n", "envkit " + command.name);
  app.formatter(std::make_shared<HelpFormatter>());
  GlobalOptions global;
  const Action action = command.setup(app);
  AddGlobalOptions(app, global);                      // last, as in the help
  if (app.get_prefix_command() && split.separated) {  // all is its program's, "--" included
    split.arguments.push_back("--");
    split.arguments.insert(split.arguments.end(), split.passthrough.begin(),
                           split.passthrough.end());
    split.passthrough.clear();
  }
  try {
    app.parse(std::vector<std::string>(split.arguments.rbegin(), split.arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    Terminal(Terminal::Detect()).Answer(CommandHelp(app, command));
    return 0;
  } catch (const CLI::ParseError& error) {
    return Print(WrongUsage(app, error, command.name).value());
  }
  if (global.quiet && global.verbose)
    return Print(Usage("--quiet and --verbose exclude each other").value());
  Terminal terminal(TerminalOptions(global));
  std::error_code failed;
  std::filesystem::path directory = std::filesystem::current_path(failed);
  if (failed)
    return Print(Usage("the current directory: " + failed.message(),
                       "It was removed or renamed. Change to one that is there.")
                     .value());
  if (!global.directory.empty()) directory /= global.directory;
  Context context{terminal, directory, global.json, std::move(split.passthrough)};
  const Result<int> code = action(context);
  if (code) return *code;
  terminal.Error(code.error().Text());
  return static_cast<int>(code.error().code);
}

int Dispatch(const std::vector<CommandGroup>& groups, const std::vector<std::string>& arguments) {
  Split split = SplitArguments(arguments);
  if (!split.foreign.empty())
    return Print(Usage(fmt::format("envkit has no option {}", split.foreign),
                       "A command's own options follow its name: envkit COMMAND [OPTIONS]")
                     .value());
  if (split.version) {
    split.command = "version";
    std::erase(split.arguments, "--version");
  }
  if (split.command.empty()) {
    Terminal(Terminal::Detect()).Answer(Help(groups));
    return 0;
  }
  const Command* command = Find(groups, split.command);
  if (command == nullptr) return Print(NoSuchCommand(split.command, groups).value());
  return Run(*command, std::move(split));
}

}  // namespace

std::vector<std::string> SplitChoices(const std::string& text) {
  std::vector<std::string> choices;
  const std::size_t open = text.find('{'), close = text.find('}');
  if (open == std::string::npos || close == std::string::npos) return choices;
  for (std::size_t at = open + 1; at < close;) {
    const std::size_t end = std::min(text.find(',', at), close);
    choices.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return choices;
}

void AddGlobalOptions(CLI::App& app, GlobalOptions& options) {
  app.set_help_flag();
  app.add_option("-C,--directory", options.directory, "The project, or a directory in it")
      ->type_name("DIR")
      ->take_last()
      ->group("Everywhere");
  app.add_flag("--json", options.json, "The answer as JSON on stdout")->group("Everywhere");
  // launch has a --quiet of its own, which the program in images has as well.
  if (app.get_option_no_throw("--quiet") == nullptr)
    app.add_flag("-q,--quiet", options.quiet, "Only errors and warnings")->group("Everywhere");
  app.add_flag("-v,--verbose", options.verbose, "More about what is being done")
      ->group("Everywhere");
  app.set_help_flag("-h,--help", "This text")->group("Everywhere");
}

int RunCommandLine(const std::vector<CommandGroup>& groups,
                   const std::vector<std::string>& arguments) {
  try {
    return Dispatch(groups, arguments);
  } catch (const std::exception& error) {
    return Print({ExitCode::kFailed,
                  fmt::format("internal error: {}", error.what()),
                  "This is a defect of envkit; please report it with the command that you gave.",
                  {},
                  false});
  }
}

}  // namespace envkit

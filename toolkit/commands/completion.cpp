#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "commands/all.h"

namespace envkit {
namespace {

struct Flag {
  std::string name, text;  // "--engine"
  bool value = false;
  std::vector<std::string> choices;
};
struct Words {
  std::string command, summary;
  std::vector<Flag> flags;
  std::vector<std::string> arguments;  // what can stand without an option
};

void AddFlags(const CLI::App& app, Words& words) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      const auto same = [&](const Flag& flag) { return flag.name == "--" + name; };
      if (std::any_of(words.flags.begin(), words.flags.end(), same)) continue;
      words.flags.push_back({"--" + name, option->get_description(),
                             option->get_items_expected_max() > 0,
                             SplitChoices(option->get_type_name())});
    }
  }
}

std::vector<Words> TheTable() {
  std::vector<Words> table;
  for (const Command& command : AllCommands()) {
    Words words{command.name, command.summary, {}, {}};
    CLI::App app;
    GlobalOptions global;
    const Action action = command.setup(app);
    AddGlobalOptions(app, global);
    AddFlags(app, words);
    for (const CLI::Option* option : std::as_const(app).get_options()) {
      if (option->get_positional()) words.arguments = SplitChoices(option->get_type_name());
    }
    for (const CLI::App* subcommand : app.get_subcommands([](const CLI::App*) { return true; })) {
      words.arguments.push_back(subcommand->get_name());
      AddFlags(*subcommand, words);
    }
    table.push_back(std::move(words));
  }
  return table;
}

std::string Spaced(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// For use between single quotes; zsh's _arguments also gives ':' and brackets a meaning.
std::string Plain(std::string_view text) {
  std::string plain;
  for (char c : text) {
    if (c == '\'' || c == '[' || c == ']' || c == ':' || c == '\\') continue;
    plain += c;
  }
  return plain;
}

std::string Bash() {
  std::string commands, flags, values;
  for (const Words& words : TheTable()) {
    commands += (commands.empty() ? "" : " ") + words.command;
    std::string all = Spaced(words.arguments);
    for (const Flag& flag : words.flags) {
      all += (all.empty() ? "" : " ") + flag.name;
      if (flag.choices.empty()) continue;
      values += fmt::format("    '{} {}') words='{}' ;;\n", words.command, flag.name,
                            Spaced(flag.choices));
    }
    flags += fmt::format("    {}) words='{}' ;;\n", words.command, all);
  }
  return fmt::format(R"sh(# Completion for bash: eval "$(envkit completion bash)"
_envkit() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command='' words='' i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
    --) return ;;
    -C | --directory) ((i++)) ;;
    -*) ;;
    *) command=${{command:-${{COMP_WORDS[i]}}}} ;;
    esac
  done
  case $prev in -C | --directory) COMPREPLY=($(compgen -d -- "$cur")); return ;; esac
  case $command in
    '') words='{} -C --help --version' ;;
{}  esac
  case "$command $prev" in
    '') ;;
{}  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _envkit envkit)sh",
                     commands, flags, values);
}

std::string Zsh() {
  std::string commands, cases;
  for (const Words& words : TheTable()) {
    commands += fmt::format("    '{}:{}'\n", words.command, Plain(words.summary));
    std::string arguments;
    for (const Flag& flag : words.flags) {
      arguments += fmt::format(" \\\n        '{}[{}]", flag.name, Plain(flag.text));
      if (!flag.choices.empty()) {
        arguments += fmt::format(":value:({})", Spaced(flag.choices));
      } else if (flag.value) {
        arguments += flag.name == "--directory" ? ":directory:_files -/" : ":value:_files";
      }
      arguments += '\'';
    }
    arguments += words.arguments.empty()
                     ? " \\\n        '*:argument:_files'"
                     : fmt::format(" \\\n        '1:argument:({})'", Spaced(words.arguments));
    cases += fmt::format("      {}) _arguments{} ;;\n", words.command, arguments);
  }
  return fmt::format(R"sh(#compdef envkit
# Completion for zsh: eval "$(envkit completion zsh)", after compinit
_envkit() {{
  local curcontext=$curcontext state line
  local -a commands=(
{}  )
  _arguments -C '-C[the project]:directory:_files -/' '--help[help]' '--version[version]' \
    '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument) case $words[1] in
{}    esac ;;
  esac
}}
compdef _envkit envkit)sh",
                     commands, cases);
}

std::string Fish() {
  std::string text =
      "# Completion for fish: envkit completion fish | source\n"
      "complete -c envkit -s C -l directory -r -a '(__fish_complete_directories)' -d 'the "
      "project'\n";
  for (const Words& words : TheTable()) {
    const std::string seen =
        fmt::format("complete -c envkit -n '__fish_seen_subcommand_from {}'", words.command);
    text += fmt::format("complete -c envkit -n __fish_use_subcommand -f -a {} -d '{}'\n",
                        words.command, Plain(words.summary));
    for (const Flag& flag : words.flags) {
      if (flag.name == "--directory") continue;
      text += fmt::format("{} -l {} -d '{}'", seen, flag.name.substr(2), Plain(flag.text));
      if (!flag.choices.empty()) {
        text += fmt::format(" -x -a '{}'", Spaced(flag.choices));
      } else if (flag.value) {
        text += " -r";
      }
      text += '\n';
    }
    if (!words.arguments.empty())
      text += fmt::format("{} -f -a '{}'\n", seen, Spaced(words.arguments));
  }
  return text;
}

}  // namespace

Command CompletionCommand() {
  return {"completion", "Print the completion script of a shell",
          "eval \"$(envkit completion bash)\"      in ~/.bashrc", [](CLI::App& app) -> Action {
            auto shell = std::make_shared<std::string>();
            app.add_option("shell", *shell, "Whose script")
                ->required()
                ->check(CLI::IsMember({"bash", "zsh", "fish"}));
            return [shell](Context& context) -> Result<int> {
              context.terminal.Answer(*shell == "bash" ? Bash() : *shell == "zsh" ? Zsh() : Fish());
              return 0;
            };
          }};
}

}  // namespace envkit

#include "launch/options.h"

#include <fmt/format.h>

#include "base/text.h"
#include "launch/flags.h"

namespace envkit {

const char* const kLaunchExample =
    "envkit launch train.py --lr 0.1          one rank per GPU\n"
    "envkit launch --processes 2 -- ./train   two ranks of a program\n"
    "envkit launch --nnodes 2 --node-rank 0 --rdzv-endpoint node-a:29500 train.py";

namespace {

const char* TypeName(const FlagRow& row) {
  const std::string_view setting = row.setting;
  if (setting == "nproc_per_node") return "N|auto";
  if (setting == "grace" || setting == "node_timeout" || setting == "hang_timeout")
    return "SECONDS";
  if (setting.ends_with("port")) return "PORT";
  if (setting == "log_dir") return "DIR";
  if (setting == "config_file") return "FILE";
  return "X";
}

}  // namespace

void AddLaunchOptions(CLI::App& app, LaunchOptions& options) {
  app.prefix_command();
  for (const FlagRow& row : FlagRows()) {
    const std::string dashed = std::string("--") + row.name;
    std::string names = dashed;
    if (row.letter != 0) names = fmt::format("-{},{}", row.letter, names);
    const std::string underscored = "--" + Underscored(row.name);
    if (underscored != dashed) names += "," + underscored;
    // The first and the last of several say the same as argparse: the last one counts.
    const auto set = [&options, &row, dashed](std::string value) {
      if (row.refused != nullptr) {
        throw CLI::ValidationError(fmt::format("{} is not supported: {}", dashed, row.refused));
      }
      options.flags[row.setting] = {std::move(value), dashed};
    };
    const std::string help = row.help != nullptr      ? row.help
                             : row.refused != nullptr ? row.refused
                                                      : "as torchrun or accelerate launch has it";
    CLI::Option* option =
        row.switched
            ? app.add_flag_function(
                  names, [set](std::int64_t) { set("True"); }, help)
            : app.add_option_function<std::string>(names, set, help)->type_name(TypeName(row));
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    if (row.help == nullptr) option->group("");  // known, but not shown
  }
  app.add_flag("--init", options.init,
               "run one program without ranks: pass signals on, reap orphans");
  app.add_flag("-q,--quiet", options.quiet, "print only what the ranks print, and failures");
  app.add_flag("--save-config,--save_config", options.save_config,
               "ask what accelerate config asks, write its file and envkit.toml's part, and start "
               "nothing");
  app.add_flag("--explain", options.explain,
               "say what every setting is and where it comes from, and start nothing");
}

Result<void> TakeProgram(const CLI::App& app, LaunchOptions& options) {
  options.program = app.remaining();
  if (options.program.empty()) return {};
  const std::string& first = options.program.front();
  if (first == "--") {
    options.program.erase(options.program.begin());
  } else if (first.starts_with("-")) {
    std::vector<std::string> known{"--init", "--explain", "--quiet", "--help", "--save-config"};
    for (const FlagRow& row : FlagRows()) known.push_back(std::string("--") + row.name);
    std::string name = first.substr(0, first.find('='));
    for (char& c : name) c = c == '_' ? '-' : c;
    const auto meant = ClosestMatch(name, known);
    return Usage(fmt::format("unknown option {}", first),
                 meant
                     ? fmt::format("Did you mean {}? Options of your program go behind it.", *meant)
                     : "Options of your program go behind it. See --help.");
  }
  return {};
}

}  // namespace envkit

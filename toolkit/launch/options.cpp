#include "launch/options.h"

#include <fmt/format.h>

#include <charconv>

namespace envkit {

const char* const kLaunchExample =
    "envkit launch train.py --lr 0.1          one rank per GPU\n"
    "envkit launch --processes 2 -- ./train   two ranks of a program";

void AddLaunchOptions(CLI::App& app, LaunchOptions& options) {
  app.prefix_command();
  app.add_option_function<std::string>(
         "--processes,--nproc-per-node,--nproc_per_node",
         [&options](const std::string& text) {
           if (text == "auto") {
             options.processes.reset();
             return;
           }
           int number = 0;
           const char* end = text.data() + text.size();
           const auto [at, error] = std::from_chars(text.data(), end, number);
           if (error != std::errc() || at != end || number < 1 || number > 4096) {
             throw CLI::ValidationError(
                 fmt::format("--processes: '{}' is neither a number of ranks nor auto", text));
           }
           options.processes = number;
         },
         "ranks to start; auto: one per GPU, else one per NUMA node and at least 2")
      ->type_name("N|auto");
  app.add_option("--master-addr", options.master_addr, "address at which the ranks meet")
      ->capture_default_str()
      ->type_name("ADDRESS");
  app.add_option("--master-port", options.master_port, "port at which they meet; 0: a free one")
      ->check(CLI::Range(0, 65535).description(""))
      ->type_name("PORT");
  app.add_option("--log-dir", options.log_dir,
                 "logs of the ranks and outcome.json; earlier ones there are replaced")
      ->type_name("DIR");
  app.add_option("--grace", options.grace,
                 "seconds from SIGTERM to SIGKILL (25 for a stop that was asked for, 5 for the "
                 "peers of a failed rank)")
      ->check(CLI::Range(0.0, 86400.0).description(""))
      ->type_name("SECONDS");
  app.add_flag("-m,--module", options.module, "run a Python module, as python -m does");
  app.add_flag("--no-python", options.no_python, "run a .py file as a program of its own");
  app.add_flag("--init", options.init,
               "run one program without ranks: pass signals on, reap orphans");
  app.add_flag("-q,--quiet", options.quiet, "print only what the ranks print, and failures");
}

Result<void> TakeProgram(const CLI::App& app, LaunchOptions& options) {
  options.program = app.remaining();
  if (!options.program.empty() && options.program.front() == "--") {
    options.program.erase(options.program.begin());
  } else if (!options.program.empty() && options.program.front().starts_with("-")) {
    return Usage(fmt::format("unknown option {}", options.program.front()),
                 "Options of your program go behind it. See --help.");
  }
  return {};
}

}  // namespace envkit

#include <iostream>
#include <iterator>
#include <memory>

#include "commands/all.h"
#include "doctor/report.h"
#include "session/check_fleet.h"
#include "session/check_machine.h"

namespace envkit {
namespace {

Result<int> ExplainMessage(const std::vector<std::string>& words, Context& context) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  ENVKIT_TRY(const std::string answer, doctor::ExplainText(text));
  context.terminal.Answer(answer);
  return 0;
}

}  // namespace

Command DoctorCommand() {
  return {
      "doctor", "Say what of this machine keeps jobs from running, and what to do",
      "envkit doctor\n"
      "envkit doctor --save machine.json      for a bug report; read it with --from\n"
      "envkit doctor --hosts 'gpu[01-08]'     over ssh; what differs between them\n"
      "envkit doctor explain H03\n"
      "envkit doctor explain 'could not select device driver \"\" with capabilities: [[gpu]]'",
      [](CLI::App& app) -> Action {
        auto request = std::make_shared<DoctorRequest>();
        auto fleet = std::make_shared<FleetRequest>();
        auto limit = std::make_shared<int>(static_cast<int>(fleet->limit.count()));
        auto words = std::make_shared<std::vector<std::string>>();
        CLI::Option* root =
            app.add_option("--root", request->root, "A captured tree instead of this machine")
                ->type_name("DIR");
        app.add_option("--from", request->from,
                       "Diagnose what --save wrote, here or elsewhere; - is stdin")
            ->type_name("FILE")
            ->excludes(root);
        app.add_option("--save", request->save,
                       "Write what was found, without names and secrets; - is stdout")
            ->type_name("FILE");
        CLI::Option* hosts =
            app.add_option("--hosts", fleet->hosts,
                           "Ask these hosts over ssh and compare them: a,b or gpu[01-08]; slurm: "
                           "those of this allocation")
                ->type_name("HOSTS");
        for (const char* other : {"--root", "--from", "--save"})
          hosts->excludes(app.get_option(other));
        app.add_option("--ssh-config", fleet->ssh_config, "ssh's configuration, as ssh -F")
            ->type_name("FILE")
            ->needs(hosts);
        app.add_option("--host-limit", *limit, "Seconds for one host")
            ->type_name("S")
            ->check(CLI::Range(1, 3600))
            ->capture_default_str()
            ->needs(hosts);
        app.add_flag("--send", fleet->send,
                     "Send this envkit to the hosts, for the moment, rather than use theirs")
            ->needs(hosts);
        app.add_flag("--fix-script", request->fix_script,
                     "Print the remedies as a shell script, to be read and run")
            ->excludes(hosts);
        CLI::App* explain =
            app.add_subcommand("explain", "What a check looks at, or what an error message means");
        explain->add_option("check", *words, "H03, or a message; - is stdin")
            ->type_name("ID|TEXT")
            ->required();
        explain->fallthrough();
        return [request, fleet, limit, words, explain](Context& context) -> Result<int> {
          if (explain->parsed()) return ExplainMessage(*words, context);
          if (!fleet->hosts.empty()) {
            fleet->json = context.json;
            fleet->limit = std::chrono::seconds(*limit);
            return CheckFleet(context.directory, *fleet, context.terminal);
          }
          request->json = context.json;
          return CheckMachine(context.directory, *request, context.terminal);
        };
      }};
}

}  // namespace envkit

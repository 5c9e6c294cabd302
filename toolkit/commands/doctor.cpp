#include <iostream>
#include <iterator>
#include <memory>

#include "commands/all.h"
#include "doctor/report.h"
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
      "envkit doctor explain H03\n"
      "envkit doctor explain 'could not select device driver \"\" with capabilities: [[gpu]]'",
      [](CLI::App& app) -> Action {
        auto request = std::make_shared<DoctorRequest>();
        auto words = std::make_shared<std::vector<std::string>>();
        CLI::Option* root =
            app.add_option("--root", request->root, "A captured tree instead of this machine")
                ->type_name("DIR");
        app.add_option("--from", request->from,
                       "Diagnose what --save wrote, here or elsewhere; - is stdin")
            ->type_name("FILE")
            ->excludes(root);
        app.add_option("--save", request->save, "Write what was found, without names and secrets")
            ->type_name("FILE");
        app.add_flag("--fix-script", request->fix_script,
                     "Print the remedies as a shell script, to be read and run");
        CLI::App* explain =
            app.add_subcommand("explain", "What a check looks at, or what an error message means");
        explain->add_option("check", *words, "H03, or a message; - is stdin")
            ->type_name("ID|TEXT")
            ->required();
        explain->fallthrough();
        return [request, words, explain](Context& context) -> Result<int> {
          if (explain->parsed()) return ExplainMessage(*words, context);
          request->json = context.json;
          return CheckMachine(context.directory, *request, context.terminal);
        };
      }};
}

}  // namespace envkit

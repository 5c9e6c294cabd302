#include "commands/image.h"

#include "commands/all.h"

namespace envkit {

CLI::App* AddSubcommand(CLI::App& group, const ChosenAction& chosen, const std::string& name,
                        const std::string& summary, const std::string& example, Action action) {
  CLI::App* app = group.add_subcommand(name, summary);
  app->fallthrough();  // -C, --json and the others belong to the group
  app->footer("\nExample:\n  " + example);
  app->callback([chosen, action = std::move(action)] { *chosen = action; });
  return app;
}

Command ImageCommand() {
  return {"image", "What an image holds, and how it came to be",
          "envkit image sbom --format cyclonedx -o sbom.json\n"
          "envkit image provenance --key cosign.key -o provenance.json",
          [](CLI::App& app) -> Action {
            auto chosen = std::make_shared<Action>();
            AddProving(app, chosen);
            return [chosen](Context& context) -> Result<int> {
              if (*chosen) return (*chosen)(context);
              return Usage("envkit image: what is to be done?",
                           "sbom or provenance; with --help after it for more");
            };
          }};
}

}  // namespace envkit

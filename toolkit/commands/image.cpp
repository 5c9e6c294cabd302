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

void AddImageChoice(CLI::App& app, ImageChoice& choice) {
  app.add_option("image", choice.reference,
                 "A tag such as mnist:train-cpu, or a digest's beginning; else the project's image")
      ->type_name("IMAGE");
  app.add_option("--profile", choice.profile, "The project's image of that profile")
      ->type_name("PROFILE");
  app.add_option("--variant", choice.variant, "cpu or cuda; by this machine's GPUs")
      ->check(CLI::IsMember({"cpu", "cuda"}));
}

Command ImageCommand() {
  return {"image", "Look at images, send them out and take them in, free their space",
          "envkit image ls\nenvkit image inspect --tree     what takes the room, and who needs it",
          [](CLI::App& app) -> Action {
            auto chosen = std::make_shared<Action>();
            AddLooking(app, chosen);
            AddMoving(app, chosen);
            AddProving(app, chosen);
            AddRegistry(app, chosen);
            AddPruning(app, chosen);
            return [chosen](Context& context) -> Result<int> {
              if (*chosen) return (*chosen)(context);
              return Usage(
                  "envkit image: what is to be done?",
                  "ls, inspect, history, diff, sbom, provenance, save, load, push, pull or "
                  "prune; with --help after it for more");
            };
          }};
}

}  // namespace envkit

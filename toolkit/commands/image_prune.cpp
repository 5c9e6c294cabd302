#include "image/prune.h"

#include <chrono>

#include "commands/image.h"

namespace envkit {
namespace {

Result<int> Prune(const PruneRequest& request, Context& context) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const std::filesystem::path share, ShareDirectory());
  ENVKIT_TRY(const Recipes recipes, LoadRecipes(share / "images"));
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  ENVKIT_TRY(const PruneReport report, PruneStore(store, recipes, request, now, context.terminal));
  context.terminal.Answer(context.json ? PruneToJson(report, request.dry_run).dump(2)
                                       : PruneText(report, request.dry_run));
  return 0;
}

}  // namespace

void AddPruning(CLI::App& image, const ChosenAction& chosen) {
  auto prune = std::make_shared<PruneRequest>();
  CLI::App* app = AddSubcommand(image, chosen, "prune", "Free the space of what no project uses",
                                "envkit image prune --dry-run",
                                [prune](Context& context) { return Prune(*prune, context); });
  app->add_flag("--dry-run", prune->dry_run, "Only say what would be removed");
  app->add_flag("--all", prune->all, "What projects use as well, unless it runs now");
  app->add_option_function<std::string>(
         "--older-than",
         [prune](const std::string& text) {
           prune->older_than = ParseAge(text);
           if (!prune->older_than) {
             throw CLI::ValidationError("--older-than: an age such as 30d or 12h, not " + text);
           }
         },
         "Only what is of this age")
      ->type_name("AGE");
}

}  // namespace envkit

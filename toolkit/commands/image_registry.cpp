#include <fmt/format.h>

#include "commands/image.h"
#include "image/registry.h"

namespace envkit {
namespace {

struct PushOptions {
  ImageChoice choice;
  std::string to, compression = "zstd";
};

struct PullOptions {
  std::string from;
  LoadOptions options;
};

Result<int> Push(const PushOptions& options, Context& context) {
  ENVKIT_TRY(const RegistryReference to, ParseReference(options.to));
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const Image image, SelectImage(context.directory, options.choice, store));
  ENVKIT_TRY(const PushReport report,
             PushImage(image, to, store, CompressionOf(options.compression), context.terminal));
  context.terminal.Step("pushed", fmt::format("{} · {} of {} layers were there", report.reference,
                                              report.skipped, report.layers));
  if (context.json) {
    context.terminal.Answer(nlohmann::json{
        {"schema", 1},
        {"reference", report.reference},
        {"layers", report.layers},
        {"skipped", report.skipped},
        {"bytes", report.bytes}}.dump(2));
  }
  return 0;
}

}  // namespace

void AddRegistry(CLI::App& image, const ChosenAction& chosen) {
  auto push = std::make_shared<PushOptions>();
  CLI::App* app = AddSubcommand(image, chosen, "push", "Send an image to a registry",
                                "envkit image push registry.example/team/mnist:train-cpu",
                                [push](Context& context) { return Push(*push, context); });
  app->add_option("to", push->to, "Where to: REGISTRY/NAME[:TAG]; log in with skopeo login")
      ->type_name("REFERENCE")
      ->required();
  AddImageChoice(*app, push->choice);
  AddCompression(*app, push->compression);

  auto pull = std::make_shared<PullOptions>();
  app = AddSubcommand(image, chosen, "pull", "Fetch an image from a registry",
                      "envkit image pull registry.example/team/mnist@sha256:…",
                      [pull](Context& context) -> Result<int> {
                        ENVKIT_TRY(const RegistryReference from, ParseReference(pull->from));
                        ENVKIT_TRY(const Store store, Store::Open());
                        ENVKIT_TRY(const LoadReport report,
                                   PullImage(from, store, pull->options, context.terminal));
                        ReportLoad(report, "pulled", context);
                        return 0;
                      });
  app->add_option("from", pull->from, "REGISTRY/NAME[:TAG] or REGISTRY/NAME@sha256:DIGEST")
      ->type_name("REFERENCE")
      ->required();
  AddReuse(*app, pull->options);
}

}  // namespace envkit

#include <fmt/format.h>

#include <chrono>

#include "base/files.h"
#include "commands/image.h"
#include "image/prune.h"
#include "image/registry.h"

namespace envkit {
namespace {

struct SaveOptions {
  ImageChoice choice;
  std::string output, format = "oci", compression = "zstd";
  bool sources = false;
};

Compression CompressionOf(const std::string& name) {
  return name == "gzip" ? Compression::kGzip : Compression::kZstd;
}

Result<int> Save(const SaveOptions& options, Context& context) {
  ENVKIT_TRY(const Store store, Store::Open());
  ENVKIT_TRY(const Image image, SelectImage(context.directory, options.choice, store));
  std::vector<SourceFile> sources;
  if (options.sources) {
    if (!options.choice.reference.empty()) {
      return Usage("--with-sources goes with the project's own image: its lock names them",
                   "Leave out the image, in the project's directory.");
    }
    ENVKIT_TRY(const Environment env, LoadEnvironment(context.directory));
    ENVKIT_TRY(const ImagePlan plan, PlanCurrent(env, options.choice));
    ENVKIT_TRY(sources, FetchSources(env.project, plan, store, context.terminal));
  }
  const auto target = context.directory / options.output;
  const ArchiveFormat format =
      options.format == "oci" ? ArchiveFormat::kOci : ArchiveFormat::kDocker;
  ENVKIT_TRY(const LayoutReport report,
             SaveImage(image, store, target, format, CompressionOf(options.compression), sources,
                       context.terminal));
  std::string more;
  if (!sources.empty()) more = fmt::format(" · with {} source files", sources.size());
  context.terminal.Step("saved", fmt::format("{} → {} · {}{}", ImageTag(image), options.output,
                                             HumanBytes(report.compressed_bytes), more));
  if (context.json) {
    context.terminal.Answer(nlohmann::json{
        {"schema", 1},
        {"file", target.string()},
        {"format", options.format},
        {"config_digest", image.config_digest},
        {"manifest_digest", report.manifest_digest},
        {"bytes", report.compressed_bytes},
        {"sources",
         sources.size()}}.dump(2));
  }
  return 0;
}

void ReportLoad(const LoadReport& report, const std::string& verb, Context& context) {
  const Image& image = report.image;
  std::string text = fmt::format("{} · {} layers, {} new", ImageTag(image), image.layers.size(),
                                 report.new_layers);
  if (report.sources > 0) text += fmt::format(" · {} source files", report.sources);
  context.terminal.Step(verb, text);
  if (!context.json) return;
  nlohmann::json json = ImageToJson(image);
  json["new_layers"] = report.new_layers;
  json["sources"] = report.sources;
  context.terminal.Answer(json.dump(2));
}

Result<int> Push(const SaveOptions& options, Context& context) {
  ENVKIT_TRY(const RegistryReference to, ParseReference(options.output));
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

void AddCompression(CLI::App& app, SaveOptions& options) {
  app.add_option("--compression", options.compression,
                 "zstd; gzip for what cannot read it, such as docker 20.10")
      ->check(CLI::IsMember({"zstd", "gzip"}));
}

}  // namespace

void AddMoving(CLI::App& image, const ChosenAction& chosen) {
  auto save = std::make_shared<SaveOptions>();
  CLI::App* app = AddSubcommand(image, chosen, "save", "Write an image to a file or a directory",
                                "envkit image save -o mnist.tar --with-sources",
                                [save](Context& context) { return Save(*save, context); });
  AddImageChoice(*app, save->choice);
  app->add_option("-o,--output", save->output, "A .tar, or a directory for an OCI layout")
      ->type_name("FILE|DIR")
      ->required();
  app->add_option("--format", save->format, "OCI layout, or what docker load takes")
      ->check(CLI::IsMember({"oci", "docker-archive"}));
  AddCompression(*app, *save);
  app->add_flag("--with-sources", save->sources,
                "Add the lock's wheels and debs, for builds without a network");

  struct LoadRequest {
    std::string from;
    LoadOptions options;
  };
  auto load = std::make_shared<LoadRequest>();
  app = AddSubcommand(image, chosen, "load", "Take an image from a file or a directory",
                      "envkit image load mnist.tar", [load](Context& context) -> Result<int> {
                        ENVKIT_TRY(const Store store, Store::Open());
                        ENVKIT_TRY(const LoadReport report,
                                   LoadImage(context.directory / load->from, store, load->options,
                                             context.terminal));
                        ReportLoad(report, "loaded", context);
                        return 0;
                      });
  app->add_option("source", load->from, "An OCI layout, or a tar of one, or a docker archive")
      ->type_name("FILE|DIR")
      ->required();
  const auto no_reuse = [](CLI::App& to, LoadRequest& request) {
    to.add_flag("!--no-reuse", request.options.reuse,
                "Later builds do not take its layers (for images of strangers)");
  };
  no_reuse(*app, *load);

  auto push = std::make_shared<SaveOptions>();
  app = AddSubcommand(image, chosen, "push", "Send an image to a registry",
                      "envkit image push registry.example/team/mnist:train-cpu",
                      [push](Context& context) { return Push(*push, context); });
  app->add_option("to", push->output, "Where to: REGISTRY/NAME[:TAG]; log in with skopeo login")
      ->type_name("REFERENCE")
      ->required();
  AddImageChoice(*app, push->choice);
  AddCompression(*app, *push);

  auto pull = std::make_shared<LoadRequest>();
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
  no_reuse(*app, *pull);

  auto prune = std::make_shared<PruneRequest>();
  app = AddSubcommand(image, chosen, "prune", "Free the space of what no project uses",
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

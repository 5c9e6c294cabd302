#include <fmt/format.h>

#include "base/files.h"
#include "commands/image.h"

namespace envkit {
namespace {

struct SaveOptions {
  ImageChoice choice;
  std::string output, format = "oci", compression = "zstd";
  bool sources = false;
};

struct LoadRequest {
  std::string from;
  LoadOptions options;
};

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

}  // namespace

Compression CompressionOf(const std::string& name) {
  return name == "gzip" ? Compression::kGzip : Compression::kZstd;
}

void AddCompression(CLI::App& app, std::string& compression) {
  app.add_option("--compression", compression,
                 "zstd; gzip for what cannot read it, such as docker 20.10")
      ->check(CLI::IsMember({"zstd", "gzip"}));
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

void AddReuse(CLI::App& app, LoadOptions& options) {
  app.add_flag("!--no-reuse", options.reuse,
               "Later builds do not take its layers (for images of strangers)");
}

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
  AddCompression(*app, save->compression);
  app->add_flag("--with-sources", save->sources,
                "Add the lock's wheels and debs, for builds without a network");

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
  AddReuse(*app, load->options);
}

}  // namespace envkit

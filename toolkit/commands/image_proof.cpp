#include "commands/all.h"
#include "commands/image.h"
#include "session/prove.h"

namespace envkit {
namespace {

std::shared_ptr<ProofRequest> Options(CLI::App& app, std::shared_ptr<ProofRequest> request) {
  app.add_option("--profile", request->profile, "The project's image of that profile")
      ->type_name("PROFILE");
  app.add_option("--variant", request->variant, "cpu or cuda; by this machine's GPUs")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("-o,--output", request->output, "Where to; stdout by default")->type_name("FILE");
  request->envkit_version = EnvkitVersion();
  return request;
}

}  // namespace

void AddProving(CLI::App& image, const ChosenAction& chosen) {
  auto sbom = std::make_shared<ProofRequest>();
  CLI::App* app = AddSubcommand(
      image, chosen, "sbom", "A bill of materials: every package with its hash",
      "envkit image sbom --format cyclonedx -o sbom.json", [sbom](Context& context) -> Result<int> {
        ENVKIT_CHECK(WriteSbom(context.directory, *sbom, context.terminal));
        return 0;
      });
  Options(*app, sbom);
  app->add_option("--format", sbom->format, "SPDX 2.3 or CycloneDX 1.6")
      ->check(CLI::IsMember({"spdx", "cyclonedx"}));

  auto provenance = std::make_shared<ProofRequest>();
  app = AddSubcommand(
      image, chosen, "provenance", "A statement of what the image was made from",
      "envkit image provenance --key cosign.key -o provenance.json",
      [provenance](Context& context) -> Result<int> {
        ENVKIT_CHECK(WriteProvenance(context.directory, *provenance, context.terminal));
        return 0;
      });
  Options(*app, provenance);
  app->add_option("--key", provenance->key, "Sign it with cosign and this key")->type_name("KEY");
}

}  // namespace envkit

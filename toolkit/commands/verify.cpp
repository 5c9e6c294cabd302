#include "session/verify.h"

#include <memory>

#include "commands/all.h"

namespace envkit {

Command VerifyCommand() {
  return {
      "verify", "Prove that an image is what its lock says and works here",
      "envkit verify                  the project's image, on this machine's GPUs\n"
      "envkit verify --running        what runs now: was it changed since it started?",
      [](CLI::App& app) -> Action {
        auto request = std::make_shared<VerifyRequest>();
        app.add_option("image", request->image,
                       "A digest or a tag of the store (the project's image by default); with "
                       "--running: a container, a job or a process");
        app.add_option("--profile", request->profile, "Which of the project's images")
            ->type_name("PROFILE");
        app.add_option("--variant", request->variant, "cpu or cuda; by this machine's GPUs")
            ->check(CLI::IsMember({"cpu", "cuda"}));
        app.add_option("--engine", request->engine,
                       "auto takes docker where its daemon answers, else oci, else podman")
            ->check(CLI::IsMember({"auto", "docker", "podman", "oci"}));
        CLI::Option* quick =
            app.add_flag("--quick", request->quick, "Do not hash the image's files");
        CLI::Option* repair =
            app.add_flag("--repair", request->repair, "Make damaged layers anew, then verify");
        app.add_flag("--running", request->running,
                     "Look at running containers: their image, changed files, libraries")
            ->excludes(quick)
            ->excludes(repair);
        app.add_option("--provenance", request->provenance,
                       "Hold this statement (envkit image provenance) against the image")
            ->type_name("FILE");
        app.add_option("--key", request->key, "The public key of its signature")->type_name("KEY");
        request->envkit_version = EnvkitVersion();
        return [request](Context& context) -> Result<int> {
          if (request->running) request->container = request->image;
          ENVKIT_TRY(const VerifyReport report,
                     Verify(context.directory, *request, context.terminal));
          PrintVerify(report, context.terminal);
          if (context.json) context.terminal.Answer(VerifyToJson(report).dump(2));
          return ExitCodeOf(report);
        };
      }};
}

}  // namespace envkit

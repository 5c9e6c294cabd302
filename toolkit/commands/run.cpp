#include <memory>

#include "commands/all.h"
#include "session/builtin.h"
#include "session/run_job.h"

namespace envkit {

Command RunCommand() {
  return {
      "run", "Run a job of envkit.toml, or any command, in the project's image",
      "envkit run train -- --set epochs=1\nenvkit run -- nproc", [](CLI::App& app) -> Action {
        auto request = std::make_shared<RunRequest>();
        app.add_option(
            "job", request->job,
            "A job of envkit.toml, or jupyter, tensorboard, shell; what follows -- is added "
            "to its command");
        app.add_option("--engine", request->engine,
                       "auto takes docker where its daemon answers, else oci, else podman")
            ->check(CLI::IsMember({"auto", "docker", "podman", "oci"}));
        app.add_option("--gpus", request->gpus, "all, none, or a list such as 0,2")
            ->type_name("GPUS");
        app.add_option("--processes", request->processes, "Ranks; auto: one per GPU")
            ->type_name("N|auto");
        app.add_option("--memory", request->memory, "Limit of memory, such as 16g")
            ->type_name("SIZE");
        app.add_flag("--share", request->share,
                     "Use GPUs that another launch has, and let others use ours");
        app.add_option("--shm", request->shm, "Size of /dev/shm, such as 16g, or auto")
            ->type_name("SIZE");
        app.add_option("--profile", request->profile, "What the image holds")->type_name("PROFILE");
        app.add_option("--variant", request->variant, "cpu or cuda; by this machine's GPUs")
            ->check(CLI::IsMember({"cpu", "cuda"}));
        app.add_flag("--dry-run", request->dry_run,
                     "Print what would run, and the docker command that it equals");
        app.add_flag("--explain", request->explain,
                     "Print every effective setting and where it comes from");
        return [request](Context& context) -> Result<int> {
          request->arguments = context.passthrough;
          if (request->job.empty() && request->arguments.empty()) {
            return Usage("nothing to run",
                         "Name a job:  envkit run train\nor any command:  envkit run -- nproc");
          }
          if (IsBuiltinJob(request->job)) {
            return RunBuiltin(context.directory, *request, context.json, context.terminal);
          }
          return RunJob(context.directory, *request, context.json, context.terminal);
        };
      }};
}

}  // namespace envkit

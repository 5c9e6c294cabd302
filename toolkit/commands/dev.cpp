#include "session/dev.h"

#include <memory>

#include "commands/all.h"
#include "commands/image.h"
#include "session/dev_remote.h"

namespace envkit {
namespace {

void AddOn(CLI::App& app, const std::shared_ptr<std::string>& on) {
  app.add_option("--on", *on,
                 "On another machine, which has envkit: ssh://[USER@]HOST[:PORT][/DIRECTORY]")
      ->type_name("URL");
}

void AddUp(CLI::App& dev, const ChosenAction& chosen) {
  auto request = std::make_shared<DevRequest>();
  auto no_port = std::make_shared<bool>(false), no_ssh_config = std::make_shared<bool>(false);
  auto on = std::make_shared<std::string>();
  CLI::App* app = AddSubcommand(
      dev, chosen, "up", "Start the session, or say how to get into the one that runs",
      "envkit dev up", [request, no_port, no_ssh_config, on](Context& context) {
        request->port = !*no_port;
        request->ssh_config = !*no_ssh_config;
        if (!on->empty())
          return DevUpOn(context.directory, *on, *request, context.json, context.terminal);
        return DevUp(context.directory, *request, context.json, context.terminal);
      });
  RunRequest& run = request->run;
  app->add_option("--engine", run.engine,
                  "auto takes docker where its daemon answers, else oci, else podman")
      ->check(CLI::IsMember({"auto", "docker", "podman", "oci"}));
  app->add_option("--gpus", run.gpus, "all, none, or a list such as 0,2")->type_name("GPUS");
  app->add_option("--memory", run.memory, "Limit of memory, such as 16g")->type_name("SIZE");
  app->add_option("--shm", run.shm, "Size of /dev/shm, such as 16g, or auto")->type_name("SIZE");
  app->add_option("--variant", run.variant, "cpu or cuda; by this machine's GPUs")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  app->add_option("--listen", request->listen,
                  "Address for ssh, JupyterLab and TensorBoard; 0.0.0.0: all of this machine's")
      ->type_name("ADDRESS");
  AddOn(*app, on);
  app->add_flag("--show-keys", request->show_keys,
                "With --json: the session's own key too, for ssh from another machine");
  app->add_flag("--vscode", request->vscode, "Write .vscode/extensions.json where there is none");
  app->add_flag("--no-port", *no_port, "ssh through the engine's exec: sshd listens nowhere");
  app->add_flag("--no-ssh-config", *no_ssh_config, "Leave ~/.ssh/config alone");
}

}  // namespace

Command DevCommand() {
  return {"dev", "A session to work in: ssh, JupyterLab, TensorBoard",
          "envkit dev up\nenvkit dev down", [](CLI::App& app) -> Action {
            auto chosen = std::make_shared<Action>();
            AddUp(app, chosen);
            auto on = std::make_shared<std::string>();
            AddOn(*AddSubcommand(app, chosen, "down", "Stop the session; nothing is lost",
                                 "envkit dev down",
                                 [on](Context& context) {
                                   if (on->empty())
                                     return DevDown(context.directory, context.terminal);
                                   return DevDownOn(context.directory, *on);
                                 }),
                  on);
            AddOn(*AddSubcommand(
                      app, chosen, "status", "What runs, and how to get in; exit code 1: nothing",
                      "envkit dev status --json",
                      [on](Context& context) {
                        if (on->empty())
                          return DevStatus(context.directory, context.json, context.terminal);
                        return DevStatusOn(context.directory, *on, context.json, context.terminal);
                      }),
                  on);
            auto print = std::make_shared<bool>(false);
            CLI::App* ssh = AddSubcommand(
                app, chosen, "ssh-config", "Let ~/.ssh/config include the sessions' entries",
                "envkit dev ssh-config --print", [print](Context& context) {
                  return DevSshConfig(context.directory, *print, context.terminal);
                });
            ssh->add_flag("--print", *print, "Print what would stand where, and change nothing");
            return [chosen](Context& context) -> Result<int> {
              if (*chosen) return (*chosen)(context);
              return Usage("envkit dev: what is to be done?",
                           "up, down, status or ssh-config; with --help after it for more");
            };
          }};
}

}  // namespace envkit

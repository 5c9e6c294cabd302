#include "session/builtin.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "base/files.h"
#include "engine/engine.h"
#include "project/project.h"
#include "session/place.h"
#include "session/run_job.h"
#include "session/services.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// Prints the URL once the port answers. Beside the engine, which keeps this thread's parent busy;
// signals are for that one alone.
class Announcement {
 public:
  Announcement(int port, std::string url, Terminal& terminal) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this, port, url = std::move(url), &terminal] {
      while (!ended_) {
        if (PortAnswers(port)) {
          terminal.Answer(url);
          return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Announcement() {
    ended_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace

bool IsBuiltinJob(const std::string& name) {
  return name == "jupyter" || name == "tensorboard" || name == "shell";
}

Result<void> WriteAccounts(const RunRequest& request, const RunSetting& setting) {
  const Accounts accounts =
      AccountsOf(setting.image.layer_trees, setting.uid, setting.gid, setting.user,
                 KeepsImages(setting.engine) || setting.uid == 0);
  ENVKIT_CHECK(WriteFileAtomic(request.session / "passwd", accounts.passwd));
  return WriteFileAtomic(request.session / "group", accounts.group);
}

Result<int> RunBuiltin(const fs::path& directory, RunRequest request, bool json,
                       Terminal& terminal) {
  ENVKIT_TRY(const Project project, LoadProject(directory));
  if (project.jobs.contains(request.job)) return RunJob(directory, request, json, terminal);
  ENVKIT_TRY(const SessionPlace place, FindSessionPlace(project.root, project.name));
  const bool show_only = request.dry_run || request.explain;
  request.builtin = request.job;
  request.job.clear();
  std::optional<JobPlace> own;
  request.session = place.directory / "job";
  if (!show_only) {
    ENVKIT_TRY(own, MakeJobPlace(place));
    request.session = own->directory;
    ENVKIT_CHECK(MakeDirectories(project.root / ".envkit" / "runs"));
  }
  const auto remove = [&] {
    if (own) (void)RemoveTree(own->directory);
  };
  std::vector<std::string> command{"/bin/bash"};
  std::string url;
  int port = 0;
  if (request.builtin != "shell") {
    ENVKIT_TRY(port, StablePort(place, request.builtin, IsFreePort));
    ENVKIT_TRY(const std::string token, RandomToken());
    const bool jupyter = request.builtin == "jupyter";
    command =
        (jupyter ? JupyterService(port, geteuid() == 0) : TensorboardService(port, kRunsInside))
            .argv;
    url = jupyter ? JupyterUrl(port, token) : TensorboardUrl(port, token);
    if (own) {
      ENVKIT_CHECK(WriteFileAtomic(own->directory / (request.builtin + ".token"), token, 0600));
    }
  }
  command.insert(command.end(), request.arguments.begin(), request.arguments.end());
  request.arguments = std::move(command);
  std::optional<Announcement> announcement;
  if (!url.empty() && !show_only) announcement.emplace(port, std::move(url), terminal);
  auto code = RunJob(directory, request, json, terminal);
  announcement.reset();
  remove();
  return code;
}

}  // namespace envkit

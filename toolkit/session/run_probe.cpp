#include "session/run_probe.h"

#include <fcntl.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdio>

#include "base/files.h"
#include "session/plan_run.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

// What is written to our stdout and stderr meanwhile goes to a file: engines pass theirs on.
class Captured {
 public:
  static Result<Captured> Begin() {
    Captured captured;
    captured.file_ = std::tmpfile();
    if (captured.file_ == nullptr) return Fail(ErrnoText("making a temporary file"));
    fcntl(fileno(captured.file_), F_SETFD, FD_CLOEXEC);
    std::fflush(nullptr);
    for (const int fd : {1, 2}) {
      captured.saved_[fd - 1] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
      dup2(fileno(captured.file_), fd);
    }
    return captured;
  }
  Captured(Captured&& other) noexcept
      : file_(std::exchange(other.file_, nullptr)),
        saved_{std::exchange(other.saved_[0], -1), std::exchange(other.saved_[1], -1)} {}
  ~Captured() {
    Restore();
    if (file_ != nullptr) std::fclose(file_);
  }

  std::string End() {
    Restore();
    std::string text;
    char buffer[65536];
    std::rewind(file_);
    for (std::size_t got; (got = std::fread(buffer, 1, sizeof buffer, file_)) > 0;) {
      text.append(buffer, got);
    }
    return text;
  }

 private:
  Captured() = default;
  void Restore() {
    std::fflush(nullptr);
    for (const int fd : {1, 2}) {
      if (saved_[fd - 1] < 0) continue;
      dup2(saved_[fd - 1], fd);
      close(std::exchange(saved_[fd - 1], -1));
    }
  }
  std::FILE* file_ = nullptr;
  int saved_[2] = {-1, -1};
};

}  // namespace

RootImage RootImageOf(const Image& image) {
  RootImage root{ImageTag(image), image.config_digest, {}};
  for (const Layer& layer : image.layers) root.layer_trees.push_back(layer.tree);
  const auto config = nlohmann::json::parse(image.config_json, nullptr, false);
  const auto at = "/config/Env"_json_pointer;
  if (!config.is_object() || !config.contains(at) || !config[at].is_array()) return root;
  for (const nlohmann::json& variable : config[at]) {
    if (!variable.is_string()) continue;
    const std::string text = variable;
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos) root.env[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return root;
}

std::vector<std::string> DiffIdsOf(const Image& image) {
  std::vector<std::string> diff_ids;
  for (const Layer& layer : image.layers) diff_ids.push_back(layer.diff_id);
  return diff_ids;
}

Result<ImageRunner::Ran> ImageRunner::Run(const std::vector<std::string>& argv) const {
  RunRequest request;
  request.arguments = argv;
  RunSetting setting;
  setting.engine = engine_.Name();
  setting.variant = image_.variant;
  setting.image = RootImageOf(image_);
  setting.uid = geteuid();
  setting.gid = getegid();
  if (const passwd* entry = getpwuid(setting.uid)) setting.user = entry->pw_name;
  ENVKIT_TRY(const RunPlan plan, PlanRun(project_, request, setting, facts_));
  ENVKIT_TRY(Captured captured, Captured::Begin());
  const Result<int> code = engine_.Run(plan);
  std::string output = captured.End();
  if (!code) return Unexpected(code.error());
  return Ran{*code, std::move(output), plan.gpus};
}

}  // namespace envkit

#include "envkit/checkpoint.h"

#include <ATen/CPUGeneratorImpl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "envkit/failure.h"
#include "files.h"
#include "headers.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kModel = "model.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kRandomState = "random_state";

bool IsDigits(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// The step of "step-000470"; nullopt for other names.
std::optional<std::int64_t> StepOf(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix) || name.size() > kPrefix.size() + 18 ||
      !IsDigits(std::string_view(name).substr(kPrefix.size())))
    return std::nullopt;
  return std::stoll(name.substr(kPrefix.size()));
}

std::string StepName(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
  return name;
}

// A folder of our own beside the final one; what an earlier, killed writer left is removed.
fs::path TemporaryFolder(const fs::path& directory, const std::string& name) {
  std::error_code error;
  fs::create_directories(directory, error);
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string old = entry.path().filename().string();
    if (old.starts_with(".new-") || old.starts_with(".old-")) fs::remove_all(entry.path(), error);
  }
  const fs::path folder = directory / (".new-" + name + "-" + std::to_string(getpid()));
  if (!fs::create_directories(folder, error) && error)
    throw Failure("cannot create " + folder.string() + ": " + error.message());
  return folder;
}

void CheckManifest(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kManifest;
  const std::vector<ManifestEntry> files = ParseManifest(file, ReadTextFile(file));
  for (const char* name : {kModel, kOptimizer, kState}) {
    // In one file, or in several: ReadSlices looks for all of them.
    const std::string stem = fs::path(name).stem().string() + "-";
    if (std::none_of(files.begin(), files.end(), [&](const ManifestEntry& each) {
          return each.name == name || each.name.starts_with(stem);
        }))
      throw Failure(file.string() + ": lacks " + name);
  }
  CheckFolder(checkpoint);
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path directory) : directory_(std::move(directory)) {}

fs::path CheckpointStore::Save(const TrainingState& state, const std::vector<NamedTensor>& model,
                               const std::vector<NamedTensor>& optimizer, int keep) {
  const fs::path folder = Begin(state.step);
  std::vector<NamedTensor> rest = optimizer;
  rest.push_back({kRandomState, at::detail::getDefaultCPUGenerator().get_state()});
  WriteSafetensors(folder / kModel, model, {{"format", "pt"}});
  WriteSafetensors(folder / kOptimizer, rest);
  return Commit(folder, state, keep);
}

fs::path CheckpointStore::Begin(std::int64_t step) {
  return TemporaryFolder(directory_, StepName(step));
}

namespace {

// Moves a link of DIRECTORY, with no moment at which there is none.
void PointAt(const fs::path& directory, const char* link, const std::string& name) {
  const fs::path fresh = directory / (".new-" + std::string(link) + "-" + std::to_string(getpid()));
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_directory_symlink(name, fresh, error);
  if (!error) fs::rename(fresh, directory / link, error);
  if (error) throw Failure("cannot move " + (directory / link).string() + ": " + error.message());
}

}  // namespace

fs::path CheckpointStore::Commit(const fs::path& hidden, const TrainingState& state, int keep,
                                 bool best) {
  const Json json = {{"schema", 1},
                     {"job", state.job},
                     {"model", state.model},
                     {"step", state.step},
                     {"epoch", state.epoch},
                     {"sample_offset", state.sample_offset},
                     {"seed", state.seed},
                     {"global_batch", state.global_batch},
                     {"dataset_samples", state.dataset_samples},
                     {"world_size", state.world_size}};
  WriteDurably(hidden / kState, json.dump(2) + "\n");
  const std::string name = StepName(state.step);
  CommitFolder(hidden, directory_ / name);
  PointAt(directory_, "latest", name);
  if (best) PointAt(directory_, "best", name);
  SyncFolder(directory_);

  // A checkpoint of a later step, from before a resume at an earlier one, is of another curve.
  std::error_code error;
  const fs::path best_one = fs::read_symlink(directory_ / "best", error).filename();
  int kept = 0;
  for (const fs::path& each : List()) {
    const std::int64_t step = *StepOf(each.filename().string());
    if (step > state.step || (++kept > std::max(1, keep) && each.filename() != best_one))
      DeleteFolder(each);
  }
  return directory_ / name;
}

fs::path CheckpointStore::SaveFinal(const std::vector<NamedTensor>& model,
                                    const std::map<std::string, std::string>& metadata) {
  const fs::path folder = TemporaryFolder(directory_, "final");
  auto all = metadata;
  all["format"] = "pt";
  WriteSafetensors(folder / kModel, model, all);
  SyncFolder(folder);
  ReplaceFolder(folder, directory_ / "final");
  return directory_ / "final" / kModel;
}

std::vector<fs::path> CheckpointStore::List() const {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_, error))
    if (const auto step = StepOf(entry.path().filename().string()))
      found.emplace_back(*step, entry.path());
  std::sort(found.rbegin(), found.rend());
  std::vector<fs::path> directories;
  for (auto& [step, path] : found) directories.push_back(std::move(path));
  return directories;
}

std::string CheckpointStore::Damage(const fs::path& checkpoint) {
  try {
    Load(checkpoint);
    return "";
  } catch (const Failure& failure) {
    return failure.what();
  }
}

TrainingState CheckpointStore::LoadState(const fs::path& checkpoint) {
  const fs::path file = checkpoint / kState;
  return ParseTrainingState(file, ReadTextFile(file));
}

Checkpoint CheckpointStore::Load(const fs::path& directory) {
  CheckManifest(directory);
  Checkpoint checkpoint;
  checkpoint.directory = directory;
  checkpoint.state = LoadState(directory);
  const auto read = [&](const char* name) {
    return fs::exists(directory / name) ? ReadSafetensors(directory / name).tensors
                                        : MergeSlices(directory, fs::path(name).stem().string());
  };
  checkpoint.model = read(kModel);
  checkpoint.optimizer = read(kOptimizer);
  const auto random =
      std::find_if(checkpoint.optimizer.begin(), checkpoint.optimizer.end(),
                   [](const NamedTensor& each) { return each.name == kRandomState; });
  if (random == checkpoint.optimizer.end())
    throw Failure((directory / kOptimizer).string() + ": lacks " + kRandomState);
  checkpoint.random_state = random->tensor;
  checkpoint.optimizer.erase(random);
  return checkpoint;
}

std::vector<fs::path> EarlierRuns(const fs::path& run, const std::string& job) {
  // "20261124T050501Z-train", and "-2", "-3" … after it where the name was taken.
  const auto order = [&job](const std::string& name) -> std::optional<std::pair<std::string, int>> {
    constexpr std::size_t kTime = 16;
    if (name.size() < kTime + 2 || name[8] != 'T' || name[15] != 'Z' || name[kTime] != '-' ||
        !IsDigits(std::string_view(name).substr(0, 8)) ||
        !IsDigits(std::string_view(name).substr(9, 6)) ||
        name.compare(kTime + 1, job.size(), job) != 0)
      return std::nullopt;
    const std::string rest = name.substr(kTime + 1 + job.size());
    if (rest.empty()) return std::pair(name.substr(0, kTime), 1);
    if (rest[0] != '-' || rest.size() > 8 || !IsDigits(std::string_view(rest).substr(1)))
      return std::nullopt;
    return std::pair(name.substr(0, kTime), std::stoi(rest.substr(1)));
  };
  fs::path own = fs::absolute(run).lexically_normal();
  if (own.filename().empty()) own = own.parent_path();
  std::vector<std::pair<std::pair<std::string, int>, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(own.parent_path(), error)) {
    const std::string name = entry.path().filename().string();
    const auto key = order(name);
    if (key && entry.is_directory(error) && name != own.filename())
      found.emplace_back(*key, entry.path());
  }
  std::sort(found.rbegin(), found.rend());
  std::vector<fs::path> runs = {own};
  for (auto& [key, path] : found) {
    const auto checkpoints = CheckpointStore(path / "checkpoints").List();
    if (checkpoints.empty()) continue;
    try {
      if (CheckpointStore::LoadState(checkpoints.front()).job != job) continue;
    } catch (const Failure&) {  // a damaged one is the caller's to report
    }
    runs.push_back(std::move(path));
  }
  return runs;
}

}  // namespace envkit

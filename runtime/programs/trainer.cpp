#include "trainer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <sched.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "console.h"
#include "envkit/checkpoint.h"
#include "envkit/data.h"
#include "envkit/distributed.h"
#include "envkit/failure.h"
#include "envkit/models.h"
#include "envkit/optim.h"
#include "envkit/tracking.h"

namespace envkit {

volatile std::sig_atomic_t stop_requested = 0;

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Every rank its share of the cores, unless the launcher said otherwise.
void ShareCores(const RankInfo& ranks) {
  cpu_set_t allowed;
  if (std::getenv("OMP_NUM_THREADS") != nullptr ||
      sched_getaffinity(0, sizeof allowed, &allowed) != 0)
    return;
  at::set_num_threads(std::max(1, CPU_COUNT(&allowed) / ranks.local_world_size));
}

fs::path NewRun(const std::string& job) {
  char time[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(time, sizeof time, "%Y%m%dT%H%M%SZ", std::gmtime(&now));
  const fs::path base = fs::path(".envkit") / "runs" / fmt::format("{}-{}", time, job);
  std::error_code error;
  fs::create_directories(base.parent_path(), error);
  fs::path run = base;
  for (int i = 2; !fs::create_directory(run, error); ++i) {
    if (error) throw Failure(fmt::format("cannot create {}: {}", run.string(), error.message()));
    run = fmt::format("{}-{}", base.string(), i);
  }
  return run;
}

struct Batch {
  at::Tensor images, labels;
};

Batch MakeBatch(const ImageSet& set, std::span<const std::int64_t> indices,
                const std::optional<Augmentation>& augmentation, at::Device device) {
  const auto count = static_cast<std::int64_t>(indices.size());
  Batch batch{
      at::empty({count, 1, set.rows(), set.columns()}, at::kFloat, at::MemoryFormat::ChannelsLast),
      at::empty({count}, at::kLong)};
  FillBatch(set, indices, augmentation, batch.images.mutable_data_ptr<float>(),
            batch.labels.mutable_data_ptr<std::int64_t>());
  return {batch.images.to(device), batch.labels.to(device)};
}

class Trainer {
 public:
  explicit Trainer(const TrainJob& job);
  int Run();

 private:
  struct Evaluation {
    double loss = 0, accuracy = 0;
  };

  void Resume(const std::string& from);
  std::optional<fs::path> FindCheckpoint(const std::string& from);
  void CheckFits(const Checkpoint& checkpoint) const;
  double Step();  // the mean loss over the global batch
  Evaluation Evaluate();
  void EndEpoch(double loss);
  void Save();
  void Finish();
  void Log(double loss);
  void Write(Json line, const Scalars& scalars);
  Progress ProgressNow(double loss) const;
  double Speed() const;  // images per second over the last steps

  const TrainJob job_;
  const TrainConfig& config_;
  const RankInfo ranks_;
  Console console_;
  const at::Device device_;
  Mnist data_;
  ShardedSampler sampler_;
  Schedule schedule_;
  std::int64_t last_step_;
  std::shared_ptr<Communicator> communicator_;
  ConvNet model_;
  DataParallel parallel_;
  AdamW optimizer_;

  // Of rank 0 alone.
  fs::path run_;
  std::optional<CheckpointStore> checkpoints_;
  std::optional<EventWriter> events_;
  std::optional<MetricsFile> metrics_;

  std::int64_t step_ = 0;  // optimizer steps done
  std::int64_t first_step_ = 0, saved_step_ = -1;
  bool stop_ = false;
  Clock::time_point started_{};
  double stepping_ = 0;         // seconds in steps, since the start
  double logged_stepping_ = 0;  // the same when the last line was logged
  std::int64_t logged_step_ = 0;
  double accuracy_ = 0;
};

Schedule MakeSchedule(const TrainConfig& config, std::int64_t steps) {
  return {config.optimizer.learning_rate, 0, std::min(config.schedule.warmup_steps, steps), steps};
}

Trainer::Trainer(const TrainJob& job)
    : job_(job),
      config_(job_.config),
      ranks_(RankInfoFromEnvironment()),
      console_(ranks_.rank != 0),
      device_(SelectDevice(config_.device, ranks_.local_rank)),
      data_(Mnist::Open(config_.data.directory)),
      sampler_({data_.train.count(), config_.global_batch, static_cast<std::uint64_t>(config_.seed),
                ranks_.rank, ranks_.world_size}),
      schedule_(MakeSchedule(config_, config_.epochs * sampler_.steps_per_epoch())),
      last_step_(config_.max_steps > 0 ? std::min(config_.max_steps, schedule_.total_steps)
                                       : schedule_.total_steps),
      communicator_((ShareCores(ranks_), Communicator::Connect(ranks_, device_))),
      model_({1, data_.train.rows(), data_.train.columns(), Mnist::kClasses,
              static_cast<std::uint64_t>(config_.seed)},
             device_),
      parallel_(communicator_, model_.Parameters()),
      optimizer_(model_.Parameters(),
                 AdamWOptions{.weight_decay = config_.optimizer.weight_decay}) {
  at::Generator(at::detail::getDefaultCPUGenerator())
      .set_current_seed(static_cast<std::uint64_t>(config_.seed));
  if (!communicator_->is_main()) return;
  run_ = job_.run.empty() ? NewRun(job_.name) : job_.run;
  checkpoints_.emplace(run_ / "checkpoints");
  events_.emplace(run_ / "events");
  metrics_.emplace(run_ / "metrics.jsonl");
}

std::optional<fs::path> Trainer::FindCheckpoint(const std::string& from) {
  const auto report = [&](const std::string& damage) {
    console_.Line("resume: passed over a damaged checkpoint: " + damage);
  };
  std::vector<fs::path> folders;
  if (from == "latest") {
    for (const fs::path& run : EarlierRuns(run_, job_.name)) folders.push_back(run / "checkpoints");
  } else {
    if (fs::exists(fs::path(from) / "manifest.json")) return from;
    folders = {fs::path(from) / "checkpoints", from};
  }
  for (const fs::path& folder : folders)
    if (auto found = CheckpointStore(folder).NewestWhole(report)) return found;
  if (from != "latest")
    throw Failure("there is no whole checkpoint in " + from,
                  "name a run, or a folder such as RUN/checkpoints/step-000400", 2);
  return std::nullopt;
}

void Trainer::CheckFits(const Checkpoint& checkpoint) const {
  const TrainingState& state = checkpoint.state;
  const auto same = [&](const char* what, const auto& then, const auto& now) {
    if (then != now)
      throw Failure(fmt::format("{} was made with {} = {}; this run has {}",
                                checkpoint.directory.string(), what, then, now),
                    "set it back to go on from there, or start anew without --resume", 2);
  };
  same("model.kind", state.model, config_.model.kind);
  same("seed", state.seed, static_cast<std::uint64_t>(config_.seed));
  same("global_batch", state.global_batch, config_.global_batch);
  same("training images", state.dataset_samples, data_.train.count());
}

void Trainer::Resume(const std::string& from) {
  // Rank 0 reads and tells: other hosts need not see its files.
  std::string told;
  at::Tensor random_state = at::detail::getDefaultCPUGenerator().get_state();
  if (communicator_->is_main()) {
    if (const std::optional<fs::path> found = FindCheckpoint(from)) {
      const Checkpoint checkpoint = CheckpointStore::Load(*found);
      CheckFits(checkpoint);
      CopyInto(model_.Parameters(), checkpoint.model, (*found / "model.safetensors").string());
      CopyInto(optimizer_.State(), checkpoint.optimizer,
               (*found / "optimizer.safetensors").string());
      random_state.copy_(checkpoint.random_state);
      told = fmt::format("{} {} {}", checkpoint.state.step, checkpoint.state.epoch,
                         checkpoint.state.sample_offset);
      console_.Line(fmt::format("resume at step {} from {}", checkpoint.state.step,
                                found->lexically_normal().string()));
    } else {
      console_.Line("resume: no earlier run of this job has a checkpoint; starting anew");
    }
  }
  told = communicator_->Broadcast(told);
  if (told.empty()) return;
  ShardedSampler::Position position;
  if (std::sscanf(told.c_str(), "%ld %ld %ld", &step_, &position.epoch, &position.offset) != 3)
    throw Failure("rank 0 resumed at \"" + told + "\"");
  sampler_.Seek(position);
  std::vector<at::Tensor> tensors;
  for (const auto& list : {model_.Parameters(), optimizer_.State()})
    for (const NamedTensor& each : list) tensors.push_back(each.tensor.detach());
  communicator_->Broadcast(tensors);
  communicator_->Broadcast({random_state});
  at::Generator(at::detail::getDefaultCPUGenerator()).set_state(random_state);
}

double Trainer::Step() {
  const std::span<const std::int64_t> indices = sampler_.Next();
  std::optional<Augmentation> augmentation;
  if (config_.data.max_shift > 0 || config_.data.max_rotation > 0 || config_.data.max_scaling > 0)
    augmentation =
        Augmentation{static_cast<std::uint64_t>(config_.seed), sampler_.position().epoch,
                     config_.data.max_shift, config_.data.max_rotation, config_.data.max_scaling};
  const Batch batch = MakeBatch(data_.train, indices, augmentation, device_);
  parallel_.BeforeForward();
  const at::Tensor loss = at::cross_entropy_loss(model_.Forward(batch.images), batch.labels);
  parallel_.Backward(loss);
  // One sum carries the mean loss, and whether any rank was told to stop. NaN survives it, so that
  // all ranks see it in the same step.
  double sums[] = {loss.item<double>(), stop_requested != 0 ? 1.0 : 0.0};
  communicator_->AllReduceSum(sums);
  stop_ = sums[1] > 0;
  const double mean = sums[0] / ranks_.world_size;
  if (!std::isfinite(mean))
    throw Failure(fmt::format("the loss is {} at step {} (epoch {})", mean, step_ + 1,
                              sampler_.position().epoch + 1),
                  fmt::format("lower optimizer.learning_rate (now {}), or look at the data",
                              config_.optimizer.learning_rate));
  ++step_;
  optimizer_.Step(schedule_.LearningRate(step_));
  optimizer_.ZeroGrad();
  return mean;
}

Trainer::Evaluation Trainer::Evaluate() {
  const c10::AutoGradMode no_grad(false);
  constexpr std::int64_t kBatch = 250;
  const std::int64_t count = data_.test.count();
  const std::int64_t begin = count * ranks_.rank / ranks_.world_size;
  const std::int64_t end = count * (ranks_.rank + 1) / ranks_.world_size;
  double sums[] = {0, 0, 0};  // loss, right answers, images
  std::vector<std::int64_t> indices;
  for (std::int64_t at = begin; at < end; at += kBatch) {
    indices.clear();
    for (std::int64_t i = at; i < std::min(at + kBatch, end); ++i) indices.push_back(i);
    const Batch batch = MakeBatch(data_.test, indices, std::nullopt, device_);
    const at::Tensor logits = model_.Forward(batch.images);
    sums[0] += at::cross_entropy_loss(logits, batch.labels, {}, at::Reduction::Sum).item<double>();
    sums[1] += logits.argmax(1).eq(batch.labels).sum().item<double>();
    sums[2] += static_cast<double>(indices.size());
  }
  communicator_->AllReduceSum(sums);
  return {sums[0] / sums[2], sums[1] / sums[2]};
}

double Trainer::Speed() const {
  const double seconds = stepping_ - logged_stepping_;
  return seconds > 0 ? static_cast<double>((step_ - logged_step_) * config_.global_batch) / seconds
                     : 0;
}

Progress Trainer::ProgressNow(double loss) const {
  const std::int64_t per_epoch = sampler_.steps_per_epoch();
  const double speed =
      stepping_ > 0 ? static_cast<double>((step_ - first_step_) * config_.global_batch) / stepping_
                    : 0;
  Progress progress;
  progress.epoch = (step_ - 1) / per_epoch + 1;
  progress.epochs = config_.epochs;
  progress.done = static_cast<double>((step_ - 1) % per_epoch + 1) / static_cast<double>(per_epoch);
  progress.loss = loss;
  progress.images_per_second = speed;
  if (speed > 0)
    progress.seconds_left =
        static_cast<double>((last_step_ - step_) * config_.global_batch) / speed;
  return progress;
}

void Trainer::Write(Json line, const Scalars& scalars) {
  if (!metrics_) return;
  for (const auto& [tag, value] : scalars) line[tag] = value;
  metrics_->Append(line.dump());
  if (!scalars.empty()) events_->Add(line["time"].get<double>(), step_, scalars);
}

void Trainer::Log(double loss) {
  Write({{"time", UnixTime()}, {"step", step_}, {"epoch", sampler_.position().epoch + 1}},
        {{"train/loss", loss},
         {"train/lr", schedule_.LearningRate(step_)},
         {"train/samples_per_second", Speed()}});
  logged_step_ = step_;
  logged_stepping_ = stepping_;
}

void Trainer::Save() {
  if (!checkpoints_ || saved_step_ == step_) return;
  TrainingState state;
  state.job = job_.name;
  state.step = step_;
  state.epoch = sampler_.position().epoch;
  state.sample_offset = sampler_.position().offset;
  state.seed = static_cast<std::uint64_t>(config_.seed);
  state.global_batch = config_.global_batch;
  state.dataset_samples = data_.train.count();
  state.model = config_.model.kind;
  state.world_size = ranks_.world_size;
  checkpoints_->Save(state, model_.Parameters(), optimizer_.State(),
                     static_cast<int>(config_.keep_checkpoints));
  saved_step_ = step_;
}

void Trainer::EndEpoch(double loss) {
  const Evaluation evaluation = Evaluate();
  accuracy_ = evaluation.accuracy;
  Write({{"time", UnixTime()}, {"step", step_}, {"epoch", sampler_.position().epoch + 1}},
        {{"eval/loss", evaluation.loss}, {"eval/accuracy", evaluation.accuracy}});
  console_.Finish(ProgressNow(loss), fmt::format("test accuracy {:.2f} %", 100 * accuracy_));
}

void Trainer::Finish() {
  if (!checkpoints_) return;
  const fs::path model = checkpoints_->SaveFinal(
      model_.Parameters(), {{"model", config_.model.kind},
                            {"step", std::to_string(step_)},
                            {"test_accuracy", fmt::format("{:.4f}", accuracy_)}});
  const double speed =
      stepping_ > 0 ? static_cast<double>((step_ - first_step_) * config_.global_batch) / stepping_
                    : 0;
  Write({{"time", UnixTime()},
         {"step", step_},
         {"final", true},
         {"test_accuracy", accuracy_},
         {"samples_per_second", speed},
         {"samples_per_second_per_rank", speed / ranks_.world_size},
         {"train_seconds", Seconds(Clock::now() - started_)},
         {"model", model.lexically_relative(run_).string()}},
        {});
}

int Trainer::Run() {
  std::int64_t weights = 0;
  for (const NamedTensor& each : model_.Parameters()) weights += each.tensor.numel();
  console_.Line(fmt::format(
      "{} with {} weights · {} images · {} {} ({}) · global batch {}", config_.model.kind,
      Thousands(weights), Thousands(data_.train.count()), ranks_.world_size,
      fmt::format(fmt::runtime(ranks_.world_size == 1 ? "rank on {}" : "ranks on {}"),
                  device_.is_cuda() ? "GPU" : "CPU"),
      communicator_->Transport(), config_.global_batch));
  if (job_.resume) Resume(*job_.resume);
  first_step_ = logged_step_ = step_;
  started_ = Clock::now();
  const std::int64_t per_epoch = sampler_.steps_per_epoch();
  double loss = 0;
  while (step_ < last_step_) {
    const Clock::time_point begin = Clock::now();
    loss = Step();
    stepping_ += Seconds(Clock::now() - begin);
    const bool first = step_ == first_step_ + 1;
    if (first) console_.Line(fmt::format("step {}  loss {:.3f}", step_, loss));
    if (first || step_ % config_.log_every == 0 || step_ == last_step_) Log(loss);
    console_.Show(ProgressNow(loss));
    if (stop_) {
      Save();
      console_.Line(fmt::format("told to stop: saved at step {}; go on with --resume", step_));
      communicator_->Barrier();
      return 75;
    }
    const bool epoch_ends = step_ % per_epoch == 0 || step_ == last_step_;
    if (epoch_ends) EndEpoch(loss);
    if (epoch_ends || (config_.checkpoint_every > 0 && step_ % config_.checkpoint_every == 0))
      Save();
  }
  if (step_ == first_step_) {  // resumed from a run that was complete
    accuracy_ = Evaluate().accuracy;
    console_.Line(fmt::format("nothing left to train: test accuracy {:.2f} %", 100 * accuracy_));
  }
  Finish();
  communicator_->Barrier();
  return 0;
}

}  // namespace

int Train(const TrainJob& job) { return Trainer(job).Run(); }

}  // namespace envkit

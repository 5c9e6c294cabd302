#include "trainer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <sched.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <nlohmann/json.hpp>
#include <thread>

#include "console.h"
#include "envkit/accelerator.h"
#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "envkit/seed.h"
#include "envkit/sharding.h"
#include "envkit/tracking.h"
#include "learner.h"

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

// This rank's share of the cores that this process may use.
int CoresOf(const RankInfo& ranks) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return std::max(1, CPU_COUNT(&allowed) / ranks.local_world_size);
}

// Every rank its share of the cores, unless the launcher said otherwise.
void ShareCores(const RankInfo& ranks) {
  if (std::getenv("OMP_NUM_THREADS") == nullptr) at::set_num_threads(CoresOf(ranks));
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

class Trainer {
 public:
  explicit Trainer(const TrainJob& job);
  ~Trainer();
  int Run();

 private:
  struct Evaluation {
    double loss = 0, accuracy = 0;
  };
  // Where this rank's time goes, in seconds since the start.
  struct Times {
    double data = 0, forward = 0, backward = 0, communication = 0, optimizer = 0;
  };

  void Resume(const std::string& from);
  std::optional<fs::path> FindCheckpoint(const std::string& from);
  void CheckFits(const fs::path& checkpoint, const TrainingState& state) const;
  double Step();  // the mean loss over the global batch
  Evaluation Evaluate();
  void LogEvaluation(const Evaluation& evaluation);
  void EndEpoch(double loss);
  void Look();  // histograms, and pictures of mistakes
  void Save();
  void FinishSaving();
  void Finish();
  void Log(double loss);
  void NameStraggler(const std::vector<double>& busy);
  void Write(Json line, const Scalars& scalars);
  Progress ProgressNow(double loss) const;
  double Speed() const;  // samples per second over the last steps
  Sharding* sharding() const { return accelerator_->sharding(model_); }
  std::vector<NamedTensor> ModelTensors() const;
  std::vector<Slice> ModelSlices() const, OptimizerSlices() const;

  const TrainJob job_;
  const TrainConfig& config_;
  const RankInfo ranks_;
  Console console_;
  const at::Device device_;
  TrainingData data_;
  DataLoader loader_;
  Schedule schedule_;
  std::int64_t last_step_;
  std::shared_ptr<Communicator> communicator_;
  std::optional<Accelerator> accelerator_;
  std::shared_ptr<Learner> learner_;
  PreparedModel<Learner> model_;
  std::unique_ptr<Optimizer> optimizer_;
  PreparedOptimizer stepper_;

  // Of rank 0 alone.
  fs::path run_;
  std::optional<CheckpointStore> checkpoints_;
  std::optional<EventWriter> events_;
  std::optional<MetricsFile> metrics_;

  std::thread saving_;
  std::exception_ptr saving_failed_;
  std::int64_t step_ = 0;  // optimizer steps done
  std::int64_t first_step_ = 0, saved_step_ = -1, evaluated_step_ = -1;
  bool stop_ = false, best_ = false;
  Clock::time_point started_{};
  Times times_, logged_times_;
  double stepping_ = 0;         // seconds in steps, since the start
  double logged_stepping_ = 0;  // the same when the last line was logged
  std::int64_t logged_step_ = 0;
  double accuracy_ = 0, best_loss_ = INFINITY, norm_ = 0;
};

Schedule MakeSchedule(const TrainConfig& config, std::int64_t steps) {
  Schedule schedule{config.optimizer.learning_rate, config.schedule.final_rate,
                    std::min(config.schedule.warmup_steps, steps), steps};
  if (config.schedule.name == "linear") schedule.kind = Schedule::Kind::kLinear;
  if (config.schedule.name == "constant") schedule.kind = Schedule::Kind::kConstant;
  return schedule;
}

// A micro-step's samples of one rank.
DataLoaderOptions LoaderOptions(const TrainConfig& config, std::int64_t samples,
                                const RankInfo& ranks) {
  const std::int64_t batch = config.global_batch, parts = config.accumulation * ranks.world_size;
  if (batch > samples)
    throw Failure(
        fmt::format("a global batch of {} cannot be taken from {} samples", batch, samples),
        fmt::format("choose a batch of 1 to {}", samples), 2);
  if (batch % parts != 0) {
    const std::int64_t below = batch / parts * parts;
    throw Failure(
        fmt::format(
            "a global batch of {} cannot be dealt equally to {} ranks{}", batch, ranks.world_size,
            config.accumulation > 1 ? fmt::format(" in {} micro-steps", config.accumulation) : ""),
        fmt::format("choose {}{}, or another number of ranks",
                    below > 0 ? fmt::format("{} or ", below) : "", below + parts),
        2);
  }
  auto threads = static_cast<int>(config.data.threads);
  // Decoding takes as long as a step of a small model; the other kinds only copy.
  if (threads == 0)
    threads = config.data.kind == "images" ? std::clamp(CoresOf(ranks) / 2, 1, 16) : 1;
  return {.batch_size = batch / parts,
          .shuffle = true,
          .seed = static_cast<std::uint64_t>(config.seed),
          .drop_last = true,
          .read_ahead = std::max(2, threads),
          .threads = threads};
}

std::unique_ptr<Optimizer> MakeOptimizer(const TrainConfig& config,
                                         const std::vector<NamedTensor>& parameters) {
  const auto& wanted = config.optimizer;
  if (wanted.name == "sgd")
    return std::make_unique<Sgd>(
        parameters, SgdOptions{.momentum = wanted.momentum, .weight_decay = wanted.weight_decay});
  return std::make_unique<AdamW>(parameters, AdamWOptions{.weight_decay = wanted.weight_decay});
}

Trainer::Trainer(const TrainJob& job)
    : job_(job),
      config_(job_.config),
      ranks_(RankInfoFromEnvironment()),
      console_(ranks_.rank != 0),
      device_(SelectDevice(config_.device, ranks_.local_rank)),
      data_(OpenData(config_)),
      loader_(data_.train, LoaderOptions(config_, data_.train->size(), ranks_)),
      schedule_(
          MakeSchedule(config_, config_.epochs * (data_.train->size() / config_.global_batch))),
      last_step_(config_.max_steps > 0 ? std::min(config_.max_steps, schedule_.total_steps)
                                       : schedule_.total_steps),
      communicator_((ShareCores(ranks_), Communicator::Connect(ranks_, device_))) {
  AcceleratorOptions options;
  options.connected = communicator_;
  options.mixed_precision = config_.precision.mixed;
  options.tf32 = config_.precision.tf32;
  options.gradient_accumulation_steps = static_cast<int>(config_.accumulation);
  options.zero_stage = static_cast<int>(config_.distributed.zero_stage);
  options.comm_hook = config_.distributed.comm_hook;
  options.cpu_offload = config_.distributed.cpu_offload;
  options.activation_checkpointing = config_.distributed.activation_checkpointing;
  options.check_finite = false;  // all ranks find it out together, in Step
  accelerator_.emplace(options);
  learner_ = MakeLearner(config_, data_, device_);
  optimizer_ = MakeOptimizer(config_, learner_->Parameters());
  std::tie(model_, stepper_) = accelerator_->prepare(learner_, *optimizer_);
  loader_.Shard(ranks_.rank, ranks_.world_size, device_);
  // Dropout differs between ranks, and is the same again when a run is repeated.
  set_seed(static_cast<std::uint64_t>(config_.seed), ranks_.rank);
  if (!communicator_->is_main()) return;
  run_ = job_.run.empty() ? NewRun(job_.name) : job_.run;
  checkpoints_.emplace(run_ / "checkpoints");
  events_.emplace(run_ / "events");
  metrics_.emplace(run_ / "metrics.jsonl");
  const std::string text = ConfigText(config_);
  WriteText(run_ / "train.toml", text);
  events_->AddText(UnixTime(), 0, "train.toml", "```\n" + text + "```");
}

Trainer::~Trainer() {
  if (saving_.joinable()) saving_.join();
}

std::vector<NamedTensor> Trainer::ModelTensors() const {
  std::vector<NamedTensor> tensors = learner_->Parameters();
  for (NamedTensor& buffer : learner_->Buffers()) tensors.push_back(std::move(buffer));
  return tensors;
}

// What this rank saves and loads: its shards, or all.
std::vector<Slice> Trainer::ModelSlices() const {
  if (sharding() == nullptr) return WholeSlices(ModelTensors());
  std::vector<Slice> slices = sharding()->Parameters();
  if (communicator_->is_main())
    for (Slice& buffer : WholeSlices(learner_->Buffers())) slices.push_back(std::move(buffer));
  return slices;
}

std::vector<Slice> Trainer::OptimizerSlices() const {
  return sharding() != nullptr ? sharding()->OptimizerState(*optimizer_)
                               : WholeSlices(optimizer_->State());
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

void Trainer::CheckFits(const fs::path& checkpoint, const TrainingState& state) const {
  const auto same = [&](const char* what, const auto& then, const auto& now) {
    if (then != now)
      throw Failure(fmt::format("{} was made with {} = {}; this run has {}", checkpoint.string(),
                                what, then, now),
                    "set it back to go on from there, or start anew without --resume", 2);
  };
  same("model.kind", state.model, config_.model.kind);
  same("seed", state.seed, static_cast<std::uint64_t>(config_.seed));
  same("global_batch", state.global_batch, config_.global_batch);
  same("training images", state.dataset_samples, data_.train->size());
}

void Trainer::Resume(const std::string& from) {
  // Rank 0 reads and tells: other hosts need not see its files, unless parameters are sharded.
  std::string told, folder;
  const at::Tensor own = at::detail::getDefaultCPUGenerator().get_state();
  at::Tensor random_states = at::empty({ranks_.world_size, own.numel()}, at::kByte);
  std::int64_t known = 0;  // random states that the checkpoint has
  if (communicator_->is_main()) {
    if (const std::optional<fs::path> found = FindCheckpoint(from)) {
      const Checkpoint checkpoint = CheckpointStore::Load(*found);
      CheckFits(*found, checkpoint.state);
      if (sharding() == nullptr) {
        CopyInto(ModelTensors(), checkpoint.model, (*found / "model.safetensors").string());
        CopyInto(optimizer_->State(), checkpoint.optimizer,
                 (*found / "optimizer.safetensors").string());
      }
      const at::Tensor saved = checkpoint.random_state.view({-1, own.numel()});
      known = std::min<std::int64_t>(saved.size(0), ranks_.world_size);
      random_states.narrow(0, 0, known).copy_(saved.narrow(0, 0, known));
      told = fmt::format("{} {} {} {}", checkpoint.state.step, checkpoint.state.epoch,
                         checkpoint.state.sample_offset, known);
      folder = fs::absolute(*found).string();
      console_.Line(fmt::format("resume at step {} from {}", checkpoint.state.step,
                                found->lexically_normal().string()));
    } else {
      console_.Line("resume: no earlier run of this job has a checkpoint; starting anew");
    }
  }
  told = communicator_->Broadcast(told);
  if (told.empty()) return;
  std::int64_t epoch = 0, offset = 0;
  if (std::sscanf(told.c_str(), "%ld %ld %ld %ld", &step_, &epoch, &offset, &known) != 4)
    throw Failure("rank 0 resumed at \"" + told + "\"");
  loader_.Seek({epoch, offset / config_.global_batch * config_.accumulation});
  if (sharding() != nullptr) {
    folder = communicator_->Broadcast(folder);
    ReadSlices(folder, "model", ModelSlices());
    std::vector<Slice> state = OptimizerSlices();
    if (!communicator_->is_main())  // the count of steps, which rank 0 alone saves
      state.push_back(WholeSlices({optimizer_->State()[0]})[0]);
    ReadSlices(folder, "optimizer", state);
    sharding()->Refresh();
  } else {
    std::vector<at::Tensor> tensors;
    for (const auto& list : {ModelTensors(), optimizer_->State()})
      for (const NamedTensor& each : list) tensors.push_back(each.tensor.detach());
    communicator_->Broadcast(tensors);
  }
  communicator_->Broadcast({random_states});
  if (ranks_.rank < known)
    at::Generator(at::detail::getDefaultCPUGenerator())
        .set_state(random_states.select(0, ranks_.rank).clone());
}

double Trainer::Step() {
  double loss_sum = 0;
  const double communicated = communicator_->Seconds();
  Batch batch;
  for (std::int64_t part = 0; part < config_.accumulation; ++part) {
    const Clock::time_point begin = Clock::now();
    if (!loader_.Next(&batch)) loader_.Next(&batch);  // the next epoch
    const Clock::time_point ready = Clock::now();
    times_.data += Seconds(ready - begin);
    const auto scope = accelerator_->accumulate();
    const at::Tensor loss = model_.run([&](Learner& learner) { return learner.Loss(batch); });
    loss_sum += loss.item<double>() / static_cast<double>(config_.accumulation);
    const Clock::time_point forward = Clock::now();
    times_.forward += Seconds(forward - ready);
    accelerator_->backward(loss);
    times_.backward += Seconds(Clock::now() - forward);
  }
  const double in_backward = communicator_->Seconds() - communicated;
  times_.backward -= in_backward;
  const Clock::time_point begin = Clock::now();
  // One sum carries the mean loss, and whether any rank was told to stop. NaN survives it, so that
  // all ranks see it in the same step.
  double sums[] = {loss_sum, stop_requested != 0 ? 1.0 : 0.0};
  communicator_->AllReduceSum(sums);
  stop_ = sums[1] > 0;
  const double mean = sums[0] / ranks_.world_size;
  if (config_.optimizer.clip_norm > 0)
    norm_ = accelerator_->clip_grad_norm_(model_, config_.optimizer.clip_norm);
  const bool overflow_is_fine = config_.precision.mixed == "fp16" && std::isfinite(mean);
  if (!std::isfinite(mean) || (!std::isfinite(norm_) && !overflow_is_fine)) {
    std::vector<NamedTensor> tensors = learner_->Parameters();
    if (sharding() != nullptr) {
      tensors.clear();
      for (const Slice& slice : sharding()->Parameters())
        tensors.push_back({slice.name, slice.values});
      for (const Slice& slice : sharding()->Gradients())
        tensors.push_back({"the gradient of " + slice.name, slice.values});
    }
    const std::string first = FirstNotFinite(tensors);
    throw Failure(
        fmt::format("the {} is {} at step {} (epoch {}){}",
                    std::isfinite(mean) ? "norm of the gradients" : "loss",
                    std::isfinite(mean) ? norm_ : mean, step_ + 1,
                    step_ / (data_.train->size() / config_.global_batch) + 1,
                    first.empty() ? "" : "\nthe first tensor that is not finite: " + first),
        fmt::format("lower optimizer.learning_rate (now {}), or look at the data",
                    config_.optimizer.learning_rate));
  }
  ++step_;
  optimizer_->learning_rate = schedule_.LearningRate(step_);
  stepper_.step();
  stepper_.zero_grad();
  const double waited = communicator_->Seconds() - communicated;
  times_.optimizer += Seconds(Clock::now() - begin) - (waited - in_backward);
  times_.communication += waited;
  return mean;
}

Trainer::Evaluation Trainer::Evaluate() {
  const c10::AutoGradMode no_grad(false);
  learner_->Train(false);
  constexpr std::int64_t kBatch = 250, kSequences = 8, kLargeImages = 32;
  const std::int64_t each = config_.model.kind == "gpt"     ? kSequences
                            : config_.data.kind == "images" ? kLargeImages
                                                            : kBatch;
  std::int64_t count = data_.test->size();
  if (config_.data.evaluation_samples > 0) count = std::min(count, config_.data.evaluation_samples);
  const std::int64_t begin = count * ranks_.rank / ranks_.world_size;
  const std::int64_t end = count * (ranks_.rank + 1) / ranks_.world_size;
  // As many batches on every rank: forward is collective where parameters are sharded.
  const std::int64_t most = (count + ranks_.world_size - 1) / ranks_.world_size;
  EvaluationSums sums;
  std::vector<std::int64_t> indices;
  for (std::int64_t at = begin; at < begin + most; at += each) {
    indices.clear();
    for (std::int64_t i = at; i < std::min(at + each, end); ++i) indices.push_back(i);
    const bool nothing = indices.empty();
    if (nothing) indices.push_back(begin);
    Batch batch = data_.test->Get(indices, 0);
    for (at::Tensor& tensor : batch) tensor = tensor.to(device_);
    EvaluationSums ignored;
    model_.run([&](Learner& learner) {
      learner.Evaluate(batch, nothing ? &ignored : &sums, nullptr);
      return 0;
    });
  }
  learner_->Train(true);
  double all[] = {sums.loss, sums.right, sums.count};
  communicator_->AllReduceSum(all);
  evaluated_step_ = step_;
  const Evaluation evaluation{all[0] / all[2], all[1] / all[2]};
  best_ = evaluation.loss < best_loss_;
  best_loss_ = std::min(best_loss_, evaluation.loss);
  return evaluation;
}

// What the model looks like from inside, and what it gets wrong. Local to rank 0, whose parameters
// are whole unless they are sharded.
void Trainer::Look() {
  if (!events_ || config_.distributed.zero_stage == 3) return;
  const c10::AutoGradMode no_grad(false);
  std::int64_t weights = 0;
  for (const NamedTensor& each : learner_->Parameters()) weights += each.tensor.numel();
  constexpr std::int64_t kMostWeights = 20'000'000;  // some tens of milliseconds
  if (weights <= kMostWeights)
    for (const auto& [name, tensor] : learner_->Parameters()) {
      const at::Tensor flat = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
      events_->AddHistogram(UnixTime(), step_, "weights/" + name,
                            {flat.const_data_ptr<float>(), static_cast<std::size_t>(flat.numel())});
    }
  if (!data_.pictures || config_.model.kind.starts_with("resnet")) return;
  // The first mistakes among some test images, in rows of eight.
  constexpr std::int64_t kLookAt = 1000;
  constexpr std::size_t kColumns = 8, kMost = 32;
  std::vector<std::int64_t> indices, wrong;
  for (std::int64_t i = 0; i < std::min(kLookAt, data_.pictures->size()); ++i) indices.push_back(i);
  Batch batch = data_.pictures->Get(indices, 0);
  for (at::Tensor& tensor : batch) tensor = tensor.to(device_);
  EvaluationSums sums;
  at::Tensor right;
  const auto autocast = accelerator_->autocast();
  learner_->Evaluate(batch, &sums, &right);
  right = right.to(at::kCPU);
  for (std::size_t i = 0; i < indices.size() && wrong.size() < kMost; ++i)
    if (!right.const_data_ptr<bool>()[i]) wrong.push_back(indices[i]);
  if (wrong.empty()) return;
  const ImageSet& set = data_.pictures->set();
  const auto rows = static_cast<std::size_t>(set.rows()),
             columns = static_cast<std::size_t>(set.columns());
  const std::size_t lines = (wrong.size() + kColumns - 1) / kColumns;
  std::vector<std::uint8_t> pixels(lines * rows * kColumns * columns);
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    const auto image = set.image(wrong[i]);
    for (std::size_t y = 0; y < rows; ++y)
      std::copy_n(image.data() + y * columns, columns,
                  pixels.data() + ((i / kColumns * rows + y) * kColumns + i % kColumns) * columns);
  }
  events_->AddImage(UnixTime(), step_, "mistakes", static_cast<std::int64_t>(lines * rows),
                    static_cast<std::int64_t>(kColumns * columns), 1, pixels);
}

double Trainer::Speed() const {
  const double seconds = stepping_ - logged_stepping_;
  return seconds > 0 ? static_cast<double>((step_ - logged_step_) * config_.global_batch) / seconds
                     : 0;
}

Progress Trainer::ProgressNow(double loss) const {
  const std::int64_t per_epoch = data_.train->size() / config_.global_batch;
  const double speed =
      stepping_ > 0 ? static_cast<double>((step_ - first_step_) * config_.global_batch) / stepping_
                    : 0;
  Progress progress;
  progress.epoch = (step_ - 1) / per_epoch + 1;
  progress.epochs = config_.epochs;
  progress.done = static_cast<double>((step_ - 1) % per_epoch + 1) / static_cast<double>(per_epoch);
  progress.loss = loss;
  progress.unit = data_.unit;
  progress.samples_per_second = speed;
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

// BUSY: each rank's seconds of its own work since the last line.
void Trainer::NameStraggler(const std::vector<double>& busy) {
  if (ranks_.world_size < 2) return;
  std::vector<double> sorted = busy;
  std::sort(sorted.begin(), sorted.end());
  const double usual = sorted[(sorted.size() - 1) / 2];
  constexpr double kSlow = 1.5, kNotice = 0.5;  // times, seconds
  const auto slowest = std::max_element(busy.begin(), busy.end());
  if (*slowest > kSlow * usual && *slowest - usual > kNotice)
    console_.Line(fmt::format(
        "rank {} is slow: {:.1f} s of its own work in the last {} steps, others {:.1f} s",
        slowest - busy.begin(), *slowest, step_ - logged_step_, usual));
}

void Trainer::Log(double loss) {
  const Times& now = times_;
  const Times& then = logged_times_;
  // Two rows: each rank's own work, and its waiting for data.
  const auto ranks = static_cast<std::size_t>(ranks_.world_size),
             rank = static_cast<std::size_t>(ranks_.rank);
  std::vector<double> both(2 * ranks);
  const double starved = now.data - then.data;
  both[rank] = starved + now.forward - then.forward + now.backward - then.backward;
  both[ranks + rank] = starved;
  communicator_->AllReduceSum(both);
  const auto middle = both.begin() + static_cast<std::ptrdiff_t>(ranks);
  const double all = stepping_ - logged_stepping_;
  NameStraggler({both.begin(), middle});
  constexpr double kBound = 0.3, kNotice = 0.5;
  const auto most = std::max_element(middle, both.end());
  if (*most > kBound * all && *most > kNotice)
    console_.Line(
        fmt::format("data-bound: {}{:.0f} % of the last {} steps' time went into waiting for data",
                    ranks > 1 ? fmt::format("on rank {} ", most - middle) : "", 100 * *most / all,
                    step_ - logged_step_));
  Scalars scalars = {{"train/loss", loss},
                     {"train/lr", schedule_.LearningRate(step_)},
                     {"train/samples_per_second", Speed()}};
  if (config_.optimizer.clip_norm > 0) scalars.emplace_back("train/gradient_norm", norm_);
  if (all > 0) {
    scalars.emplace_back("time/data", (now.data - then.data) / all);
    scalars.emplace_back("time/forward", (now.forward - then.forward) / all);
    scalars.emplace_back("time/backward", (now.backward - then.backward) / all);
    scalars.emplace_back("time/communication", (now.communication - then.communication) / all);
    scalars.emplace_back("time/optimizer", (now.optimizer - then.optimizer) / all);
  }
  Write({{"time", UnixTime()},
         {"step", step_},
         {"epoch", (step_ - 1) / (data_.train->size() / config_.global_batch) + 1}},
        scalars);
  logged_step_ = step_;
  logged_stepping_ = stepping_;
  logged_times_ = times_;
}

void Trainer::FinishSaving() {
  if (saving_.joinable()) saving_.join();
  if (saving_failed_) std::rethrow_exception(std::exchange(saving_failed_, nullptr));
}

// Every rank that has something to write copies it, and writes the copy while training goes on.
// Collective: random states, and the folder's name, go between ranks.
void Trainer::Save() {
  if (saved_step_ == step_) return;
  saved_step_ = step_;
  FinishSaving();
  const at::Tensor own = at::detail::getDefaultCPUGenerator().get_state();
  const at::Tensor random_states = at::empty({ranks_.world_size, own.numel()}, at::kByte);
  {
    const std::vector<std::string> states = communicator_->Gather(std::string(
        static_cast<const char*>(own.const_data_ptr()), static_cast<std::size_t>(own.numel())));
    for (std::size_t i = 0; i < states.size(); ++i)
      std::copy(states[i].begin(), states[i].end(),
                static_cast<char*>(random_states.mutable_data_ptr()) + i * states[i].size());
  }
  TrainingState state;
  state.job = job_.name;
  state.step = step_;
  const DataLoader::Position position = loader_.position();
  state.epoch = position.epoch;
  state.sample_offset = position.batch / config_.accumulation * config_.global_batch;
  state.seed = static_cast<std::uint64_t>(config_.seed);
  state.global_batch = config_.global_batch;
  state.dataset_samples = data_.train->size();
  state.model = config_.model.kind;
  state.world_size = ranks_.world_size;
  const int writers = sharding() != nullptr ? ranks_.world_size : 1;
  std::string hidden;
  if (checkpoints_) hidden = fs::absolute(checkpoints_->Begin(step_)).string();
  if (writers > 1) hidden = communicator_->Broadcast(hidden);
  if (ranks_.rank >= writers) return;
  std::vector<Slice> model = ModelSlices(), optimizer = OptimizerSlices();
  if (communicator_->is_main())
    optimizer.push_back(WholeSlices({{"random_state", random_states}})[0]);
  {
    const c10::AutoGradMode no_grad(false);
    for (std::vector<Slice>* list : {&model, &optimizer})
      for (Slice& slice : *list)
        slice.values = slice.values.detach().to(at::kCPU).clone(at::MemoryFormat::Contiguous);
  }
  const bool best = config_.keep_best && best_ && evaluated_step_ == step_;
  saving_ = std::thread([this, model = std::move(model), optimizer = std::move(optimizer), state,
                         best, writers, hidden = fs::path(hidden)] {
    try {
      const auto file = [&](const char* stem, int rank) {
        return hidden / (ShardName(stem, rank, writers) + ".safetensors");
      };
      // Under other names until they are whole: rank 0 waits for the names.
      const auto write = [&](const char* stem, const std::vector<Slice>& slices,
                             const std::map<std::string, std::string>& metadata) {
        const fs::path part = hidden / (ShardName(stem, ranks_.rank, writers) + ".part");
        WriteSlices(part, slices, metadata);
        fs::rename(part, file(stem, ranks_.rank));
      };
      write("model", model, {{"format", "pt"}});
      write("optimizer", optimizer, {});
      if (!checkpoints_) return;
      const auto deadline = Clock::now() + std::chrono::minutes(10);
      for (int rank = 0; rank < writers; ++rank)
        for (const char* stem : {"model", "optimizer"})
          while (!fs::exists(file(stem, rank))) {
            if (Clock::now() > deadline)
              throw Failure(fmt::format("rank {} did not write {} within 10 minutes", rank,
                                        file(stem, rank).string()),
                            "all ranks must see the run's folder");
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
          }
      checkpoints_->Commit(hidden, state, static_cast<int>(config_.keep_checkpoints), best);
    } catch (...) {
      saving_failed_ = std::current_exception();
    }
  });
  if (!config_.background_checkpoints) FinishSaving();
}

void Trainer::LogEvaluation(const Evaluation& evaluation) {
  accuracy_ = evaluation.accuracy;
  Write({{"time", UnixTime()},
         {"step", step_},
         {"epoch", (step_ - 1) / (data_.train->size() / config_.global_batch) + 1}},
        {{"eval/loss", evaluation.loss}, {"eval/accuracy", evaluation.accuracy}});
}

void Trainer::EndEpoch(double loss) {
  const Evaluation evaluation = Evaluate();
  LogEvaluation(evaluation);
  Look();
  console_.Finish(ProgressNow(loss), config_.model.kind == "gpt"
                                         ? fmt::format("test loss {:.3f}", evaluation.loss)
                                         : fmt::format("test accuracy {:.2f} %", 100 * accuracy_));
}

void Trainer::Finish() {
  FinishSaving();
  std::vector<NamedTensor> model =
      sharding() != nullptr ? sharding()->Whole() : learner_->Parameters();
  for (NamedTensor& buffer : learner_->Buffers()) model.push_back(std::move(buffer));
  if (!checkpoints_) return;
  const fs::path file =
      checkpoints_->SaveFinal(model, {{"model", config_.model.kind},
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
         {"model", file.lexically_relative(run_).string()}},
        {});
}

int Trainer::Run() {
  std::int64_t weights = 0;
  for (const NamedTensor& each : learner_->Parameters()) weights += each.tensor.numel();
  std::string how = communicator_->Transport();
  if (config_.distributed.zero_stage > 0)
    how += fmt::format(", ZeRO {}", config_.distributed.zero_stage);
  console_.Line(
      fmt::format("{} with {} weights · {} {} · {} {} ({}) · global batch {}", config_.model.kind,
                  Thousands(weights), Thousands(data_.train->size()), data_.unit, ranks_.world_size,
                  fmt::format(fmt::runtime(ranks_.world_size == 1 ? "rank on {}" : "ranks on {}"),
                              device_.is_cuda() ? "GPU" : "CPU"),
                  how, config_.global_batch));
  if (job_.resume) Resume(*job_.resume);
  first_step_ = logged_step_ = step_;
  started_ = Clock::now();
  const std::int64_t per_epoch = data_.train->size() / config_.global_batch;
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
      FinishSaving();
      console_.Line(fmt::format("told to stop: saved at step {}; go on with --resume", step_));
      communicator_->Barrier();
      return 75;
    }
    const bool epoch_ends = step_ % per_epoch == 0 || step_ == last_step_;
    if (epoch_ends)
      EndEpoch(loss);
    else if (config_.evaluate_every > 0 && step_ % config_.evaluate_every == 0)
      LogEvaluation(Evaluate());
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

#include "envkit/accelerator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "envkit/checkpoint.h"
#include "envkit/failure.h"
#include "envkit/sharding.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string Numbered(const char* stem, std::size_t number) {
  return number == 0 ? stem : std::string(stem) + "_" + std::to_string(number);
}

}  // namespace

struct ModelState {
  std::vector<NamedTensor> parameters, buffers;
  Blocks* blocks = nullptr;
  std::shared_ptr<void> owner;
  std::unique_ptr<DataParallel> parallel;
  std::unique_ptr<Sharding> sharding;
  Optimizer* optimizer = nullptr;  // of SHARDING
  bool ran = false;                // forward, and backward is still to come

  std::vector<at::Tensor> WithGradients() const {
    std::vector<at::Tensor> tensors;
    for (const auto& [name, tensor] : sharding ? sharding->shards() : parameters)
      tensors.push_back(tensor);
    return tensors;
  }
};

struct Custom {
  std::string name;
  std::function<std::string()> save;
  std::function<void(const std::string&)> load;
};

struct AcceleratorState {
  AcceleratorOptions options;
  std::shared_ptr<Communicator> communicator;
  std::vector<std::shared_ptr<ModelState>> models;
  std::vector<Optimizer*> optimizers;
  std::vector<DataLoader*> loaders;
  std::vector<Scheduler*> schedulers;
  std::vector<Custom> custom;
  DataLoader* last_loader = nullptr;
  GradScaler scaler;
  bool sync = true, unscaled = false, finite = true, skipped = false, trigger = false;
  std::int64_t micro_steps = 0;
  ModelState* joined = nullptr;   // within join_uneven_inputs
  std::int64_t joined_steps = 0;  // of this rank's own batches, there
  std::optional<MetricsFile> metrics;
  std::optional<EventWriter> events;

  bool Scaled() const { return options.mixed_precision == "fp16"; }
  std::optional<at::ScalarType> NarrowType() const {
    if (options.mixed_precision == "bf16") return at::kBFloat16;
    if (options.mixed_precision == "fp16") return at::kHalf;
    return std::nullopt;
  }
  std::int64_t NextStep() const { return optimizers.empty() ? 1 : optimizers[0]->steps() + 1; }
  void Unscale();
  void SaveInto(const fs::path& folder) const;
  [[noreturn]] void NotFinite(const std::string& what, double value) const;
};

// Gradients are divided by the scale once a step, by whoever needs them first.
void AcceleratorState::Unscale() {
  if (!Scaled() || unscaled) return;
  double overflows = 0;
  for (const auto& model : models)
    if (!scaler.Unscale(model->WithGradients())) overflows = 1;
  communicator->AllReduceSum({&overflows, 1});
  finite = overflows == 0;
  unscaled = true;
}

void AcceleratorState::NotFinite(const std::string& what, double value) const {
  std::string first;
  for (const auto& model : models) {
    if (!first.empty()) break;
    std::vector<NamedTensor> tensors = model->parameters;
    if (model->sharding) {
      tensors.clear();
      for (const Slice& slice : model->sharding->Parameters())
        tensors.push_back({slice.name, slice.values});
      for (const Slice& slice : model->sharding->Gradients())
        tensors.push_back({"the gradient of " + slice.name, slice.values});
    }
    first = FirstNotFinite(tensors);
  }
  char number[32];
  std::snprintf(number, sizeof number, "%g", value);
  throw Failure(
      what + " is " + number + " at step " + std::to_string(NextStep()) + ", on rank " +
          std::to_string(communicator->ranks().rank) + "\n" +
          (first.empty() ? "all parameters and gradients of this rank are finite"
                         : "the first tensor that is not finite: " + first),
      first.empty() ? "look at this batch" : "lower the learning rate, or clip gradients");
}

Scheduler::Scheduler(Optimizer& optimizer, const Schedule& schedule)
    : optimizer_(&optimizer), schedule_(schedule) {
  SetSteps(0);
}

void Scheduler::Step() { SetSteps(steps_ + 1); }

void Scheduler::SetSteps(std::int64_t steps) {
  steps_ = steps;
  optimizer_->learning_rate = schedule_.LearningRate(steps + 1);
}

Accelerator::Accelerator(const AcceleratorOptions& options)
    : state_(std::make_shared<AcceleratorState>()) {
  if (options.mixed_precision != "no" && options.mixed_precision != "bf16" &&
      options.mixed_precision != "fp16")
    throw Failure("there is no mixed precision \"" + options.mixed_precision + "\"",
                  "choose no, bf16 or fp16", 2);
  if (options.comm_hook != "no" && options.comm_hook != "bf16" && options.comm_hook != "fp16")
    throw Failure("there is no comm_hook \"" + options.comm_hook + "\"", "choose no, bf16 or fp16",
                  2);
  if (options.zero_stage < 0 || options.zero_stage > 3)
    throw Failure("there is no ZeRO stage " + std::to_string(options.zero_stage),
                  "choose 0 (none), 1, 2 or 3", 2);
  if (options.gradient_accumulation_steps < 1)
    throw Failure("gradients cannot be accumulated over " +
                      std::to_string(options.gradient_accumulation_steps) + " steps",
                  "choose 1 or more", 2);
  state_->options = options;
  AllowTf32(options.tf32);
  state_->communicator = options.connected;
  if (options.connected) return;
  const RankInfo ranks = RankInfoFromEnvironment();
  const at::Device device = SelectDevice(options.device, ranks.local_rank);
  state_->communicator = Communicator::Connect(ranks, device, options.communicator);
}

Accelerator::~Accelerator() = default;

at::Device Accelerator::device() const { return state_->communicator->device(); }
int Accelerator::process_index() const { return state_->communicator->ranks().rank; }
int Accelerator::local_process_index() const { return state_->communicator->ranks().local_rank; }
int Accelerator::num_processes() const { return state_->communicator->ranks().world_size; }
bool Accelerator::is_main_process() const { return process_index() == 0; }
bool Accelerator::is_local_main_process() const { return local_process_index() == 0; }
bool Accelerator::is_last_process() const { return process_index() + 1 == num_processes(); }
Communicator& Accelerator::communicator() const { return *state_->communicator; }

std::shared_ptr<ModelState> Accelerator::PrepareModel(std::vector<NamedTensor> parameters,
                                                      std::vector<NamedTensor> buffers,
                                                      Blocks* blocks, std::shared_ptr<void> owner) {
  const AcceleratorOptions& options = state_->options;
  if (options.activation_checkpointing && (blocks == nullptr || blocks->prefixes().empty()))
    throw Failure("activation checkpointing needs a model that is made of envkit::Blocks",
                  "give the model `envkit::Blocks& blocks()`, or leave it off", 2);
  auto model = std::make_shared<ModelState>();
  model->parameters = std::move(parameters);
  model->buffers = std::move(buffers);
  model->blocks = blocks;
  model->owner = std::move(owner);
  for (const auto& [name, tensor] : model->parameters)
    TORCH_CHECK(tensor.device() == device(), "prepare: ", name, " is not on ", device());
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : model->buffers) tensors.push_back(tensor);
  {
    const c10::AutoGradMode no_grad(false);
    if (!tensors.empty()) state_->communicator->Broadcast(tensors);
  }
  if (options.zero_stage == 0) {
    DataParallelOptions parallel;
    parallel.find_unused_parameters = options.find_unused_parameters;
    if (options.comm_hook != "no")
      parallel.compression = options.comm_hook == "bf16" ? at::kBFloat16 : at::kHalf;
    model->parallel =
        std::make_unique<DataParallel>(state_->communicator, model->parameters, parallel);
    if (options.activation_checkpointing)
      blocks->SetRunner([](std::size_t, const at::Tensor& input, const Blocks::Forward& forward) {
        return Checkpointed(input, forward);
      });
  }
  state_->models.push_back(model);
  return model;
}

PreparedOptimizer Accelerator::Prepare(Optimizer& optimizer) {
  PreparedOptimizer prepared;
  prepared.optimizer_ = &optimizer;
  prepared.state_ = state_;
  state_->optimizers.push_back(&optimizer);
  const AcceleratorOptions& options = state_->options;
  if (options.zero_stage == 0) return prepared;
  const auto has = [&](const NamedTensor& parameter) {
    for (const ParameterGroup& group : optimizer.groups())
      for (const NamedTensor& each : group.parameters)
        if (each.tensor.is_same(parameter.tensor)) return true;
    return false;
  };
  for (const auto& model : state_->models) {
    if (model->sharding || std::none_of(model->parameters.begin(), model->parameters.end(), has))
      continue;
    ShardingOptions sharding;
    sharding.stage = options.zero_stage;
    sharding.cpu_offload = options.cpu_offload;
    // Gathered narrow, layer by layer; elsewhere autocast alone decides what is narrow.
    if (options.zero_stage == 3 && model->blocks != nullptr && !model->blocks->prefixes().empty())
      sharding.compute_type = state_->NarrowType();
    model->sharding = std::make_unique<Sharding>(
        state_->communicator, model->parameters, optimizer,
        model->blocks != nullptr ? model->blocks->prefixes() : std::vector<std::string>(),
        sharding);
    model->optimizer = &optimizer;
    if (model->blocks != nullptr)
      model->blocks->SetRunner(
          [shards = model->sharding.get(), checkpointed = options.activation_checkpointing](
              std::size_t block, const at::Tensor& input, const Blocks::Forward& forward) {
            return shards->RunBlock(block, input, forward, checkpointed);
          });
    return prepared;
  }
  TORCH_CHECK(false, "prepare: with zero_stage, prepare an optimizer together with its model");
}

DataLoader& Accelerator::Prepare(DataLoader& loader) {
  loader.Shard(process_index(), num_processes(), device());
  state_->loaders.push_back(&loader);
  return loader;
}

PreparedScheduler Accelerator::Prepare(Scheduler& scheduler) {
  PreparedScheduler prepared;
  prepared.scheduler_ = &scheduler;
  prepared.state_ = state_;
  state_->schedulers.push_back(&scheduler);
  return prepared;
}

std::unique_ptr<Autocast> Accelerator::BeforeForward(ModelState& model) {
  const bool training = c10::GradMode::is_enabled();
  if (model.sharding) {
    model.sharding->BeforeForward();
  } else {
    TORCH_CHECK(model.parallel, "prepare: with zero_stage, prepare an optimizer with this model");
    if (training && state_->sync) model.parallel->BeforeForward();
  }
  // Where a model is not trained, what it has counted meanwhile must be the same everywhere.
  if (!training && !model.buffers.empty() && num_processes() > 1) {
    std::vector<at::Tensor> tensors;
    for (const auto& [name, tensor] : model.buffers) tensors.push_back(tensor);
    state_->communicator->Broadcast(tensors);
  }
  model.ran = model.ran || training;
  return autocast();
}

std::unique_ptr<Autocast> Accelerator::autocast() const {
  const auto type = state_->NarrowType();
  return type ? std::make_unique<Autocast>(device().type(), *type) : nullptr;
}

Accelerator::Accumulation::Accumulation(AcceleratorState* state, bool sync)
    : state_(state), before_(state->sync) {
  state->sync = sync;
}
Accelerator::Accumulation::~Accumulation() { state_->sync = before_; }

Accelerator::Accumulation Accelerator::accumulate() {
  const bool ends = std::any_of(state_->loaders.begin(), state_->loaders.end(),
                                [](const DataLoader* loader) { return loader->at_end(); });
  const bool sync =
      ++state_->micro_steps % state_->options.gradient_accumulation_steps == 0 || ends;
  if (sync) state_->micro_steps = 0;
  return Accumulation(state_.get(), sync);
}

Accelerator::Accumulation Accelerator::no_sync() { return Accumulation(state_.get(), false); }
bool Accelerator::sync_gradients() const { return state_->sync; }

void Accelerator::backward(const at::Tensor& loss) {
  TORCH_CHECK(loss.numel() == 1, "backward: the loss has ", loss.numel(), " values");
  AcceleratorState& state = *state_;
  if (state.options.check_finite && loss.is_cpu() && !std::isfinite(loss.item<double>()))
    state.NotFinite("the loss", loss.item<double>());
  double factor = 1.0 / state.options.gradient_accumulation_steps;
  if (state.Scaled()) factor *= state.scaler.scale();
  if (state.joined != nullptr && state.sync) {
    double active = 1;
    state.communicator->AllReduceSum({&active, 1});
    factor *= num_processes() / active;  // DDP divides by all ranks
    ++state.joined_steps;
  }
  for (const auto& model : state.models) {
    if (!model->ran) continue;
    if (model->sharding)
      model->sharding->BeforeBackward();
    else if (state.sync)
      model->parallel->BeforeBackward();
  }
  (factor == 1 ? loss : loss * factor).backward();
  for (const auto& model : state.models) {
    if (model->ran && model->sharding) model->sharding->AfterBackward(state.sync);
    model->ran = false;
  }
  if (state.sync) state.unscaled = false;
}

void Accelerator::Join(ModelState& model, const std::function<void()>& body) {
  AcceleratorState& state = *state_;
  TORCH_CHECK(
      model.parallel && state.options.gradient_accumulation_steps == 1 && !state.Scaled(),
      "join_uneven_inputs: neither with zero_stage nor gradient_accumulation_steps nor fp16");
  TORCH_CHECK(state.joined == nullptr, "join_uneven_inputs: within itself");
  if (num_processes() == 1) return body();
  Communicator& ranks = *state.communicator;
  const std::unique_ptr<ModelState*, void (*)(ModelState**)> scope(
      &state.joined, [](ModelState** joined) { *joined = nullptr; });
  state.joined = &model;
  state.joined_steps = 0;
  body();
  while (true) {
    model.parallel->BeforeForward();
    double active = 0;
    ranks.AllReduceSum({&active, 1});
    if (active == 0) break;
    model.parallel->BeforeBackward();
    // Zeros for every parameter: what the others' mean needs of this rank.
    at::Tensor zero;
    for (const auto& [name, tensor] : model.parameters) {
      const at::Tensor nothing = tensor.sum() * 0;
      zero = zero.defined() ? zero + nothing : nothing;
    }
    zero.backward();
    const c10::AutoGradMode no_grad(false);
    for (const auto& [name, tensor] : model.parameters)
      if (tensor.grad().defined()) tensor.grad().zero_();
  }
  // Who was through last has taken every step.
  std::vector<double> steps(static_cast<std::size_t>(num_processes()));
  steps[static_cast<std::size_t>(process_index())] = static_cast<double>(state.joined_steps);
  ranks.AllReduceSum(steps);
  const auto last = std::max_element(steps.begin(), steps.end());
  const int root = static_cast<int>(last - steps.begin());
  if (*std::min_element(steps.begin(), steps.end()) == *last) return;
  const c10::AutoGradMode no_grad(false);
  std::vector<at::Tensor> tensors;
  const auto add = [&](const std::vector<NamedTensor>& list) {
    for (const auto& [name, tensor] : list) tensors.push_back(tensor.detach());
  };
  add(model.parameters);
  add(model.buffers);
  for (const Optimizer* optimizer : state.optimizers) add(optimizer->State());
  ranks.Broadcast(tensors, root);
  for (Scheduler* scheduler : state.schedulers) {
    double position = process_index() == root ? static_cast<double>(scheduler->steps()) : 0;
    ranks.AllReduceSum({&position, 1});
    scheduler->SetSteps(std::llround(position));
  }
}

Sharding* Accelerator::ShardingOf(ModelState& model) const { return model.sharding.get(); }
GradScaler& Accelerator::scaler() { return state_->scaler; }

double Accelerator::ClipNorm(ModelState& model, double most) {
  if (!state_->sync) return 0;
  state_->Unscale();
  const double norm =
      model.sharding ? model.sharding->GradientNorm() : GradientNorm(model.WithGradients());
  if (!std::isfinite(norm)) {
    // With fp16 the step will be skipped.
    if (state_->Scaled() || !state_->options.check_finite) return norm;
    state_->NotFinite("the norm of the gradients", norm);
  }
  if (norm > most) {
    const double factor = most / (norm + 1e-6);
    if (model.sharding)
      model.sharding->ScaleGradients(factor);
    else
      ScaleGradients(model.WithGradients(), factor);
  }
  return norm;
}

void Accelerator::ClipValue(ModelState& model, double most) {
  if (!state_->sync) return;
  state_->Unscale();
  const c10::AutoGradMode no_grad(false);
  if (model.sharding) return model.sharding->ClampGradients(most);
  for (const at::Tensor& tensor : model.WithGradients())
    if (tensor.grad().defined()) tensor.grad().clamp_(-most, most);
}

bool Accelerator::optimizer_step_was_skipped() const { return state_->skipped; }

void PreparedOptimizer::step() {
  AcceleratorState& state = *state_;
  if (!state.sync) return;
  state.skipped = false;
  if (state.Scaled()) {
    state.Unscale();
    state.skipped = !state.finite;
    state.scaler.Update(state.finite);
    if (state.skipped) {
      if (state.communicator->is_main())
        std::fprintf(stderr, "step %lld skipped: fp16 gradients overflowed; loss scale now %g\n",
                     static_cast<long long>(state.NextStep()), state.scaler.scale());
      return;
    }
  }
  optimizer_->Step();
  for (const auto& model : state.models)
    if (model->sharding && model->optimizer == optimizer_) model->sharding->AfterStep();
}

void PreparedOptimizer::zero_grad() {
  if (!state_->sync) return;
  bool sharded = false;
  for (const auto& model : state_->models) {
    if (!model->sharding || model->optimizer != optimizer_) continue;
    sharded = true;
    model->sharding->ZeroGrad();  // shards keep the gradients that they were given
  }
  if (!sharded) optimizer_->ZeroGrad();
}

bool PreparedOptimizer::step_was_skipped() const { return state_->skipped; }

void PreparedScheduler::step() {
  if (state_->sync && !state_->skipped) scheduler_->Step();
}

at::Tensor Accelerator::gather(const at::Tensor& tensor) {
  const at::Tensor own = (tensor.dim() == 0 ? tensor.view({1}) : tensor).detach().contiguous();
  std::vector<std::int64_t> shape = own.sizes().vec();
  shape[0] *= num_processes();
  const at::Tensor all = at::empty(shape, own.options());
  state_->communicator->AllGather(own, all);
  return all;
}

at::Tensor Accelerator::gather_for_metrics(const at::Tensor& tensor) {
  const at::Tensor all = gather(tensor);
  const auto ending = std::find_if(state_->loaders.begin(), state_->loaders.end(),
                                   [](const DataLoader* loader) { return loader->at_end(); });
  if (ending == state_->loaders.end()) return all;
  return all.narrow(0, 0, std::min(all.size(0), (*ending)->real_samples()));
}

at::Tensor Accelerator::reduce(const at::Tensor& tensor, const std::string& reduction) {
  TORCH_CHECK(reduction == "sum" || reduction == "mean", "reduce: ", reduction);
  const c10::AutoGradMode no_grad(false);
  const at::Tensor sum = tensor.detach().clone(at::MemoryFormat::Contiguous);
  state_->communicator->AllReduceSum(sum);
  if (reduction == "mean") sum.div_(num_processes());
  return sum;
}

at::Tensor Accelerator::pad_across_processes(const at::Tensor& tensor, std::int64_t dim,
                                             double value, bool first) {
  TORCH_CHECK(dim >= 0 && dim < tensor.dim(), "pad_across_processes: dimension ", dim);
  std::vector<double> extents(static_cast<std::size_t>(num_processes()));
  extents[static_cast<std::size_t>(process_index())] = static_cast<double>(tensor.size(dim));
  state_->communicator->AllReduceSum(extents);
  std::vector<std::int64_t> shape = tensor.sizes().vec();
  const std::int64_t extent = tensor.size(dim);
  const auto most = static_cast<std::int64_t>(*std::max_element(extents.begin(), extents.end()));
  shape[static_cast<std::size_t>(dim)] = most;
  const at::Tensor padded = at::full(shape, value, tensor.options());
  padded.narrow(dim, first ? most - extent : 0, extent).copy_(tensor);
  return padded;
}

at::Tensor Accelerator::broadcast(const at::Tensor& tensor) {
  const c10::AutoGradMode no_grad(false);
  const at::Tensor result = tensor.detach().clone(at::MemoryFormat::Contiguous);
  state_->communicator->Broadcast({result});
  return result;
}

std::string Accelerator::broadcast(const std::string& text) {
  return state_->communicator->Broadcast(text);
}

void Accelerator::wait_for_everyone() { state_->communicator->Barrier(); }
void Accelerator::set_trigger() { state_->trigger = true; }

bool Accelerator::check_trigger() {
  double any = state_->trigger ? 1 : 0;
  state_->communicator->AllReduceSum({&any, 1});
  state_->trigger = false;
  return any > 0;
}

void Accelerator::main_process_first(const std::function<void()>& call) {
  if (is_main_process()) call();
  wait_for_everyone();
  if (!is_main_process()) call();
}

void Accelerator::print(const std::string& text) const {
  if (!is_main_process()) return;
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

void Accelerator::save(const std::vector<NamedTensor>& tensors, const fs::path& file) const {
  if (is_main_process()) WriteSafetensors(file, tensors, {{"format", "pt"}});
}

void Accelerator::SaveModel(ModelState& model, const fs::path& folder) {
  std::vector<NamedTensor> tensors = model.sharding ? model.sharding->Whole() : model.parameters;
  tensors.insert(tensors.end(), model.buffers.begin(), model.buffers.end());
  if (is_main_process()) {
    const fs::path hidden = BeginFolder(folder);
    WriteSafetensors(hidden / "model.safetensors", tensors, {{"format", "pt"}});
    CommitFolder(hidden, folder);
  }
  wait_for_everyone();
}

void AcceleratorState::SaveInto(const fs::path& folder) const {
  const RankInfo& ranks = communicator->ranks();
  const auto file = [&](const std::string& stem) {
    return folder / (ShardName(stem, ranks.rank, ranks.world_size) + ".safetensors");
  };
  const auto share = [&](const std::vector<NamedTensor>& tensors) {
    return ShareOf(tensors, ranks.rank, ranks.world_size);
  };
  for (std::size_t i = 0; i < models.size(); ++i) {
    const ModelState& model = *models[i];
    std::vector<Slice> slices =
        model.sharding ? model.sharding->Parameters() : share(model.parameters);
    const std::vector<Slice> buffers = share(model.buffers);
    slices.insert(slices.end(), buffers.begin(), buffers.end());
    WriteSlices(file(Numbered("model", i)), slices, {{"format", "pt"}});
  }
  for (std::size_t i = 0; i < optimizers.size(); ++i) {
    const auto sharded = std::find_if(models.begin(), models.end(), [&](const auto& model) {
      return model->sharding && model->optimizer == optimizers[i];
    });
    WriteSlices(file(Numbered("optimizer", i)),
                sharded != models.end() ? (*sharded)->sharding->OptimizerState(*optimizers[i])
                                        : share(optimizers[i]->State()));
  }
  WriteSlices(file("random"), WholeSlices({{"random_state." + std::to_string(ranks.rank),
                                            at::detail::getDefaultCPUGenerator().get_state()}}));
}

void Accelerator::save_state(const fs::path& folder) {
  AcceleratorState& state = *state_;
  std::string hidden;
  if (is_main_process()) hidden = BeginFolder(folder).string();
  hidden = broadcast(hidden);
  state.SaveInto(hidden);
  wait_for_everyone();
  if (is_main_process()) {
    Json json = {{"schema", 1},
                 {"world_size", num_processes()},
                 {"loaders", Json::array()},
                 {"schedulers", Json::array()},
                 {"custom", Json::object()}};
    for (const DataLoader* loader : state.loaders)
      json["loaders"].push_back(
          {{"epoch", loader->position().epoch}, {"batch", loader->position().batch}});
    for (const Scheduler* scheduler : state.schedulers)
      json["schedulers"].push_back(scheduler->steps());
    const GradScaler::State scaler = state.scaler.state();
    json["scaler"] = {{"scale", scaler.scale}, {"steps", scaler.steps_without_overflow}};
    for (const Custom& each : state.custom) json["custom"][each.name] = each.save();
    WriteText(fs::path(hidden) / "state.json", json.dump(2) + "\n");
    CommitFolder(hidden, folder);
  }
  wait_for_everyone();
}

void Accelerator::load_state(const fs::path& folder) {
  AcceleratorState& state = *state_;
  // Rank 0 reads all of it once; what it finds is everybody's failure.
  std::string problem;
  if (is_main_process()) {
    try {
      CheckFolder(folder);
    } catch (const Failure& failure) {
      problem = failure.what();
    }
  }
  problem = broadcast(problem);
  if (!problem.empty()) throw Failure(problem, "load an older state");
  const Json json =
      Json::parse(ReadTextFile(folder / "state.json"), nullptr, /*allow_exceptions=*/false);
  const auto misfit = [&](const std::string& what) {
    throw Failure((folder / "state.json").string() + ": " + what,
                  "prepare the same things, in the same order, as when it was saved", 2);
  };
  try {
    if (json.at("loaders").size() != state.loaders.size() ||
        json.at("schedulers").size() != state.schedulers.size())
      misfit("has " + std::to_string(json.at("loaders").size()) + " loaders and " +
             std::to_string(json.at("schedulers").size()) + " schedulers");
    for (std::size_t i = 0; i < state.loaders.size(); ++i)
      state.loaders[i]->Seek({json["loaders"][i].at("epoch").get<std::int64_t>(),
                              json["loaders"][i].at("batch").get<std::int64_t>()});
    for (std::size_t i = 0; i < state.schedulers.size(); ++i)
      state.schedulers[i]->SetSteps(json["schedulers"][i].get<std::int64_t>());
    state.scaler.SetState({json.at("scaler").at("scale").get<double>(),
                           json.at("scaler").at("steps").get<std::int64_t>()});
    for (const Custom& each : state.custom) {
      if (!json.at("custom").contains(each.name)) misfit("has nothing called " + each.name);
      each.load(json["custom"][each.name].get<std::string>());
    }
    if (process_index() < json.at("world_size").get<int>()) {
      const at::Tensor random = at::detail::getDefaultCPUGenerator().get_state();
      ReadSlices(folder, "random",
                 WholeSlices({{"random_state." + std::to_string(process_index()), random}}));
      at::Generator(at::detail::getDefaultCPUGenerator()).set_state(random);
    }
  } catch (const Json::exception& error) {
    misfit(error.what());
  }
  for (std::size_t i = 0; i < state.models.size(); ++i) {
    ModelState& model = *state.models[i];
    std::vector<Slice> targets =
        model.sharding ? model.sharding->Parameters() : WholeSlices(model.parameters);
    const std::vector<Slice> buffers = WholeSlices(model.buffers);
    targets.insert(targets.end(), buffers.begin(), buffers.end());
    ReadSlices(folder, Numbered("model", i), targets);
    if (model.sharding) model.sharding->Refresh();
  }
  for (std::size_t i = 0; i < state.optimizers.size(); ++i) {
    std::vector<Slice> targets = WholeSlices(state.optimizers[i]->State());
    for (const auto& model : state.models)
      if (model->sharding && model->optimizer == state.optimizers[i]) {
        targets = model->sharding->OptimizerState(*state.optimizers[i]);
        // The count of steps is rank 0's to save, and everybody's to load.
        if (!is_main_process())
          targets.push_back(WholeSlices({state.optimizers[i]->State()[0]})[0]);
      }
    ReadSlices(folder, Numbered("optimizer", i), targets);
  }
  state.micro_steps = 0;
  wait_for_everyone();
}

void Accelerator::register_for_checkpointing(const std::string& name,
                                             std::function<std::string()> save,
                                             std::function<void(const std::string&)> load) {
  state_->custom.push_back({name, std::move(save), std::move(load)});
}

DataLoader& Accelerator::skip_first_batches(DataLoader& loader, std::int64_t count) {
  loader.Seek({loader.position().epoch, loader.position().batch + count});
  return loader;
}

void Accelerator::init_trackers(const std::string& project,
                                const std::map<std::string, std::string>& config) {
  if (!is_main_process()) return;
  state_->metrics.emplace(state_->options.project_dir / "metrics.jsonl");
  state_->events.emplace(state_->options.project_dir / "events");
  Json line = {{"project", project}};
  if (!config.empty()) line["config"] = config;
  state_->metrics->Append(line.dump());
}

void Accelerator::log(const Scalars& values, std::int64_t step) {
  if (!state_->metrics) return;
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  Json line = {{"time", now}, {"step", step}};
  for (const auto& [name, value] : values) line[name] = value;
  state_->metrics->Append(line.dump());
  state_->events->Add(now, step, values);
}

void Accelerator::end_training() {
  wait_for_everyone();
  state_->metrics.reset();
  state_->events.reset();
}

void Accelerator::free_memory() {
  for (const auto& model : state_->models)
    if (model->blocks != nullptr) model->blocks->SetRunner({});
  state_->models.clear();
  state_->optimizers.clear();
  state_->loaders.clear();
  state_->schedulers.clear();
  state_->custom.clear();
  state_->micro_steps = 0;
}

}  // namespace envkit

// Accelerate for C++: the same training loop on one CPU, many CPU ranks, one GPU and many.
//
//   envkit::Accelerator accelerator({.gradient_accumulation_steps = 4});
//   auto net = std::make_shared<Net>();
//   envkit::AdamW adamw(envkit::ParametersOf(*net));
//   envkit::DataLoader data(dataset, {.batch_size = 32, .shuffle = true});
//   envkit::Scheduler cosine(adamw, {.peak_rate = 1e-3, .warmup_steps = 10, .total_steps = 500});
//   auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, adamw, data, cosine);
//   for (const envkit::Batch& batch : loader) {
//     const auto scope = accelerator.accumulate();
//     accelerator.backward(at::cross_entropy_loss(model(batch[0]), batch[1]));
//     accelerator.clip_grad_norm_(model, 1.0);
//     optimizer.step();
//     scheduler.step();
//     optimizer.zero_grad();
//   }
//   accelerator.save_model(model, "out");
//
// Names are those of Hugging Face's Accelerate. Unlike there: the scheduler counts optimizer steps
// whatever the number of ranks; saved states are whole or absent; a value that is not finite stops
// training with the name of the first tensor that has one.
//
// "Collective" calls must be made by every rank, in the same order. Nothing here is thread-safe.
// What is wrong outside the program throws Failure, wrong use of this library c10::Error.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "envkit/data_loader.h"
#include "envkit/distributed.h"
#include "envkit/module.h"
#include "envkit/optim.h"
#include "envkit/precision.h"
#include "envkit/tracking.h"

namespace envkit {

struct AcceleratorOptions {
  std::string device = "auto";         // see SelectDevice
  std::string mixed_precision = "no";  // "no", "bf16" or "fp16"
  int gradient_accumulation_steps = 1;
  int zero_stage = 0;  // 0: DDP; 1, 2, 3: see Sharding
  bool cpu_offload = false;
  bool activation_checkpointing = false;  // of the model's Blocks
  bool find_unused_parameters = false;    // by DDP
  std::string comm_hook = "no";           // DDP: "bf16" or "fp16" halve what goes through a network
  bool tf32 = true;                       // of GPUs
  bool check_finite = true;               // each loss on a CPU, each norm
  std::filesystem::path project_dir = {};  // of trackers
  CommunicatorOptions communicator = {};
  std::shared_ptr<Communicator> connected =
      nullptr;  // to use instead of connecting, where there is one
};

// Moves an optimizer's learning rate along a schedule.
class Scheduler {
 public:
  Scheduler(Optimizer& optimizer, const Schedule& schedule);
  void Step();  // after the optimizer's
  double rate() const { return optimizer_->learning_rate; }
  std::int64_t steps() const { return steps_; }
  void SetSteps(std::int64_t steps);

 private:
  Optimizer* optimizer_;
  Schedule schedule_;
  std::int64_t steps_ = 0;
};

class Accelerator;
class Sharding;
struct AcceleratorState;
struct ModelState;

// What a model becomes: calling it is its forward, with what its ranks need before and its autocast
// around. Collective where gradients are on, or parameters sharded.
template <class Model>
class PreparedModel {
 public:
  template <class... Arguments>
  auto operator()(Arguments&&... arguments) {
    const auto scope = BeforeForward();
    if constexpr (requires { model_->forward(std::forward<Arguments>(arguments)...); })
      return model_->forward(std::forward<Arguments>(arguments)...);
    else
      return model_->Forward(std::forward<Arguments>(arguments)...);
  }
  // The same around any other use of the model: run([&](Model& model) { return model.Loss(…); }).
  template <class Use>
  auto run(const Use& use) {
    const auto scope = BeforeForward();
    return use(*model_);
  }
  Model* operator->() const { return model_.get(); }
  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  friend class Accelerator;
  std::unique_ptr<Autocast> BeforeForward();
  std::shared_ptr<Model> model_;
  std::shared_ptr<ModelState> state_;
  Accelerator* accelerator_ = nullptr;
};

class PreparedOptimizer {
 public:
  // Both do nothing while gradients are accumulated. Collective where parameters are sharded.
  void step();
  void zero_grad();
  bool step_was_skipped() const;  // the last one, since fp16 gradients overflowed
  Optimizer& optimizer() const { return *optimizer_; }

 private:
  friend class Accelerator;
  Optimizer* optimizer_ = nullptr;
  std::shared_ptr<AcceleratorState> state_;
};

class PreparedScheduler {
 public:
  void step();  // does nothing while gradients are accumulated, or where the step was skipped
  double rate() const { return scheduler_->rate(); }

 private:
  friend class Accelerator;
  Scheduler* scheduler_ = nullptr;
  std::shared_ptr<AcceleratorState> state_;
};

class Accelerator {
 public:
  // Collective: finds the other ranks by torchrun's variables.
  explicit Accelerator(const AcceleratorOptions& options = {});
  ~Accelerator();
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;

  // Who and where. Local.
  at::Device device() const;
  int process_index() const;
  int local_process_index() const;
  int num_processes() const;
  bool is_main_process() const;
  bool is_local_main_process() const;
  bool is_last_process() const;
  Communicator& communicator() const;

  // Collective. Any number of models, then their optimizers, data loaders and schedulers, as one
  // call or several. Models move to no other device: make them on device(). Of optimizers, loaders
  // and schedulers only references are kept; models are shared.
  template <class... Things>
  auto prepare(Things&&... things) {
    return std::tuple<decltype(Prepare(things))...>{Prepare(things)...};
  }

  // While the result lives, a micro-step. Every gradient_accumulation_steps-th, and the last of an
  // epoch of any prepared loader, sums gradients over ranks and lets the optimizer step. Local.
  class Accumulation {
   public:
    ~Accumulation();
    Accumulation(const Accumulation&) = delete;
    Accumulation& operator=(const Accumulation&) = delete;

   private:
    friend class Accelerator;
    explicit Accumulation(AcceleratorState* state, bool sync);
    AcceleratorState* state_;
    bool before_;
  };
  Accumulation accumulate();
  Accumulation
  no_sync();  // while it lives, backward sums nothing (ZeRO 2 and 3: shards all the same)
  bool sync_gradients() const;
  // Collective. BODY trains MODEL on this rank's own batches, of which ranks may have different
  // numbers: whose are used up goes along in the others' backward passes, without a share in the
  // mean, until the last rank is through. Afterwards all have that rank's parameters, states of
  // optimizers, and positions of schedulers. Within BODY no other call is collective; backward is
  // for MODEL alone. Neither with zero_stage nor gradient_accumulation_steps nor fp16.
  template <class Model>
  void join_uneven_inputs(const PreparedModel<Model>& model, const std::function<void()>& body) {
    Join(*model.state_, body);
  }
  // Collective. LOSS: a scalar, the mean over this rank's samples. Divides it by
  // gradient_accumulation_steps. Throws Failure when it is not finite (CPU; on a GPU
  // clip_grad_norm_ finds it).
  void backward(const at::Tensor& loss);
  // Collective. Both do nothing while gradients are accumulated. Returns the norm before.
  template <class Model>
  double clip_grad_norm_(const PreparedModel<Model>& model, double most) {
    return ClipNorm(*model.state_, most);
  }
  template <class Model>
  void clip_grad_value_(const PreparedModel<Model>& model, double most) {
    ClipValue(*model.state_, most);
  }
  bool optimizer_step_was_skipped() const;
  std::unique_ptr<Autocast> autocast()
      const;  // while it lives; does nothing without mixed precision

  // Between ranks. Collective. Tensors on device(), of equal shape and type on every rank.
  at::Tensor gather(const at::Tensor& tensor);  // [n, …] → [num_processes * n, …], by rank
  // Without the repetitions that filled up the last batch of the loader used last.
  at::Tensor gather_for_metrics(const at::Tensor& tensor);
  at::Tensor reduce(const at::Tensor& tensor, const std::string& reduction = "sum");  // or "mean"
  // Dimension DIM may differ between ranks; afterwards it is the largest, filled with VALUE.
  at::Tensor pad_across_processes(const at::Tensor& tensor, std::int64_t dim = 0, double value = 0,
                                  bool first = false);
  at::Tensor broadcast(const at::Tensor& tensor);  // rank 0's
  std::string broadcast(const std::string& text);
  void wait_for_everyone();
  void set_trigger();    // local
  bool check_trigger();  // collective: whether any rank has set it; resets it
  // This rank's contiguous part; the first ranks get one more where it does not divide. Local.
  template <class T>
  std::vector<T> split_between_processes(const std::vector<T>& items) const {
    const std::size_t ranks = static_cast<std::size_t>(num_processes()),
                      rank = static_cast<std::size_t>(process_index()), each = items.size() / ranks,
                      more = items.size() % ranks, begin = rank * each + std::min(rank, more);
    return std::vector<T>(
        items.begin() + static_cast<std::ptrdiff_t>(begin),
        items.begin() + static_cast<std::ptrdiff_t>(begin + each + (rank < more ? 1 : 0)));
  }
  // Collective. Rank 0 calls it, then the others: for what rank 0 downloads and all read.
  void main_process_first(const std::function<void()>& call);
  void print(const std::string& text) const;  // a line, by rank 0. Local.

  // Files.
  // Local: rank 0 writes it, safetensors.
  void save(const std::vector<NamedTensor>& tensors, const std::filesystem::path& file) const;
  // Collective: FOLDER/model.safetensors, put together from all ranks, replaced atomically.
  template <class Model>
  void save_model(const PreparedModel<Model>& model, const std::filesystem::path& folder) {
    SaveModel(*model.state_, folder);
  }
  // Collective. All that was prepared or registered: parameters, optimizers, positions of loaders,
  // schedulers, the scaler, random states. FOLDER, on a file system that every rank sees, appears
  // whole or not at all. Each rank writes its part.
  void save_state(const std::filesystem::path& folder);
  // Collective. Any number of ranks and any zero_stage can load; the sample after the last one
  // comes next where the global batch is the same. Throws Failure when something does not fit.
  void load_state(const std::filesystem::path& folder);
  // Text of the user's own, saved by rank 0 under NAME and loaded on every rank. Local.
  void register_for_checkpointing(const std::string& name, std::function<std::string()> save,
                                  std::function<void(const std::string&)> load);
  // The next epoch of LOADER begins after COUNT batches. Local.
  DataLoader& skip_first_batches(DataLoader& loader, std::int64_t count);

  // Rank 0 writes project_dir/metrics.jsonl and project_dir/events. Local.
  void init_trackers(const std::string& project,
                     const std::map<std::string, std::string>& config = {});
  void log(const Scalars& values, std::int64_t step);
  void end_training();

  template <class Model>
  std::shared_ptr<Model> unwrap_model(const PreparedModel<Model>& model) const {
    return model.model();
  }
  // The model's, where zero_stage is not 0; else null.
  template <class Model>
  Sharding* sharding(const PreparedModel<Model>& model) const {
    return ShardingOf(*model.state_);
  }
  GradScaler& scaler();
  void free_memory();  // forgets all that was prepared, which must not be used any more

 private:
  template <class Model>
  friend class PreparedModel;

  template <class Model>
  PreparedModel<Model> Prepare(std::shared_ptr<Model>& model) {
    PreparedModel<Model> prepared;
    Blocks* blocks = nullptr;
    if constexpr (requires { model->blocks(); }) blocks = &model->blocks();
    prepared.model_ = model;
    prepared.accelerator_ = this;
    prepared.state_ = PrepareModel(ParametersOf(*model), BuffersOf(*model), blocks, model);
    return prepared;
  }
  PreparedOptimizer Prepare(Optimizer& optimizer);
  DataLoader& Prepare(DataLoader& loader);
  PreparedScheduler Prepare(Scheduler& scheduler);

  std::shared_ptr<ModelState> PrepareModel(std::vector<NamedTensor> parameters,
                                           std::vector<NamedTensor> buffers, Blocks* blocks,
                                           std::shared_ptr<void> owner);
  std::unique_ptr<Autocast> BeforeForward(ModelState& model);
  Sharding* ShardingOf(ModelState& model) const;
  void Join(ModelState& model, const std::function<void()>& body);
  double ClipNorm(ModelState& model, double most);
  void ClipValue(ModelState& model, double most);
  void SaveModel(ModelState& model, const std::filesystem::path& folder);

  std::shared_ptr<AcceleratorState> state_;
};

template <class Model>
std::unique_ptr<Autocast> PreparedModel<Model>::BeforeForward() {
  return accelerator_->BeforeForward(*state_);
}

}  // namespace envkit

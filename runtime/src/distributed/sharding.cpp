#include "envkit/sharding.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

namespace envkit {
namespace {

constexpr std::int64_t kAlignment = 16;  // elements: shards start on cache lines

struct Part {
  NamedTensor parameter;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0, count = 0;  // in the flat group
  std::size_t optimizer_group = 0;
};

// A piece of this rank's shard that one group of the optimizer steps.
struct Segment {
  NamedTensor values;  // named "<group>.<number>"
  std::size_t optimizer_group = 0;
  std::int64_t offset = 0;  // in the flat group
};

struct Group {
  std::vector<Part> parts;
  std::vector<Segment> segments;
  std::int64_t shard_size = 0;
  // FULL's memory comes and goes in stage 3, below views that autograd keeps. WRITABLE is the same
  // memory with a version counter of its own, so that filling it anew does not look to autograd
  // like a change of what it saved.
  at::Tensor full, writable;
  at::Tensor shard, shard_gradient;  // [shard_size]
  bool whole = false;                // FULL has the shards' present values
  bool has_memory = true;
  Communicator::Pending gathering;
  bool is_gathering = false;
  std::size_t accumulated = 0;  // parameters whose gradient is complete, in this backward
};

// Called by autograd once a parameter's gradient is complete.
class AccumulatedHook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit AccumulatedHook(std::function<void()> call) : call_(std::move(call)) {}
  void operator()(const at::Tensor& /*parameter*/) override { call_(); }

 private:
  std::function<void()> call_;
};

void FreeMemory(const at::Tensor& tensor) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(at::DataPtr(nullptr, tensor.device()));
  storage->set_nbytes(std::size_t{0});
}

void NewMemory(const at::Tensor& tensor) {
  c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
  const auto bytes = static_cast<std::size_t>(tensor.numel()) * tensor.element_size();
  storage->set_data_ptr_noswap(storage->allocator()->allocate(bytes));
  storage->set_nbytes(bytes);
}

}  // namespace

struct Sharding::State {
  std::shared_ptr<Communicator> communicator;
  ShardingOptions options;
  std::vector<std::unique_ptr<Group>> groups;  // blocks in their order, then the rest
  std::vector<NamedTensor> shards;
  std::size_t blocks = 0;
  bool reducing = false;  // hooks sum a group as soon as it is complete

  Group& rest() { return *groups.back(); }
  void Make(Group& group, std::vector<Part> parts, std::size_t optimizer_groups,
            const std::string& name);
  void StartGather(Group& group);
  void Gather(Group& group);
  void Free(Group& group);
  void Prefetch(std::size_t block);
  void Accumulated(Group& group);
  void Reduce(Group& group);
};

void Sharding::State::Make(Group& group, std::vector<Part> parts, std::size_t optimizer_groups,
                           const std::string& name) {
  const RankInfo& ranks = communicator->ranks();
  // What one group of the optimizer steps lies together.
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
    return a.optimizer_group < b.optimizer_group;
  });
  std::int64_t count = 0;
  for (Part& part : parts) {
    part.offset = count;
    count += part.count;
  }
  const std::int64_t unit = ranks.world_size * kAlignment;
  const std::int64_t padded = std::max(unit, (count + unit - 1) / unit * unit);
  group.shard_size = padded / ranks.world_size;
  const at::Tensor& first = parts.empty() ? shards.at(0).tensor : parts[0].parameter.tensor;
  const auto own = first.options().requires_grad(false);
  const at::Tensor values = at::zeros({padded}, own);
  for (const Part& part : parts) {
    TORCH_CHECK(part.parameter.tensor.scalar_type() == first.scalar_type(),
                "Sharding: ", part.parameter.name, " is of another type than ",
                parts[0].parameter.name);
    values.narrow(0, part.offset, part.count).view(part.shape).copy_(part.parameter.tensor);
  }
  communicator->Broadcast({values});
  const std::int64_t begin = group.shard_size * ranks.rank;
  const at::ScalarType type = options.compute_type.value_or(first.scalar_type());
  group.full = type == first.scalar_type() ? values : values.to(type);
  group.writable =
      at::empty({0}, group.full.options()).set_(group.full.storage(), 0, {padded}, {1});
  group.whole = true;
  const auto kept = options.cpu_offload ? own.device(at::kCPU) : own;
  group.shard = values.narrow(0, begin, group.shard_size).to(kept).clone();
  group.shard_gradient = at::zeros({group.shard_size}, kept);
  for (const Part& part : parts)
    part.parameter.tensor.set_data(group.full.narrow(0, part.offset, part.count).view(part.shape));
  for (std::size_t g = 0; g < optimizer_groups; ++g) {
    std::int64_t from = padded, to = 0;
    for (const Part& part : parts) {
      if (part.optimizer_group != g) continue;
      from = std::min(from, part.offset);
      to = std::max(to, part.offset + part.count);
    }
    from = std::max(from, begin);
    to = std::min(to, begin + group.shard_size);
    if (from >= to) continue;
    Segment segment;
    segment.optimizer_group = g;
    segment.offset = from;
    segment.values = {name + "." + std::to_string(g),
                      group.shard.narrow(0, from - begin, to - from)};
    segment.values.tensor.mutable_grad() = group.shard_gradient.narrow(0, from - begin, to - from);
    shards.push_back(segment.values);
    group.segments.push_back(std::move(segment));
  }
  group.parts = std::move(parts);
  for (const Part& part : group.parts) {
    if (!part.parameter.tensor.requires_grad()) continue;
    torch::autograd::impl::set_post_acc_grad_hooks(
        part.parameter.tensor,
        std::make_unique<AccumulatedHook>([this, &group] { Accumulated(group); }));
  }
}

void Sharding::State::StartGather(Group& group) {
  if (group.whole || group.is_gathering) return;
  const c10::AutoGradMode no_grad(false);
  if (!group.has_memory) NewMemory(group.full);
  group.has_memory = true;
  group.gathering =
      communicator->StartAllGather(group.shard.to(group.full.options()), group.writable);
  group.is_gathering = true;
}

void Sharding::State::Gather(Group& group) {
  StartGather(group);
  if (group.is_gathering) group.gathering.Wait();
  group.is_gathering = false;
  group.whole = true;
}

void Sharding::State::Free(Group& group) {
  if (options.stage < 3 || !group.has_memory) return;
  if (group.is_gathering) group.gathering.Wait();
  group.is_gathering = group.whole = group.has_memory = false;
  FreeMemory(group.full);
}

void Sharding::State::Prefetch(std::size_t block) {
  if (options.stage == 3 && options.prefetch && block < blocks) StartGather(*groups[block]);
}

void Sharding::State::Accumulated(Group& group) {
  if (!reducing || &group == &rest() || ++group.accumulated < group.parts.size()) return;
  Reduce(group);
  Free(group);
}

void Sharding::State::Reduce(Group& group) {
  const c10::AutoGradMode no_grad(false);
  group.accumulated = 0;
  const bool any = std::any_of(group.parts.begin(), group.parts.end(), [](const Part& part) {
    return part.parameter.tensor.grad().defined();
  });
  if (!any) return;
  const auto type = group.full.options().dtype(group.shard.scalar_type());
  const at::Tensor flat = at::zeros({group.full.numel()}, type);
  for (const Part& part : group.parts) {
    at::Tensor& gradient = part.parameter.tensor.mutable_grad();
    if (!gradient.defined()) continue;
    flat.narrow(0, part.offset, part.count).view(part.shape).copy_(gradient);
    gradient = at::Tensor();
  }
  const at::Tensor sum = at::empty({group.shard_size}, type);
  communicator->ReduceScatterSum(flat, sum);
  group.shard_gradient.add_(sum.to(group.shard_gradient.options()),
                            1.0 / communicator->ranks().world_size);
}

Sharding::Sharding(std::shared_ptr<Communicator> communicator,
                   const std::vector<NamedTensor>& parameters, Optimizer& optimizer,
                   const std::vector<std::string>& block_prefixes, const ShardingOptions& options)
    : state_(std::make_unique<State>()) {
  TORCH_CHECK(options.stage >= 1 && options.stage <= 3, "Sharding: stage ", options.stage);
  const c10::AutoGradMode no_grad(false);
  State& state = *state_;
  state.communicator = std::move(communicator);
  state.options = options;
  state.blocks = block_prefixes.size();
  std::map<const void*, std::size_t> optimizer_groups;
  for (std::size_t g = 0; g < optimizer.groups().size(); ++g)
    for (const NamedTensor& each : optimizer.groups()[g].parameters)
      optimizer_groups[each.tensor.unsafeGetTensorImpl()] = g;
  std::vector<std::vector<Part>> parts(state.blocks + 1);
  for (const NamedTensor& parameter : parameters) {
    Part part{parameter, parameter.tensor.sizes().vec(), 0, parameter.tensor.numel(), 0};
    const auto group = optimizer_groups.find(parameter.tensor.unsafeGetTensorImpl());
    // What the optimizer does not have is kept in the groups as well, and stepped by nobody.
    part.optimizer_group =
        group != optimizer_groups.end() ? group->second : optimizer.groups().size();
    const auto block =
        std::find_if(block_prefixes.begin(), block_prefixes.end(),
                     [&](const std::string& prefix) { return parameter.name.starts_with(prefix); });
    parts[static_cast<std::size_t>(block - block_prefixes.begin())].push_back(std::move(part));
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].empty() && i < state.blocks)
      TORCH_CHECK(false, "Sharding: no parameter begins with ", block_prefixes[i]);
    auto group = std::make_unique<Group>();
    state.Make(*group, std::move(parts[i]), optimizer.groups().size(), std::to_string(i));
    state.groups.push_back(std::move(group));
  }
  std::vector<std::vector<NamedTensor>> shards(optimizer.groups().size());
  for (const auto& group : state.groups)
    for (const Segment& segment : group->segments)
      shards[segment.optimizer_group].push_back(segment.values);
  optimizer.Rebind(shards);
  for (const auto& group : state.groups) state.Free(*group);
}

Sharding::~Sharding() {
  for (const auto& group : state_->groups)
    for (const Part& part : group->parts)
      if (part.parameter.tensor.requires_grad())
        torch::autograd::impl::set_post_acc_grad_hooks(part.parameter.tensor, nullptr);
}

void Sharding::BeforeForward() {
  State& state = *state_;
  state.Gather(state.rest());
  state.Prefetch(0);
}

at::Tensor Sharding::RunBlock(std::size_t block, const at::Tensor& input,
                              const Blocks::Forward& forward, bool checkpointed) {
  State& state = *state_;
  Group& group = *state.groups.at(block);
  state.Gather(group);
  state.Prefetch(block + 1);
  const auto before_backward = [&state, &group, block] {
    state.Gather(group);
    if (block > 0) state.Prefetch(block - 1);
  };
  at::Tensor output;
  if (checkpointed) {
    output = Checkpointed(input, forward, before_backward);
  } else {
    output = forward(input);
    if (state.options.stage == 3 && output.requires_grad())
      output.register_hook(
          [before_backward](const at::Tensor& /*gradient*/) { before_backward(); });
  }
  state.Free(group);
  return output;
}

void Sharding::Backward(const at::Tensor& loss, bool sync) {
  BeforeBackward();
  loss.backward();
  AfterBackward(sync);
}

void Sharding::BeforeBackward() {
  state_->reducing = state_->options.stage >= 2;
  for (const auto& group : state_->groups) group->accumulated = 0;
}

void Sharding::AfterBackward(bool sync) {
  State& state = *state_;
  state.reducing = false;
  // What no hook has summed: the rest, blocks with parameters that had no part in this loss, and
  // all in stage 1. In one order on all ranks.
  for (const auto& group : state.groups) {
    if (state.options.stage >= 2 || sync) state.Reduce(*group);
    state.Free(*group);
  }
}

double Sharding::GradientNorm() {
  double sum = 0;
  for (const auto& group : state_->groups) {
    const double norm = group->shard_gradient.norm().item<double>();
    sum += norm * norm;
  }
  state_->communicator->AllReduceSum({&sum, 1});
  return std::sqrt(sum);
}

void Sharding::ScaleGradients(double factor) {
  for (const auto& group : state_->groups) group->shard_gradient.mul_(factor);
}

void Sharding::ClampGradients(double limit) {
  for (const auto& group : state_->groups) group->shard_gradient.clamp_(-limit, limit);
}

void Sharding::AfterStep() { Refresh(); }

void Sharding::Refresh() {
  for (const auto& group : state_->groups) {
    if (group->is_gathering) group->gathering.Wait();
    group->is_gathering = group->whole = false;
    state_->Free(*group);
    if (state_->options.stage < 3) state_->Gather(*group);
  }
}

void Sharding::ZeroGrad() {
  const c10::AutoGradMode no_grad(false);
  for (const auto& group : state_->groups) {
    group->shard_gradient.zero_();
    for (const Part& part : group->parts) part.parameter.tensor.mutable_grad() = at::Tensor();
  }
}

void Sharding::GatherAll() {
  for (const auto& group : state_->groups) state_->Gather(*group);
}

namespace {

// The runs of PARTS' values that lie in [begin, begin + VALUES) of the flat group.
void AddSlices(const std::vector<Part>& parts, std::int64_t begin, const at::Tensor& values,
               const std::string& prefix, std::vector<Slice>* to) {
  const std::int64_t end = begin + values.numel();
  for (const Part& part : parts) {
    const std::int64_t from = std::max(begin, part.offset);
    const std::int64_t until = std::min(end, part.offset + part.count);
    if (from < until)
      to->push_back({prefix + part.parameter.name, part.shape, from - part.offset,
                     until - part.offset, values.narrow(0, from - begin, until - from)});
  }
}

}  // namespace

std::vector<Slice> Sharding::Parameters() const {
  std::vector<Slice> slices;
  for (const auto& group : state_->groups)
    AddSlices(group->parts, group->shard_size * state_->communicator->ranks().rank, group->shard,
              "", &slices);
  return slices;
}

std::vector<Slice> Sharding::Gradients() const {
  std::vector<Slice> slices;
  for (const auto& group : state_->groups)
    AddSlices(group->parts, group->shard_size * state_->communicator->ranks().rank,
              group->shard_gradient, "", &slices);
  return slices;
}

std::vector<NamedTensor> Sharding::Whole() const {
  const c10::AutoGradMode no_grad(false);
  std::vector<NamedTensor> whole;
  for (const auto& group : state_->groups) {
    const at::Tensor shard = group->shard.to(group->full.device());
    const at::Tensor values = at::empty({group->full.numel()}, shard.options());
    state_->communicator->AllGather(shard, values);
    if (!state_->communicator->is_main()) continue;
    for (const Part& part : group->parts)
      whole.push_back({part.parameter.name, values.narrow(0, part.offset, part.count)
                                                .view(part.shape)
                                                .to(at::kCPU, values.scalar_type(), false, true)});
  }
  return whole;
}

std::vector<Slice> Sharding::OptimizerState(const Optimizer& optimizer) const {
  std::vector<Slice> slices;
  for (const auto& [name, tensor] : optimizer.State()) {
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos) {  // a count, the same on every rank
      if (state_->communicator->is_main()) slices.push_back({name, {}, 0, 1, tensor.view({1})});
      continue;
    }
    for (const auto& group : state_->groups)
      for (const Segment& segment : group->segments)
        if (segment.values.name == std::string_view(name).substr(dot + 1))
          AddSlices(group->parts, segment.offset, tensor, name.substr(0, dot + 1), &slices);
  }
  return slices;
}

const std::vector<NamedTensor>& Sharding::shards() const { return state_->shards; }

}  // namespace envkit

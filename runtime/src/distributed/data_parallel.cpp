// c10d::Reducer, and all that differs between torch releases about it.
#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <functional>
#include <type_traits>

#include "communicator_state.h"

namespace envkit {
namespace {

// The Reducer's constructor gained a parameter in 2.11, 2.12 and 2.15. A template, so that branches
// for other releases are not compiled.
template <class Reducer, class... Arguments>
std::unique_ptr<Reducer> MakeReducer(Arguments... arguments) {
  const std::vector<std::int64_t> no_caps;
  if constexpr (std::is_constructible_v<Reducer, Arguments..., std::vector<std::int64_t>, bool,
                                        bool>)
    return std::make_unique<Reducer>(std::move(arguments)..., no_caps, false, false);
  else if constexpr (std::is_constructible_v<Reducer, Arguments..., std::vector<std::int64_t>>)
    return std::make_unique<Reducer>(std::move(arguments)..., no_caps);
  else
    return std::make_unique<Reducer>(std::move(arguments)...);
}

using BucketFuture = c10::intrusive_ptr<c10::ivalue::Future>;

// Averages a bucket in place through shared memory, before backward goes on.
class SharedMemoryHook : public c10d::CppCommHookInterface<std::function<void(const at::Tensor&)>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  BucketFuture runHook(c10d::GradBucket& bucket) override {
    state_(bucket.getBufferRef());
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::TensorType::get());
    future->markCompleted(c10::IValue(bucket.getBufferRef()));
    return future;
  }
};

// Averages a bucket in a narrower type by Gloo or NCCL, while backward goes on.
class NarrowHook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  NarrowHook(const c10::intrusive_ptr<c10d::ProcessGroup>& group, at::ScalarType narrow)
      : CppCommHookInterface(group), narrow_(narrow) {}

  BucketFuture runHook(c10d::GradBucket& bucket) override {
    const c10::AutoGradMode no_grad(false);
    const at::Tensor& buffer = bucket.getBufferRef();
    // Divided first, so that fp16 holds the sum.
    std::vector<at::Tensor> sent = {(buffer / state_->getSize()).to(narrow_)};
    return state_->allreduce(sent)->getFuture()->then(
        [buffer, mean = sent[0]](c10::ivalue::Future& done) {
          const c10::AutoGradMode no_grad_here(false);
          if (done.hasError()) std::rethrow_exception(done.exception_ptr());
          buffer.copy_(mean);
          return c10::IValue(buffer);
        },
        c10::TensorType::get());
  }

 private:
  at::ScalarType narrow_;
};

}  // namespace

struct DataParallel::State {
  std::shared_ptr<Communicator> communicator;
  std::unique_ptr<c10d::Reducer> reducer;  // null with one rank
};

DataParallel::DataParallel(std::shared_ptr<Communicator> communicator,
                           const std::vector<NamedTensor>& parameters,
                           const DataParallelOptions& options)
    : state_(std::make_unique<State>()) {
  state_->communicator = std::move(communicator);
  Communicator::State& peers = *state_->communicator->state_;
  if (!peers.group) return;
  std::vector<at::Tensor> tensors;
  std::unordered_map<std::size_t, std::string> names;
  bool sums_in_shared_memory = peers.shared != nullptr;
  for (const NamedTensor& parameter : parameters) {
    names[tensors.size()] = parameter.name;
    tensors.push_back(parameter.tensor);
    const at::ScalarType type = parameter.tensor.scalar_type();
    sums_in_shared_memory &= type == at::kFloat || type == at::kDouble;
  }
  c10d::verify_params_across_processes(peers.group, tensors, std::nullopt);
  {
    const c10::AutoGradMode no_grad(false);
    state_->communicator->Broadcast(tensors);
  }
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(
      tensors, {static_cast<std::size_t>(options.first_bucket_bytes),
                static_cast<std::size_t>(options.bucket_bytes)});
  // Gradients become ready from the last layer to the first.
  std::reverse(buckets.begin(), buckets.end());
  const std::vector<bool> dense(tensors.size(), false);
  state_->reducer = MakeReducer<c10d::Reducer>(
      tensors, std::move(buckets), peers.group, dense, options.bucket_bytes,
      options.find_unused_parameters, /*gradient_as_bucket_view=*/true, std::move(names),
      options.first_bucket_bytes, /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false);
  if (sums_in_shared_memory) {
    state_->reducer->register_comm_hook(std::make_unique<SharedMemoryHook>(
        [&peers, narrow = options.compression](const at::Tensor& bucket) {
          const Stopwatch stopwatch(&peers.seconds);
          peers.Reduce(bucket, 1.0 / peers.ranks.world_size, narrow);
        }));
  } else if (options.compression) {
    state_->reducer->register_comm_hook(
        std::make_unique<NarrowHook>(peers.group, *options.compression));
  }
}

DataParallel::~DataParallel() = default;

void DataParallel::BeforeForward() {
  if (!state_->reducer) return;
  state_->reducer->prepare_for_forward();
  state_->reducer->rebuild_buckets();
}

void DataParallel::BeforeBackward() {
  if (state_->reducer) state_->reducer->prepare_for_backward({});
}

void DataParallel::Backward(const at::Tensor& loss) {
  BeforeBackward();
  loss.backward();
}

}  // namespace envkit

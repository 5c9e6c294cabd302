// How gradients travel: through shared memory, between hosts, in a narrower type, and with ranks
// that have different numbers of batches.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sin.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "envkit/accelerator.h"
#include "envkit/models.h"
#include "helpers.h"
#include "ranks.h"

namespace envkit {
namespace {

std::shared_ptr<Communicator> Ranks() {
  CommunicatorOptions options;
  options.timeout = std::chrono::seconds(60);
  options.shared_memory = std::getenv("ENVKIT_TEST_GLOO") == nullptr;
  return Communicator::Connect(RankInfoFromEnvironment(), at::kCPU, options);
}

void Run(const char* child, int world, int per_host = 0, bool shared_memory = true) {
  CAPTURE(world);
  CAPTURE(per_host);
  CAPTURE(shared_memory);
  if (shared_memory)
    unsetenv("ENVKIT_TEST_GLOO");
  else
    setenv("ENVKIT_TEST_GLOO", "1", 1);
  const int code = RunRanks(world, child, per_host);
  unsetenv("ENVKIT_TEST_GLOO");
  if (code == kNoNetwork)
    MESSAGE("passed over: there is no loopback interface here");
  else
    CHECK(code == 0);
}

// A net and the batch of RANK in STEP, the same numbers wherever they are made.
std::shared_ptr<Mlp> Net() {
  return std::make_shared<Mlp>(Mlp::Options{.sizes = {5, 7, 3}, .type = at::kDouble}, at::kCPU);
}

at::Tensor Inputs(int rank, int step) {
  return at::sin(at::arange(20, at::kDouble) * (rank + 1) + 0.1 * step).view({4, 5});
}

at::Tensor LossOf(const Mlp& net, const at::Tensor& inputs) {
  return (net.Forward(inputs) - 0.3).square().mean();
}

double Distance(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  REQUIRE(a.size() == b.size());
  double distance = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    distance = std::max(distance, (a[i].tensor - b[i].tensor).abs().max().item<double>());
  return distance;
}

TEST_CASE("child: sums between hosts" * doctest::skip()) {
  const auto ranks = Ranks();
  const RankInfo& own = ranks->ranks();
  const bool several = own.local_world_size < own.world_size;
  CHECK(ranks->Transport() == (several ? "shared memory and gloo" : "shared memory"));
  const int world = own.world_size, total = world * (world + 1) / 2;
  for (const std::int64_t size : {1, 1000, 300'000})
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      CAPTURE(size);
      const at::Tensor sum = at::arange(size, type) * (own.rank + 1);
      ranks->AllReduceSum(sum);
      CHECK(sum.equal(at::arange(size, type) * total));
      const at::Tensor shard = at::full({size}, own.rank, type);
      const at::Tensor full = at::full({size * world}, -1, type);
      ranks->AllGather(shard, full);
      for (int rank = 0; rank < world; ++rank)
        CHECK(full.narrow(0, rank * size, size).eq(rank).all().item<bool>());
      ranks->ReduceScatterSum(full, shard);
      CHECK(shard.eq(own.rank * world).all().item<bool>());
    }
  double numbers[] = {1, own.rank == world - 1 ? 0.5 : 0};
  ranks->AllReduceSum(numbers);
  CHECK(numbers[0] == world);
  CHECK(numbers[1] == 0.5);
  CHECK(ranks->Broadcast("of rank " + std::to_string(own.rank)) == "of rank 0");
  const at::Tensor of_last = at::full({3}, own.rank, at::kDouble);
  ranks->Broadcast({of_last}, world - 1);
  CHECK(of_last[1].item<int>() == world - 1);
}

TEST_CASE("distribution: sums are right within a host and between hosts") {
  for (const auto& [world, per_host] : {std::pair{2, 0}, {4, 2}, {3, 2}, {5, 2}})
    Run("child: sums between hosts", world, per_host);
}

TEST_CASE("child: DDP between hosts" * doctest::skip()) {
  const auto ranks = Ranks();
  const int world = ranks->ranks().world_size;
  const auto net = Net(), alone = Net();
  AdamW adamw(net->Parameters()), exact(alone->Parameters());
  DataParallel parallel(ranks, net->Parameters(), {.bucket_bytes = 200, .first_bucket_bytes = 100});
  for (int step = 0; step < 50; ++step) {
    parallel.BeforeForward();
    parallel.Backward(LossOf(*net, Inputs(ranks->ranks().rank, step)));
    adamw.Step(1e-2);
    adamw.ZeroGrad();
    for (int rank = 0; rank < world; ++rank)
      (LossOf(*alone, Inputs(rank, step)) / world).backward();
    exact.Step(1e-2);
    exact.ZeroGrad();
  }
  CHECK(Distance(net->Parameters(), alone->Parameters()) < 1e-12);
}

TEST_CASE("distribution: DDP of two hosts is one process") {
  Run("child: DDP between hosts", 2);
  Run("child: DDP between hosts", 4, 2);
  Run("child: DDP between hosts", 3, 2);
}

// Gradients that travel as bf16: what bf16 can hold is exact, anything else is rounded to it.
TEST_CASE("child: narrow gradients" * doctest::skip()) {
  const auto ranks = Ranks();
  const RankInfo& own = ranks->ranks();
  const bool within = ranks->Transport() == "shared memory";
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    const at::Tensor weight = at::full({300}, 1, at::kFloat).set_requires_grad(true);
    DataParallel parallel(ranks, {{"weight", weight}}, {.compression = type});
    for (int step = 0; step < 3; ++step) {
      const at::Tensor factor = step == 0 ? at::full({300}, own.rank * own.world_size, at::kFloat)
                                          : at::arange(300, at::kFloat) * (own.rank + 1.1);
      parallel.BeforeForward();
      parallel.Backward((weight * factor).sum());
      const c10::AutoGradMode no_grad(false);
      at::Tensor mean = factor.clone();
      ranks->AllReduceSum(mean);
      mean.div_(own.world_size);
      const double difference =
          ((weight.grad() - mean).abs() / (mean.abs() + 1e-6)).max().item<double>();
      CAPTURE(step);
      // Each rank's share is rounded, and each sum: 8 bits of bf16, 11 of fp16.
      if (step == 0 || within)
        CHECK(difference < 1e-6);
      else
        CHECK(difference < own.world_size * (type == at::kHalf ? 1e-3 : 8e-3));
      if (step > 0 && !within) CHECK(difference > 1e-5);
      weight.mutable_grad().zero_();
    }
  }
}

TEST_CASE("distribution: bf16 and fp16 comm hooks") {
  Run("child: narrow gradients", 2, 0, /*shared_memory=*/false);
  Run("child: narrow gradients", 4, 2);
  Run("child: narrow gradients", 2);
}

// Rank r has 3 + 2 r batches; each step's gradient is the mean over those who have one left.
TEST_CASE("child: uneven inputs" * doctest::skip()) {
  AcceleratorOptions options;
  options.connected = Ranks();
  Accelerator accelerator(options);
  const int rank = accelerator.process_index(), world = accelerator.num_processes();
  const auto batches = [](int of_rank) { return 3 + 2 * of_rank; };
  const auto net = Net(), alone = Net();
  AdamW adamw(net->Parameters()), exact(alone->Parameters());
  Scheduler scheduler(adamw, {.peak_rate = 1e-2, .warmup_steps = 4, .total_steps = 100});
  auto prepared = net;
  auto [model, optimizer, schedule] = accelerator.prepare(prepared, adamw, scheduler);
  int steps = 0;
  for (int epoch = 0; epoch < 2; ++epoch) {
    accelerator.join_uneven_inputs(model, [&] {
      for (int step = 0; step < batches(rank); ++step) {
        const at::Tensor loss =
            model.run([&](Mlp& mlp) { return LossOf(mlp, Inputs(rank, 100 * epoch + step)); });
        accelerator.backward(loss);
        accelerator.clip_grad_norm_(model, 0.1);
        optimizer.step();
        schedule.step();
        optimizer.zero_grad();
      }
    });
    for (int step = 0; step < batches(world - 1); ++step, ++steps) {
      int active = 0;
      for (int other = 0; other < world; ++other) active += step < batches(other) ? 1 : 0;
      for (int other = 0; other < world; ++other)
        if (step < batches(other))
          (LossOf(*alone, Inputs(other, 100 * epoch + step)) / active).backward();
      std::vector<at::Tensor> tensors;
      for (const NamedTensor& each : alone->Parameters()) tensors.push_back(each.tensor);
      const double norm = GradientNorm(tensors);
      if (norm > 0.1) ScaleGradients(tensors, 0.1 / (norm + 1e-6));
      exact.Step(1e-2 * std::min(1.0, (steps + 1) / 4.0) *
                 (steps < 4 ? 1 : 0.5 * (1 + std::cos(M_PI * (steps + 1 - 4) / 96.0))));
      exact.ZeroGrad();
    }
    CHECK(Distance(net->Parameters(), alone->Parameters()) < 1e-12);
    CHECK(Distance(adamw.State(), exact.State()) < 1e-12);
    CHECK(scheduler.steps() == steps);
  }
  // And what follows is collective as usual.
  CHECK(accelerator.reduce(at::full({1}, 1, at::kFloat)).item<int>() == world);
}

TEST_CASE("distribution: uneven inputs are joined") {
  Run("child: uneven inputs", 1);
  Run("child: uneven inputs", 2);
  Run("child: uneven inputs", 3, 0, /*shared_memory=*/false);
  Run("child: uneven inputs", 3, 2);
}

TEST_CASE("join_uneven_inputs refuses what it cannot do") {
  AcceleratorOptions options;
  options.connected = Communicator::Connect({}, at::kCPU);
  options.gradient_accumulation_steps = 2;
  Accelerator accelerator(options);
  auto net = Net();
  auto [model] = accelerator.prepare(net);
  CHECK_THROWS_WITH_AS(accelerator.join_uneven_inputs(model, [] {}),
                       doctest::Contains("join_uneven_inputs: neither with zero_stage nor "
                                         "gradient_accumulation_steps nor fp16"),
                       c10::Error);
  options.comm_hook = "fp8";
  CHECK(FailureText([&] { Accelerator other(options); }) == "there is no comm_hook \"fp8\"");
}

}  // namespace
}  // namespace envkit

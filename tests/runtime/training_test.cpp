// The schedule, the optimizer, and ranks: what one process computes, several compute too.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/remainder.h>
#include <c10/core/GradMode.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "envkit/checkpoint.h"
#include "envkit/distributed.h"
#include "envkit/models.h"
#include "envkit/optim.h"
#include "helpers.h"
#include "ranks.h"

namespace envkit {
namespace {

TEST_CASE("schedule: up linearly, down along half a cosine") {
  const Schedule schedule{1.0, 0.2, 10, 110};
  for (const auto& [step, rate] : std::vector<std::pair<std::int64_t, double>>{
           {1, 0.1},
           {5, 0.5},
           {9, 0.9},
           {10, 1.0},
           {35, 0.2 + 0.8 * 0.8535533905932737},  // (1 + cos 45°) / 2
           {60, 0.6},
           {85, 0.2 + 0.8 * 0.14644660940672627},
           {110, 0.2},
           {111, 0.2},
           {100'000, 0.2}}) {
    INFO(step);
    CHECK(schedule.LearningRate(step) == doctest::Approx(rate).epsilon(1e-12));
  }
  const Schedule without{2e-3, 0, 0, 4};
  CHECK(without.LearningRate(1) == doctest::Approx(2e-3 * 0.8535533905932737));
  CHECK(without.LearningRate(2) == doctest::Approx(1e-3));
  CHECK(without.LearningRate(4) == doctest::Approx(0));
  const Schedule warmup_only{1.0, 0.25, 4, 4};
  CHECK(warmup_only.LearningRate(4) == 1.0);
  CHECK(warmup_only.LearningRate(5) == 0.25);
}

TEST_CASE("AdamW: its formula, and its state goes on in a copy") {
  const auto make = [] {
    return std::vector<NamedTensor>{
        {"weight", at::full({2, 2}, 1.0, at::kFloat).set_requires_grad(true)},
        {"bias", at::full({2}, 1.0, at::kFloat).set_requires_grad(true)},
        {"unused", at::full({2}, 1.0, at::kFloat).set_requires_grad(true)}};
  };
  const auto set = [](const std::vector<NamedTensor>& parameters, double gradient) {
    for (std::size_t i = 0; i < 2; ++i)
      parameters[i].tensor.mutable_grad() =
          at::full(parameters[i].tensor.sizes(), gradient, at::kFloat);
  };
  const auto parameters = make();
  AdamW optimizer(parameters, {0.9, 0.999, 1e-8, 0.5});
  set(parameters, 4.0);
  optimizer.Step(0.1);
  // At first the two averages cancel: a step of the whole rate, whatever the gradient.
  CHECK(parameters[0].tensor.max().item<double>() == doctest::Approx(1 - 0.1 * 0.5 - 0.1));
  CHECK(parameters[1].tensor.max().item<double>() == doctest::Approx(1 - 0.1));  // no decay
  CHECK(parameters[2].tensor.max().item<double>() == 1.0);
  optimizer.ZeroGrad();
  CHECK(!parameters[0].tensor.grad().defined());

  const auto copies = make();
  AdamW copy(copies, {0.9, 0.999, 1e-8, 0.5});
  CopyInto(copy.State(), optimizer.State(), "state");
  CopyInto(copies, parameters, "parameters");
  set(parameters, -1.0);
  set(copies, -1.0);
  optimizer.Step(0.1);
  copy.Step(0.1);
  for (std::size_t i = 0; i < 3; ++i) CHECK(parameters[i].tensor.equal(copies[i].tensor));
  // m = 0.9 * 0.4 - 0.1, v = 0.999 * 0.016 + 0.001, both freed of their bias.
  const double m = 0.26 / (1 - 0.81), v = 0.016984 / (1 - 0.998001);
  CHECK(parameters[1].tensor.max().item<double>() ==
        doctest::Approx(0.9 - 0.1 * m / std::sqrt(v)).epsilon(1e-5));
}

TEST_CASE("ranks: an environment that contradicts itself is refused") {
  const char* kNames[] = {"RANK",        "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
                          "MASTER_ADDR", "MASTER_PORT"};
  const auto text = [&](const std::vector<std::pair<std::string, std::string>>& variables) {
    for (const char* name : kNames) unsetenv(name);
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
    std::string what = FailureText(RankInfoFromEnvironment);
    if (what != "(no failure)") CHECK(FailureCode(RankInfoFromEnvironment) == 2);
    return what;
  };
  CHECK(text({}) == "(no failure)");
  CHECK(RankInfoFromEnvironment().world_size == 1);
  CHECK(text({{"RANK", "1"}}) == "of RANK and WORLD_SIZE only RANK is set");
  CHECK(text({{"WORLD_SIZE", "1"}}) == "of RANK and WORLD_SIZE only WORLD_SIZE is set");
  CHECK(text({{"RANK", "2"}, {"WORLD_SIZE", "2"}}) == "RANK=2 is not below WORLD_SIZE=2");
  CHECK(text({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}).starts_with("RANK=-1 is no number from 0 to "));
  CHECK(text({{"RANK", "1x"}, {"WORLD_SIZE", "2"}}).starts_with("RANK=1x is no number "));
  CHECK(text({{"RANK", "1"}, {"WORLD_SIZE", "2"}}) == "WORLD_SIZE=2, but MASTER_PORT is not set");
  CHECK(text({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}, {"MASTER_PORT", "1"}}) ==
        "LOCAL_RANK=1, LOCAL_WORLD_SIZE=1 and WORLD_SIZE=2 do not fit together");
  CHECK(text({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "70000"}})
            .starts_with("MASTER_PORT=70000 is no number from 1 to 65535"));
  CHECK(text({{"RANK", "1"},
              {"WORLD_SIZE", "4"},
              {"LOCAL_RANK", "1"},
              {"LOCAL_WORLD_SIZE", "2"},
              {"MASTER_ADDR", "host"},
              {"MASTER_PORT", "1234"}}) == "(no failure)");
  const RankInfo ranks = RankInfoFromEnvironment();
  CHECK(ranks.rank == 1);
  CHECK(ranks.world_size == 4);
  CHECK(ranks.local_rank == 1);
  CHECK(ranks.local_world_size == 2);
  CHECK(ranks.master_address == "host");
  CHECK(ranks.master_port == 1234);
  text({});
}

constexpr std::int64_t kGlobalBatch = 12;

// Three plain gradient steps on a global batch that is the same everywhere, of which this rank has
// its share. Returns parameters, and the last gradients as "grad.<name>".
std::vector<NamedTensor> Train(const std::shared_ptr<Communicator>& communicator) {
  const RankInfo& ranks = communicator->ranks();
  // Other weights on each rank, until rank 0's arrive.
  ConvNet::Options options;
  options.rows = options.columns = 8;
  options.seed = static_cast<std::uint64_t>(ranks.rank);
  const ConvNet model(options, at::kCPU);
  const auto parameters = model.Parameters();
  DataParallelOptions small;
  small.bucket_bytes = 64 << 10;  // several buckets
  small.first_bucket_bytes = 4 << 10;
  DataParallel parallel(communicator, parameters, small);
  const std::int64_t share = kGlobalBatch / ranks.world_size;
  const at::Tensor numbers = at::arange(kGlobalBatch * 64, at::kFloat);
  const at::Tensor images = (at::remainder(numbers * numbers, 97) / 48 - 1)
                                .view({kGlobalBatch, 1, 8, 8})
                                .narrow(0, share * ranks.rank, share);
  const at::Tensor labels =
      at::remainder(at::arange(kGlobalBatch, at::kLong), 10).narrow(0, share * ranks.rank, share);
  std::vector<NamedTensor> result = parameters;
  for (int step = 0; step < 3; ++step) {
    {
      const c10::AutoGradMode no_grad(false);
      for (const NamedTensor& each : parameters)
        if (each.tensor.grad().defined()) each.tensor.grad().zero_();
    }
    parallel.BeforeForward();
    parallel.Backward(at::cross_entropy_loss(model.Forward(images), labels));
    const c10::AutoGradMode no_grad(false);
    for (const NamedTensor& each : parameters) each.tensor.sub_(each.tensor.grad(), 0.05);
  }
  for (const NamedTensor& each : parameters)
    result.push_back({"grad." + each.name, each.tensor.grad()});
  return result;
}

// What the next test starts, once for each rank.
TEST_CASE("child: one rank" * doctest::skip()) {
  CommunicatorOptions options;
  options.timeout = std::chrono::seconds(60);
  options.shared_memory = std::getenv("ENVKIT_TEST_GLOO") == nullptr;
  const auto communicator = Communicator::Connect(RankInfoFromEnvironment(), at::kCPU, options);
  const int rank = communicator->ranks().rank, world = communicator->ranks().world_size;
  double sums[] = {1.0 + rank, 0.5};
  communicator->AllReduceSum(sums);
  CHECK(sums[0] == world * (world + 1) / 2.0);
  CHECK(sums[1] == world * 0.5);
  CHECK(communicator->Broadcast("from " + std::to_string(rank)) == "from 0");
  communicator->Barrier();
  WriteSafetensors(std::filesystem::path(std::getenv("ENVKIT_TEST_OUT")) / std::to_string(rank),
                   Train(communicator), {{"transport", communicator->Transport()}});
}

TEST_CASE("ranks: several have the gradients of one, each the same bits") {
  const auto expected = Train(Communicator::Connect({}, at::kCPU));
  for (const bool shared_memory : {true, false}) {
    for (const int world : {2, 3}) {
      CAPTURE(shared_memory);
      CAPTURE(world);
      const Scratch scratch;
      setenv("ENVKIT_TEST_OUT", scratch.path().c_str(), 1);
      if (shared_memory)
        unsetenv("ENVKIT_TEST_GLOO");
      else
        setenv("ENVKIT_TEST_GLOO", "1", 1);
      const int code = RunRanks(world, "child: one rank");
      if (code == kNoNetwork) {
        MESSAGE("passed over: there is no loopback interface here");
        return;
      }
      REQUIRE(code == 0);
      const auto zero = ReadSafetensors(scratch / "0");
      REQUIRE(zero.tensors.size() == expected.size());
      if (!shared_memory) CHECK(zero.metadata.at("transport") == "gloo");
      if (shared_memory && access("/dev/shm", W_OK) == 0)
        CHECK(zero.metadata.at("transport") == "shared memory");
      for (std::size_t i = 0; i < expected.size(); ++i) {
        INFO(expected[i].name);
        const auto& [name, tensor] = zero.tensors[i];
        CHECK(name == expected[i].name);
        const double size = expected[i].tensor.abs().max().item<double>();
        CHECK(size > 0);
        CHECK((tensor - expected[i].tensor).abs().max().item<double>() < 1e-4 * size);
        for (int rank = 1; rank < world; ++rank)
          CHECK(ReadSafetensors(scratch / std::to_string(rank)).tensors[i].tensor.equal(tensor));
      }
    }
  }
}

}  // namespace
}  // namespace envkit

// The Accelerator: the same numbers with any number of ranks, ZeRO stage and accumulation.
#include "envkit/accelerator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/full.h>
#include <ATen/ops/remainder.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "envkit/checkpoint.h"
#include "envkit/models.h"
#include "envkit/sharding.h"
#include "helpers.h"
#include "ranks.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kGlobalBatch = 16, kContext = 8;

Gpt::Options Tiny(at::ScalarType type) {
  Gpt::Options options;
  options.vocabulary = 13;
  options.context = kContext;
  options.layers = 3;
  options.heads = 2;
  options.width = 12;
  options.seed = 7;
  options.type = type;
  return options;
}

std::shared_ptr<TensorDataset> Tokens() {
  // No pattern that 50 steps could learn by heart, and no two samples alike.
  const at::Tensor n = at::arange(kGlobalBatch * 25 * (kContext + 1), at::kLong);
  return std::make_shared<TensorDataset>(
      Batch{at::remainder(n * n * 31 + n * 7, 13).view({-1, kContext + 1})});
}

struct Setting {
  int stage = 0, accumulation = 1;
  at::ScalarType type = at::kDouble;
  std::string mixed_precision = "no";
  bool checkpointing = false, offload = false;
};

struct Outcome {
  std::vector<double> losses;           // of each step, over all ranks
  std::vector<NamedTensor> parameters;  // on rank 0
};

// One training of 50 steps; stops after STOP of them with the state saved to STATE, or goes on from
// it.
Outcome Train(const std::shared_ptr<Communicator>& communicator, const Setting& setting,
              const fs::path& state = {}, int stop = 0) {
  AcceleratorOptions options;
  options.connected = communicator;
  options.zero_stage = setting.stage;
  options.gradient_accumulation_steps = setting.accumulation;
  options.mixed_precision = setting.mixed_precision;
  options.activation_checkpointing = setting.checkpointing;
  options.cpu_offload = setting.offload;
  Accelerator accelerator(options);
  const auto gpt = std::make_shared<Gpt>(Tiny(setting.type), at::kCPU);
  AdamW adamw(gpt->Parameters(), {.weight_decay = 0.1});
  DataLoader data(Tokens(), {.batch_size = kGlobalBatch / setting.accumulation /
                                           communicator->ranks().world_size,
                             .shuffle = true,
                             .seed = 3});
  Scheduler cosine(adamw, {.peak_rate = 1e-2, .warmup_steps = 5, .total_steps = 50});
  auto model_ = gpt;
  auto [model, optimizer, loader, scheduler] = accelerator.prepare(model_, adamw, data, cosine);
  if (!state.empty() && stop == 0) accelerator.load_state(state);
  Outcome outcome;
  double sum = 0;
  while (cosine.steps() < 50) {
    for (const Batch& batch : loader) {
      const auto scope = accelerator.accumulate();
      const at::Tensor loss = model.run([&](Gpt& net) {
        return net.Loss(batch[0].narrow(1, 0, kContext), batch[0].narrow(1, 1, kContext));
      });
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, 1.0);
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      sum += accelerator.reduce(loss, "mean").item<double>() / setting.accumulation;
      if (accelerator.sync_gradients()) outcome.losses.push_back(std::exchange(sum, 0));
      if (accelerator.sync_gradients() && stop > 0 && cosine.steps() == stop) {
        accelerator.save_state(state);
        return outcome;
      }
    }
  }
  const Scratch scratch;
  accelerator.save_model(model, scratch / "model");
  if (accelerator.is_main_process())
    outcome.parameters = ReadSafetensors(scratch / "model" / "model.safetensors").tensors;
  return outcome;
}

double Distance(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  double distance = 0;
  REQUIRE(a.size() == b.size());
  for (const auto& [name, tensor] : a) {
    const auto same = std::find_if(b.begin(), b.end(),
                                   [&](const NamedTensor& other) { return other.name == name; });
    REQUIRE(same != b.end());
    distance = std::max(distance, (tensor - same->tensor).abs().max().item<double>());
  }
  return distance;
}

double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double distance = 0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    distance = std::max(distance, std::abs(a[i] - b[i]) / b[i]);
  return distance;
}

std::shared_ptr<Communicator> Ranks() {
  CommunicatorOptions options;
  options.timeout = std::chrono::seconds(60);
  options.shared_memory = std::getenv("ENVKIT_TEST_GLOO") == nullptr;
  return Communicator::Connect(RankInfoFromEnvironment(), at::kCPU, options);
}

TEST_CASE("child: every stage against one process" * doctest::skip()) {
  const auto alone = Communicator::Connect({}, at::kCPU);
  const auto ranks = Ranks();
  const Outcome exact = Train(alone, {});
  CHECK(exact.losses.size() == 50);
  CHECK(exact.losses.back() < exact.losses.front());
  const Outcome single = Train(alone, {.type = at::kFloat});
  const int world = ranks->ranks().world_size;
  const bool gloo = std::getenv("ENVKIT_TEST_GLOO") != nullptr;
  for (const int stage : {0, 1, 2, 3}) {
    CAPTURE(stage);
    for (const int accumulation : {1, 4}) {
      if (gloo && world == 4 && accumulation == 4) continue;
      CAPTURE(accumulation);
      const Outcome outcome = Train(ranks, {.stage = stage,
                                            .accumulation = accumulation,
                                            .checkpointing = accumulation == 4,
                                            .offload = accumulation == 4});
      CHECK(Distance(outcome.losses, exact.losses) < 1e-9);
      if (ranks->is_main()) CHECK(Distance(outcome.parameters, exact.parameters) < 1e-9);
    }
    if (gloo) continue;
    const Outcome outcome = Train(ranks, {.stage = stage, .type = at::kFloat});
    CHECK(Distance(outcome.losses, single.losses) < 1e-4);
    if (world != 2) continue;
    // The band of bf16: each loss within 3 % of fp32's.
    const Setting bf16{.stage = stage, .type = at::kFloat, .mixed_precision = "bf16"};
    const Outcome narrow = Train(ranks, bf16);
    CHECK(Distance(narrow.losses, single.losses) < 3e-2);
    CHECK(Distance(narrow.losses, single.losses) > 1e-6);
    Setting again = bf16;
    again.checkpointing = true;  // nothing of one step's narrow weights is left in the next
    CHECK(Train(ranks, again).losses == narrow.losses);
    if (ranks->is_main()) {
      CHECK((narrow.parameters[0].tensor.scalar_type() == at::kFloat));
      MESSAGE("ZeRO stage " << stage << ": losses differ by "
                            << Distance(outcome.losses, single.losses) << " in fp32, by "
                            << Distance(narrow.losses, single.losses) << " in bf16");
    }
  }
}

void RunChild(const char* child, std::initializer_list<int> worlds) {
  for (const int world : worlds) {
    for (const bool shared_memory : {true, false}) {
      if (world == 1 && !shared_memory) continue;
      CAPTURE(world);
      CAPTURE(shared_memory);
      if (shared_memory)
        unsetenv("ENVKIT_TEST_GLOO");
      else
        setenv("ENVKIT_TEST_GLOO", "1", 1);
      const int code = RunRanks(world, child);
      if (code == kNoNetwork) {
        MESSAGE("passed over: there is no loopback interface here");
        return;
      }
      CHECK(code == 0);
    }
  }
}

TEST_CASE("accelerator: DDP and ZeRO with 1, 2 and 4 ranks are one process") {
  RunChild("child: every stage against one process", {1, 2, 4});
}

// What one saved, another goes on from, whatever the stage and the number of ranks of both.
TEST_CASE("child: saves a state" * doctest::skip()) {
  const auto ranks = Ranks();
  const fs::path folder = std::getenv("ENVKIT_TEST_OUT");
  for (const int stage : {0, 1, 2, 3})
    Train(ranks, {.stage = stage}, folder / std::to_string(stage), 20);
}

TEST_CASE("child: goes on from a state" * doctest::skip()) {
  const auto ranks = Ranks();
  const fs::path folder = std::getenv("ENVKIT_TEST_OUT");
  const Outcome exact = Train(Communicator::Connect({}, at::kCPU), {});
  const std::vector<double> rest(exact.losses.begin() + 20, exact.losses.end());
  const int world = ranks->ranks().world_size;
  for (const int saved : {0, 1, 2, 3}) {
    const int stage = world == 1 ? 0 : world == 2 ? saved : 3;
    CAPTURE(saved);
    CAPTURE(stage);
    const Outcome outcome = Train(ranks, {.stage = stage}, folder / std::to_string(saved));
    CHECK(Distance(outcome.losses, rest) < 1e-9);
    if (ranks->is_main()) CHECK(Distance(outcome.parameters, exact.parameters) < 1e-9);
    if (world != 2) continue;
    // Bit for bit what these ranks have without a break.
    const Outcome whole = Train(ranks, {.stage = stage});
    CHECK(outcome.losses == std::vector<double>(whole.losses.begin() + 20, whole.losses.end()));
    if (ranks->is_main()) CHECK(Distance(outcome.parameters, whole.parameters) == 0);
  }
}

TEST_CASE("accelerator: a state of 2 ranks goes on with 1, 2 and 4") {
  const Scratch scratch;
  setenv("ENVKIT_TEST_OUT", scratch.path().c_str(), 1);
  unsetenv("ENVKIT_TEST_GLOO");
  const int code = RunRanks(2, "child: saves a state");
  if (code == kNoNetwork) return;
  REQUIRE(code == 0);
  CHECK(fs::exists(scratch / "3/model-00001-of-00002.safetensors"));
  CHECK(fs::exists(scratch / "3/optimizer-00002-of-00002.safetensors"));
  for (const int world : {1, 2, 4}) {
    CAPTURE(world);
    CHECK(RunRanks(world, "child: goes on from a state") == 0);
  }
  // Its parts make one file.
  const auto merged = MergeSlices(scratch / "3", "model");
  CHECK(Distance(merged, MergeSlices(scratch / "0", "model")) < 1e-9);
  // Damage is found before anything is loaded.
  const fs::path part = scratch / "3/model-00002-of-00002.safetensors";
  std::string bytes = ReadFile(part);
  bytes[bytes.size() - 1] ^= 1;
  WriteFile(part, bytes);
  CHECK(FailureText([&] { Train(Communicator::Connect({}, at::kCPU), {}, scratch / "3"); }) ==
        part.string() + ": not the bytes that were written (CRC-32C differs)");
}

TEST_CASE("child: what ranks tell each other" * doctest::skip()) {
  const auto ranks = Ranks();
  AcceleratorOptions options;
  options.connected = ranks;
  Accelerator accelerator(options);
  const int rank = accelerator.process_index(), world = accelerator.num_processes();
  CHECK(accelerator.is_main_process() == (rank == 0));
  CHECK(accelerator.is_last_process() == (rank == world - 1));
  const at::Tensor own = at::full({2, 3}, rank, at::kLong);
  const at::Tensor all = accelerator.gather(own);
  CHECK(all.sizes() == at::IntArrayRef{2 * world, 3});
  for (int i = 0; i < world; ++i) CHECK(all.narrow(0, 2 * i, 2).eq(i).all().item<bool>());
  CHECK(accelerator.gather(at::tensor(1.5 * rank)).numel() == world);
  CHECK(accelerator.reduce(at::full({3}, rank, at::kFloat))[1].item<double>() ==
        world * (world - 1) / 2.0);
  CHECK(accelerator.reduce(at::full({3}, rank, at::kDouble), "mean")[2].item<double>() ==
        (world - 1) / 2.0);
  const at::Tensor padded =
      accelerator.pad_across_processes(at::full({rank + 1, 2}, 5, at::kFloat), 0, -1);
  CHECK(padded.size(0) == world);
  CHECK(padded.eq(-1).sum().item<int>() == 2 * (world - rank - 1));
  CHECK(padded[rank][0].item<int>() == 5);
  const at::Tensor first =
      accelerator.pad_across_processes(at::full({2, rank + 1}, 5, at::kFloat), 1, -1, true);
  CHECK(first[1][world - 1].item<int>() == 5);
  CHECK(accelerator.broadcast(at::full({2}, rank, at::kFloat))[0].item<int>() == 0);
  CHECK(accelerator.broadcast("rank " + std::to_string(rank)) == "rank 0");
  CHECK(!accelerator.check_trigger());
  if (rank == world - 1) accelerator.set_trigger();
  CHECK(accelerator.check_trigger());
  CHECK(!accelerator.check_trigger());
  const std::vector<int> items = {1, 2, 3, 4, 5};
  const auto part = accelerator.split_between_processes(items);
  const auto texts = accelerator.communicator().Gather(std::string(part.size(), 'x'));
  std::size_t sum = 0;
  for (const std::string& text : texts) sum += text.size();
  CHECK(sum == items.size());
  CHECK(texts.front().size() >= texts.back().size());
  const Scratch scratch;
  std::string order = accelerator.broadcast(scratch.path().string());
  accelerator.main_process_first([&] {
    if (rank != 0) CHECK(fs::exists(fs::path(order) / "done"));
    if (rank == 0) WriteFile(fs::path(order) / "done", "");
  });
  accelerator.wait_for_everyone();

  // Seven samples for ranks that take two at a time: the last batch is filled up, and metrics drop
  // what filled it.
  DataLoader data(std::make_shared<TensorDataset>(Batch{at::arange(7, at::kLong)}),
                  {.batch_size = 2});
  auto [loader] = accelerator.prepare(data);
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<std::int64_t> seen;
    for (const Batch& batch : loader) {
      CHECK(batch[0].size(0) == 2);
      const at::Tensor gathered = accelerator.gather_for_metrics(batch[0]);
      for (std::int64_t i = 0; i < gathered.numel(); ++i)
        seen.push_back(gathered[i].item<std::int64_t>());
    }
    CHECK(seen == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6});
  }
  accelerator.skip_first_batches(loader, 1);
  std::int64_t batches = 0;
  for (const Batch& batch : loader) {
    if (batches++ == 0) CHECK(batch[0][0].item<int>() == (2 * world + 2 * rank) % 7);
  }
  CHECK(batches == loader.size() - 1);
  accelerator.wait_for_everyone();  // before the folder of rank 0 goes
}

TEST_CASE("accelerator: ranks tell each other") {
  RunChild("child: what ranks tell each other", {1, 2, 3});
}

TEST_CASE("ZeRO: what a stage frees is free") {
  const auto alone = Communicator::Connect({}, at::kCPU);
  const at::Tensor tokens = Tokens()->Get(std::vector<std::int64_t>{0, 1}, 0)[0];
  for (const int stage : {1, 2, 3}) {
    CAPTURE(stage);
    Gpt gpt(Tiny(at::kFloat), at::kCPU);
    AdamW adamw(gpt.Parameters());
    Sharding sharding(alone, gpt.Parameters(), adamw, gpt.blocks().prefixes(), {.stage = stage});
    const at::Tensor of_block = gpt.Parameters()[2].tensor;
    const auto bytes = [&] { return of_block.storage().nbytes(); };
    std::vector<std::size_t> inside;
    gpt.blocks().SetRunner(
        [&](std::size_t block, const at::Tensor& input, const Blocks::Forward& forward) {
          return sharding.RunBlock(
              block, input,
              [&, forward](const at::Tensor& x) {
                if (block == 0) inside.push_back(bytes());
                return forward(x);
              },
              false);
        });
    CHECK((bytes() == 0) == (stage == 3));
    sharding.BeforeForward();
    const at::Tensor loss = gpt.Loss(tokens.narrow(1, 0, kContext), tokens.narrow(1, 1, kContext));
    CHECK(inside.at(0) > 0);
    CHECK((bytes() == 0) == (stage == 3));
    sharding.Backward(loss, false);
    CHECK(of_block.grad().defined() == (stage == 1));
    CHECK((bytes() == 0) == (stage == 3));
    sharding.BeforeForward();
    sharding.Backward(gpt.Loss(tokens.narrow(1, 0, kContext), tokens.narrow(1, 1, kContext)), true);
    CHECK(!of_block.grad().defined());
    CHECK(sharding.GradientNorm() > 0);
  }
}

TEST_CASE("activation checkpointing: the same gradients, with the same dropout") {
  const auto gradient = [](bool checkpointed) {
    at::Generator(at::detail::getDefaultCPUGenerator()).set_current_seed(5);
    const at::Tensor weight = at::full({64}, 0.5, at::kFloat).set_requires_grad(true);
    const at::Tensor input = at::arange(64, at::kFloat).set_requires_grad(true);
    int calls = 0;
    const Blocks::Forward forward = [&](const at::Tensor& x) {
      ++calls;
      return at::dropout(x * weight, 0.5, true);
    };
    const at::Tensor output = checkpointed ? Checkpointed(input, forward) : forward(input);
    (output * output).sum().backward();
    CHECK(calls == (checkpointed ? 2 : 1));
    // What is drawn afterwards is the same too.
    const at::Tensor next = at::dropout(at::full({64}, 1, at::kFloat), 0.5, true);
    return std::vector<at::Tensor>{weight.grad(), input.grad(), next};
  };
  const auto plain = gradient(false), checkpointed = gradient(true);
  for (std::size_t i = 0; i < plain.size(); ++i) CHECK(plain[i].equal(checkpointed[i]));
  CHECK(plain[0].eq(0).sum().item<int>() > 10);
}

TEST_CASE("accelerator: a value that is not finite is named, with its step") {
  AcceleratorOptions options;
  options.connected = Communicator::Connect({}, at::kCPU);
  for (const int stage : {0, 2}) {
    options.zero_stage = stage;
    Accelerator accelerator(options);
    auto mlp = std::make_shared<Mlp>(Mlp::Options{.sizes = {4, 3, 2}}, at::kCPU);
    Sgd sgd(mlp->Parameters(), {.momentum = 0.9});
    auto [model, optimizer] = accelerator.prepare(mlp, sgd);
    const at::Tensor inputs = at::full({2, 4}, 1, at::kFloat);
    const auto step = [&] {
      accelerator.backward(model(inputs).sum());
      accelerator.clip_grad_norm_(model, 1);
      optimizer.step();
      optimizer.zero_grad();
    };
    step();
    {
      const c10::AutoGradMode no_grad(false);
      mlp->Parameters()[2].tensor[0][1].fill_(NAN);
    }
    if (stage == 0) {
      CHECK(FailureText(step) ==
            "the loss is nan at step 2, on rank 0\n"
            "the first tensor that is not finite: 2.weight");
      continue;
    }
    CHECK(Contains(FailureText(step), "the loss is nan at step 2, on rank 0\n"));
  }
}

TEST_CASE("gradient scaler: overflow halves the scale and skips the step") {
  GradScaler scaler;
  const at::Tensor parameter = at::full({3}, 1, at::kFloat).set_requires_grad(true);
  parameter.mutable_grad() = at::full({3}, 65536.0 * 2, at::kFloat);
  CHECK(scaler.Unscale({parameter}));
  CHECK(parameter.grad()[0].item<double>() == 2);
  parameter.mutable_grad()[1].fill_(INFINITY);
  CHECK(!scaler.Unscale({parameter}));
  scaler.Update(false);
  CHECK(scaler.scale() == 32768);
  for (int i = 0; i < 2000; ++i) scaler.Update(true);
  CHECK(scaler.scale() == 65536);
  const GradScaler::State state = scaler.state();
  GradScaler other;
  other.SetState({4, 7});
  CHECK(other.scale() == 4);
  other.SetState(state);
  CHECK(other.scale() == 65536);

  AcceleratorOptions options;
  options.connected = Communicator::Connect({}, at::kCPU);
  options.mixed_precision = "fp16";
  Accelerator accelerator(options);
  auto mlp = std::make_shared<Mlp>(Mlp::Options{.sizes = {4, 2}}, at::kCPU);
  Sgd sgd(mlp->Parameters());
  auto [model, optimizer] = accelerator.prepare(mlp, sgd);
  const at::Tensor before = mlp->Parameters()[0].tensor.detach().clone();
  // 65536 times this does not fit into fp16.
  accelerator.backward(model(at::full({2, 4}, 8, at::kFloat)).to(at::kFloat).sum());
  optimizer.step();
  CHECK(accelerator.optimizer_step_was_skipped());
  CHECK(before.equal(mlp->Parameters()[0].tensor));
  optimizer.zero_grad();
  for (int i = 0; i < 8 && accelerator.optimizer_step_was_skipped(); ++i) {
    accelerator.backward(model(at::full({2, 4}, 8, at::kFloat)).to(at::kFloat).sum());
    optimizer.step();
    optimizer.zero_grad();
  }
  CHECK(!accelerator.optimizer_step_was_skipped());
  CHECK(!before.equal(mlp->Parameters()[0].tensor));
}

TEST_CASE("example: a model of one's own, with one rank and with two") {
  const char* program = std::getenv("ENVKIT_TEST_EXAMPLE");
  if (program == nullptr) {
    MESSAGE("passed over: ENVKIT_TEST_EXAMPLE does not name examples/custom-cpp-model's program");
    return;
  }
  const Scratch scratch;
  const fs::path before = fs::current_path();
  std::vector<std::vector<NamedTensor>> models;
  for (const int world : {1, 2}) {
    const fs::path here = scratch / std::to_string(world);
    fs::create_directories(here);
    fs::current_path(here);
    const int code = RunProgram(world, {program});
    fs::current_path(before);
    if (code == kNoNetwork) return;
    REQUIRE(code == 0);
    const std::string metrics = ReadFile(here / "run/metrics.jsonl");
    const std::size_t last = metrics.rfind("\"train/loss\":");
    REQUIRE(last != std::string::npos);
    CHECK(std::stod(metrics.substr(last + 13)) < 5e-3);  // 0.5 before, from random weights
    models.push_back(ReadSafetensors(here / "run/model/model.safetensors").tensors);
    CHECK(models.back().size() == 4);
    CHECK(models.back()[0].name == "hidden.weight");
  }
}

TEST_CASE("SGD with momentum, and its formula") {
  const at::Tensor weight = at::full({2, 2}, 1.0, at::kFloat).set_requires_grad(true);
  Sgd sgd({{"w", weight}}, {.momentum = 0.5, .weight_decay = 0.1});
  weight.mutable_grad() = at::full({2, 2}, 2.0, at::kFloat);
  sgd.Step(0.1);  // gradient 2 + 0.1
  CHECK(weight[0][0].item<double>() == doctest::Approx(1 - 0.1 * 2.1));
  sgd.Step(0.1);
  const double second = 0.5 * 2.1 + 2 + 0.1 * 0.79;
  CHECK(weight[0][0].item<double>() == doctest::Approx(0.79 - 0.1 * second));
  CHECK(sgd.State().size() == 2);
  CHECK(sgd.steps() == 2);
}

TEST_CASE("schedules: a line and a constant") {
  Schedule line{1.0, 0.5, 10, 110, Schedule::Kind::kLinear};
  CHECK(line.LearningRate(5) == doctest::Approx(0.5));
  CHECK(line.LearningRate(60) == doctest::Approx(0.75));
  CHECK(line.LearningRate(200) == doctest::Approx(0.5));
  line.kind = Schedule::Kind::kConstant;
  CHECK(line.LearningRate(5) == doctest::Approx(0.5));
  CHECK(line.LearningRate(200) == 1.0);
}

}  // namespace
}  // namespace envkit

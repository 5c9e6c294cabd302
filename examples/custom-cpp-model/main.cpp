// A model of one's own: learns y = sin(x) with as many ranks as it is started with.
#include <ATen/ops/arange.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tanh.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>

#include "envkit/accelerator.h"
#include "envkit/failure.h"

struct Net : torch::nn::Module {
  Net() {
    hidden = register_module("hidden", torch::nn::Linear(1, 64));
    output = register_module("output", torch::nn::Linear(64, 1));
  }
  at::Tensor forward(const at::Tensor& x) { return output(at::tanh(hidden(x))); }
  torch::nn::Linear hidden{nullptr}, output{nullptr};
};

int main(int argc, char** argv) try {
  envkit::Accelerator accelerator({.gradient_accumulation_steps = 2, .project_dir = "run"});
  accelerator.init_trackers("sine");

  const at::Tensor x = (at::arange(1024, at::kFloat) / 512 - 1).unsqueeze(1) * 3;
  const auto points = std::make_shared<envkit::TensorDataset>(envkit::Batch{x, at::sin(x)});
  auto net = std::make_shared<Net>();
  net->to(accelerator.device());
  envkit::AdamW adamw(envkit::ParametersOf(*net), {.weight_decay = 0});
  envkit::DataLoader data(points,
                          {.batch_size = 32 / accelerator.num_processes(), .shuffle = true});
  envkit::Scheduler cosine(adamw, {.peak_rate = 2e-2, .warmup_steps = 10, .total_steps = 320});
  auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, adamw, data, cosine);

  if (argc > 1) accelerator.load_state(argv[1]);  // go on from there
  double loss_of_epoch = 0;
  while (cosine.steps() < 320) {
    loss_of_epoch = 0;
    for (const envkit::Batch& batch : loader) {
      const auto scope = accelerator.accumulate();
      const at::Tensor loss = at::mse_loss(model(batch[0]), batch[1]);
      accelerator.backward(loss);
      accelerator.clip_grad_norm_(model, 1.0);
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      loss_of_epoch += accelerator.reduce(loss, "mean").item<double>() / 32;
    }
    accelerator.log({{"train/loss", loss_of_epoch}}, cosine.steps());
  }
  accelerator.print("loss " + std::to_string(loss_of_epoch) + " with " +
                    std::to_string(accelerator.num_processes()) + " ranks");
  accelerator.save_state("run/state");
  accelerator.save_model(model, "run/model");
  accelerator.end_training();
} catch (const envkit::Failure& failure) {
  std::fprintf(stderr, "error: %s\n  %s\n", failure.what(), failure.next().c_str());
  return failure.exit_code();
}

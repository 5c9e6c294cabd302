#include "config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>

#include "base/toml.h"

namespace envkit {
namespace {

constexpr std::int64_t kMost = 1'000'000'000'000;

template <class T, class Value>
void Take(const std::optional<Value>& from, T* to) {
  if (from) *to = from->value;
}

// What the document has, over what is in CONFIG already.
void Apply(TomlDocument& document, TrainConfig* config) {
  TomlTable root = document.Root();
  Take(root.Integer("seed", 0), &config->seed);
  Take(root.Integer("epochs", 1, 1'000'000), &config->epochs);
  Take(root.Integer("max_steps", 0, kMost), &config->max_steps);
  Take(root.Integer("global_batch", 1, 1 << 30), &config->global_batch);
  Take(root.Integer("accumulation", 1, 1 << 20), &config->accumulation);
  Take(root.Integer("log_every", 1, kMost), &config->log_every);
  Take(root.Integer("evaluate_every", 0, kMost), &config->evaluate_every);
  Take(root.Integer("checkpoint_every", 0, kMost), &config->checkpoint_every);
  Take(root.Integer("keep_checkpoints", 1, 1'000'000), &config->keep_checkpoints);
  Take(root.Bool("keep_best"), &config->keep_best);
  Take(root.Bool("background_checkpoints"), &config->background_checkpoints);
  Take(root.Choice("device", {"auto", "cpu", "cuda"}), &config->device);
  TomlTable optimizer = root.Table("optimizer");
  Take(optimizer.Choice("name", {"adamw", "sgd"}), &config->optimizer.name);
  Take(optimizer.Number("learning_rate", 0, 1000), &config->optimizer.learning_rate);
  Take(optimizer.Number("weight_decay", 0, 1000), &config->optimizer.weight_decay);
  Take(optimizer.Number("momentum", 0, 1), &config->optimizer.momentum);
  Take(optimizer.Number("clip_norm", 0, 1e9), &config->optimizer.clip_norm);
  optimizer.RejectUnknownKeys();
  TomlTable schedule = root.Table("schedule");
  Take(schedule.Choice("name", {"cosine", "linear", "constant"}), &config->schedule.name);
  Take(schedule.Integer("warmup_steps", 0, kMost), &config->schedule.warmup_steps);
  Take(schedule.Number("final_rate", 0, 1000), &config->schedule.final_rate);
  schedule.RejectUnknownKeys();
  TomlTable precision = root.Table("precision");
  Take(precision.Choice("mixed", {"no", "bf16", "fp16"}), &config->precision.mixed);
  Take(precision.Bool("tf32"), &config->precision.tf32);
  precision.RejectUnknownKeys();
  TomlTable distributed = root.Table("distributed");
  Take(distributed.Integer("zero_stage", 0, 3), &config->distributed.zero_stage);
  Take(distributed.Choice("comm_hook", {"no", "bf16", "fp16"}), &config->distributed.comm_hook);
  Take(distributed.Bool("activation_checkpointing"), &config->distributed.activation_checkpointing);
  Take(distributed.Bool("cpu_offload"), &config->distributed.cpu_offload);
  distributed.RejectUnknownKeys();
  TomlTable data = root.Table("data");
  Take(data.Choice("kind", {"mnist", "cifar10", "images", "tokens", "npy"}), &config->data.kind);
  Take(data.String("dir"), &config->data.directory);
  Take(data.Number("max_shift", 0, 100), &config->data.max_shift);
  Take(data.Number("max_rotation", 0, 180), &config->data.max_rotation);
  Take(data.Number("max_scaling", 0, 0.9), &config->data.max_scaling);
  Take(data.Bool("augment"), &config->data.augment);
  Take(data.Integer("size", 8, 4096), &config->data.size);
  Take(data.Integer("threads", 0, 1024), &config->data.threads);
  Take(data.Integer("evaluation_samples", 0, kMost), &config->data.evaluation_samples);
  data.RejectUnknownKeys();
  TomlTable model = root.Table("model");
  Take(model.Choice("kind", {"cnn", "mlp", "gpt", "resnet18", "resnet50"}), &config->model.kind);
  Take(model.String("weights"), &config->model.weights);
  Take(model.Integer("hidden", 1, 1 << 20), &config->model.hidden);
  Take(model.Choice("size", {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}), &config->model.size);
  Take(model.Integer("vocabulary", 2, 65536), &config->model.vocabulary);
  Take(model.Integer("context", 1, 1 << 20), &config->model.context);
  Take(model.Integer("layers", 1, 1 << 12), &config->model.layers);
  Take(model.Integer("heads", 1, 1 << 12), &config->model.heads);
  Take(model.Integer("width", 1, 1 << 20), &config->model.width);
  Take(model.Number("dropout", 0, 0.99), &config->model.dropout);
  model.RejectUnknownKeys();
  root.RejectUnknownKeys();
}

// Whether TEXT is a value of TOML as it stands; a shell user's dir=/data/mnist has no quotes.
bool IsTomlValue(std::string_view text) {
  if (text == "true" || text == "false" || text.starts_with('"') || text.starts_with('\''))
    return true;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

// What no single key can say.
Result<void> Combination(const TrainConfig& config, const std::string& file) {
  const std::string &model = config.model.kind, &data = config.data.kind;
  const auto usage = [&](const std::string& what, const std::string& next) {
    return Usage(file + ": " + what, next);
  };
  if ((model == "gpt") != (data == "tokens"))
    return usage("model.kind = \"" + model + "\" cannot learn from data.kind = \"" + data + "\"",
                 "gpt and tokens belong together");
  if (config.distributed.activation_checkpointing && model != "gpt")
    return usage("distributed.activation_checkpointing is for model.kind = \"gpt\"",
                 "leave it off for " + model);
  if (config.distributed.cpu_offload && config.distributed.zero_stage == 0)
    return usage("distributed.cpu_offload needs distributed.zero_stage",
                 "set zero_stage to 1, 2 or 3");
  if (config.distributed.comm_hook != "no" && config.distributed.zero_stage != 0)
    return usage("distributed.comm_hook is for DDP (distributed.zero_stage = 0)",
                 "leave it at \"no\" with shards");
  if (config.global_batch % config.accumulation != 0)
    return usage("a global_batch of " + std::to_string(config.global_batch) +
                     " cannot be divided into " + std::to_string(config.accumulation) +
                     " micro-steps (accumulation)",
                 "choose an accumulation that divides it");
  if (config.schedule.final_rate > config.optimizer.learning_rate)
    return usage("schedule.final_rate is above optimizer.learning_rate", "lower it");
  if (model == "gpt" && config.model.size.empty() && config.model.width % config.model.heads != 0)
    return usage("model.width = " + std::to_string(config.model.width) +
                     " cannot be divided among model.heads = " + std::to_string(config.model.heads),
                 "choose a width that is a multiple of heads");
  return {};
}

}  // namespace

Result<TrainConfig> LoadConfig(const std::filesystem::path& file,
                               const std::vector<std::string>& settings) {
  std::ifstream in(file, std::ios::binary);
  // A directory can be opened; reading it is what fails.
  if (in) in.peek();
  if (!in && !in.eof())
    return Usage(ErrnoText("open " + file.string()),
                 "name the trainer's configuration with --config FILE");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  TrainConfig config;
  TomlDocument document(text, file.string());
  Apply(document, &config);
  ENVKIT_CHECK(document.Check());
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0)
      return Usage("--set " + setting + ": wants KEY=VALUE", "for example --set epochs=1");
    const std::string value = setting.substr(equals + 1);
    TomlDocument over(
        setting.substr(0, equals) + " = " + (IsTomlValue(value) ? value : Quoted(value)), "--set");
    Apply(over, &config);
    ENVKIT_CHECK(over.Check());
  }
  ENVKIT_CHECK(Combination(config, file.string()));
  return config;
}

std::string ConfigText(const TrainConfig& config) {
  return fmt::format(
      R"(seed = {}
epochs = {}
max_steps = {}
global_batch = {}
accumulation = {}
log_every = {}
evaluate_every = {}
checkpoint_every = {}
keep_checkpoints = {}
keep_best = {}
background_checkpoints = {}
device = "{}"

[optimizer]
name = "{}"
learning_rate = {}
weight_decay = {}
momentum = {}
clip_norm = {}

[schedule]
name = "{}"
warmup_steps = {}
final_rate = {}

[precision]
mixed = "{}"
tf32 = {}

[distributed]
zero_stage = {}
comm_hook = "{}"
activation_checkpointing = {}
cpu_offload = {}

[data]
kind = "{}"
dir = {}
max_shift = {}
max_rotation = {}
max_scaling = {}
augment = {}
size = {}
threads = {}
evaluation_samples = {}

[model]
kind = "{}"
weights = {}
hidden = {}
{}vocabulary = {}
context = {}
layers = {}
heads = {}
width = {}
dropout = {}
)",
      config.seed, config.epochs, config.max_steps, config.global_batch, config.accumulation,
      config.log_every, config.evaluate_every, config.checkpoint_every, config.keep_checkpoints,
      config.keep_best, config.background_checkpoints, config.device, config.optimizer.name,
      config.optimizer.learning_rate, config.optimizer.weight_decay, config.optimizer.momentum,
      config.optimizer.clip_norm, config.schedule.name, config.schedule.warmup_steps,
      config.schedule.final_rate, config.precision.mixed, config.precision.tf32,
      config.distributed.zero_stage, config.distributed.comm_hook,
      config.distributed.activation_checkpointing, config.distributed.cpu_offload, config.data.kind,
      Quoted(config.data.directory), config.data.max_shift, config.data.max_rotation,
      config.data.max_scaling, config.data.augment, config.data.size, config.data.threads,
      config.data.evaluation_samples, config.model.kind, Quoted(config.model.weights),
      config.model.hidden,
      config.model.size.empty() ? "" : "size = \"" + config.model.size + "\"\n",
      config.model.vocabulary, config.model.context, config.model.layers, config.model.heads,
      config.model.width, config.model.dropout);
}

}  // namespace envkit

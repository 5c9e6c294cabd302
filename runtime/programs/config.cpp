#include "config.h"

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
  Take(root.Integer("log_every", 1, kMost), &config->log_every);
  Take(root.Integer("checkpoint_every", 0, kMost), &config->checkpoint_every);
  Take(root.Integer("keep_checkpoints", 1, 1'000'000), &config->keep_checkpoints);
  Take(root.Choice("device", {"auto", "cpu", "cuda"}), &config->device);
  TomlTable optimizer = root.Table("optimizer");
  Take(optimizer.Choice("name", {"adamw"}), &config->optimizer.name);
  Take(optimizer.Number("learning_rate", 0, 1000), &config->optimizer.learning_rate);
  Take(optimizer.Number("weight_decay", 0, 1000), &config->optimizer.weight_decay);
  optimizer.RejectUnknownKeys();
  TomlTable schedule = root.Table("schedule");
  Take(schedule.Choice("name", {"cosine"}), &config->schedule.name);
  Take(schedule.Integer("warmup_steps", 0, kMost), &config->schedule.warmup_steps);
  schedule.RejectUnknownKeys();
  TomlTable data = root.Table("data");
  Take(data.Choice("kind", {"mnist"}), &config->data.kind);
  Take(data.String("dir"), &config->data.directory);
  Take(data.Number("max_shift", 0, 100), &config->data.max_shift);
  Take(data.Number("max_rotation", 0, 180), &config->data.max_rotation);
  Take(data.Number("max_scaling", 0, 0.9), &config->data.max_scaling);
  data.RejectUnknownKeys();
  TomlTable model = root.Table("model");
  Take(model.Choice("kind", {"cnn"}), &config->model.kind);
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
  return config;
}

}  // namespace envkit

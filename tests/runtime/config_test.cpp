// train.toml: what is read, and what is said about what cannot be.
#include "config.h"
#include "memory.h"

#include "helpers.h"

namespace envkit {
namespace {

struct File {
  explicit File(const std::string& text) { WriteFile(scratch / "train.toml", text); }
  Result<TrainConfig> Load(const std::vector<std::string>& settings = {}) const {
    return LoadConfig(scratch / "train.toml", settings);
  }
  // The error's text, with nothing of this machine in it.
  std::string Text(const std::vector<std::string>& settings = {}) const {
    const auto config = Load(settings);
    if (config) return "(no error)";
    CHECK(config.error().code == ExitCode::kUsage);
    std::string text = config.error().Text();
    const std::string folder = scratch.path().string() + "/";
    for (std::size_t at; (at = text.find(folder)) != std::string::npos;)
      text.erase(at, folder.size());
    return text;
  }
  Scratch scratch;
};

TEST_CASE("config: everything that a file may say") {
  const auto config = File(R"(seed = 5
epochs = 6
max_steps = 7
global_batch = 8
accumulation = 4
log_every = 9
evaluate_every = 10
checkpoint_every = 0
keep_checkpoints = 11
keep_best = true
background_checkpoints = false
device = "cpu"
[optimizer]
name = "sgd"
learning_rate = 1
weight_decay = 0.5
momentum = 0.75
clip_norm = 2
[schedule]
name = "linear"
warmup_steps = 12
final_rate = 0.25
[precision]
mixed = "bf16"
tf32 = false
[distributed]
zero_stage = 2
cpu_offload = true
[data]
kind = "mnist"
dir = "somewhere"
max_shift = 1.5
max_rotation = 2.5
max_scaling = 0.5
augment = true
size = 96
threads = 3
evaluation_samples = 13
[model]
kind = "mlp"
weights = "some.safetensors"
hidden = 14
vocabulary = 15
context = 16
layers = 17
heads = 18
width = 19
dropout = 0.5
)")
                          .Load();
  REQUIRE(config);
  CHECK(config->seed == 5);
  CHECK(config->epochs == 6);
  CHECK(config->max_steps == 7);
  CHECK(config->global_batch == 8);
  CHECK(config->log_every == 9);
  CHECK(config->checkpoint_every == 0);
  CHECK(config->keep_checkpoints == 11);
  CHECK(config->device == "cpu");
  CHECK(config->optimizer.learning_rate == 1.0);
  CHECK(config->optimizer.weight_decay == 0.5);
  CHECK(config->schedule.warmup_steps == 12);
  CHECK(config->data.directory == "somewhere");
  CHECK(config->data.max_shift == 1.5);
  CHECK(config->data.max_rotation == 2.5);
  CHECK(config->data.max_scaling == 0.5);
  CHECK(config->accumulation == 4);
  CHECK(config->evaluate_every == 10);
  CHECK(config->keep_best);
  CHECK(!config->background_checkpoints);
  CHECK(config->optimizer.name == "sgd");
  CHECK(config->optimizer.momentum == 0.75);
  CHECK(config->optimizer.clip_norm == 2.0);
  CHECK(config->schedule.name == "linear");
  CHECK(config->schedule.final_rate == 0.25);
  CHECK(config->precision.mixed == "bf16");
  CHECK(!config->precision.tf32);
  CHECK(config->distributed.zero_stage == 2);
  CHECK(config->distributed.cpu_offload);
  CHECK(config->data.augment);
  CHECK(config->data.size == 96);
  CHECK(config->data.threads == 3);
  CHECK(config->data.evaluation_samples == 13);
  CHECK(config->model.kind == "mlp");
  CHECK(config->model.weights == "some.safetensors");
  CHECK(config->model.hidden == 14);
  CHECK(config->model.vocabulary == 15);
  CHECK(config->model.context == 16);
  CHECK(config->model.layers == 17);
  CHECK(config->model.heads == 18);
  CHECK(config->model.width == 19);
  CHECK(config->model.dropout == 0.5);
  // What is stored with a run says all of it again.
  const auto again = File(ConfigText(*config)).Load();
  REQUIRE(again);
  CHECK(ConfigText(*again) == ConfigText(*config));
  const auto defaults = File("").Load();
  REQUIRE(defaults);
  CHECK(defaults->global_batch == 128);
  CHECK(defaults->device == "auto");
}

TEST_CASE("config: all problems of a file at once, where they are") {
  CHECK(File(R"(epochs = 0
global_bacth = 64
device = "gpu"

[optimizer]
learning_rate = "fast"
nesterov = 0.9
)")
            .Text() == R"(train.toml:1:10: error: epochs: 0 is out of range; it is from 1 to 1000000
    1 | epochs = 0
      |          ^
train.toml:2:1: error: unknown key "global_bacth"
    2 | global_bacth = 64
      | ^^^^^^^^^^^^
  did you mean "global_batch"?
train.toml:3:10: error: device is auto, cpu or cuda, not "gpu"
    3 | device = "gpu"
      |          ^^^^^
  did you mean "cpu"?
train.toml:6:17: error: learning_rate: expected a number, got a string
    6 | learning_rate = "fast"
      |                 ^^^^^^
train.toml:7:1: error: unknown key "nesterov" in [optimizer]
    7 | nesterov = 0.9
      | ^^^^^^^^
  known here: name, learning_rate, weight_decay, momentum and clip_norm
)");
}

TEST_CASE("config: values of a wrong type or out of range") {
  CHECK(File("data = 1\n").Text() ==
        R"(train.toml:1:8: error: data: expected a table, got an integer
    1 | data = 1
      |        ^
)");
  CHECK(File("[optimizer]\nlearning_rate = nan\n").Text() ==
        R"(train.toml:2:17: error: learning_rate: nan is out of range; it is from 0 to 1000
    2 | learning_rate = nan
      |                 ^^^
)");
  CHECK(File("[data]\ndir = 5\n").Text() ==
        R"(train.toml:2:7: error: dir: expected a string, got an integer
    2 | dir = 5
      |       ^
  write dir = "5"
)");
  // The rest of these is toml++'s own words.
  CHECK(File("seed = 1\nepochs = three\n")
            .Text()
            .starts_with("train.toml:2:11: error: not valid TOML: "));
}

TEST_CASE("config: --set goes over the file") {
  const File file("epochs = 4\n[data]\ndir = \"there\"\n");
  const auto config = file.Load({"epochs=2", "optimizer.learning_rate=0.5", "data.dir=/some/where",
                                 "device=cpu", "seed=3", "seed=4", R"(model.kind="cnn")"});
  REQUIRE(config);
  CHECK(config->epochs == 2);
  CHECK(config->optimizer.learning_rate == 0.5);
  CHECK(config->data.directory == "/some/where");
  CHECK(config->device == "cpu");
  CHECK(config->seed == 4);
  CHECK(file.Load({R"(data.dir=C:\a "b")"})->data.directory == R"(C:\a "b")");
  CHECK(file.Load({"data.dir="})->data.directory.empty());
  CHECK(file.Load({"data.dir=a=b"})->data.directory == "a=b");

  const std::string shape = "wants KEY=VALUE\n  for example --set epochs=1\n";
  CHECK(file.Text({"epochs"}) == "error: --set epochs: " + shape);
  CHECK(file.Text({"=1"}) == "error: --set =1: " + shape);
  CHECK(file.Text({"epochs=many"}) ==
        R"(--set:1:10: error: epochs: expected an integer, got a string
    1 | epochs = "many"
      |          ^^^^^^
)");
  CHECK(file.Text({"seed=1", "epoch=2"}) == R"(--set:1:1: error: unknown key "epoch"
    1 | epoch = 2
      | ^^^^^
  did you mean "epochs"?
)");
  CHECK(file.Text({"optimizer.learning_rate=-1"}) ==
        R"(--set:1:27: error: learning_rate: -1 is out of range; it is from 0 to 1000
    1 | optimizer.learning_rate = -1
      |                           ^^
)");
  CHECK(file.Text({"a b=1"}).starts_with("--set:1:3: error: not valid TOML: "));
  CHECK(File("epochs = 0\n").Text({"epochs=1"}).starts_with("train.toml:1:10: error: "));
}

TEST_CASE("config: combinations that cannot be") {
  const auto text = [](const std::string& toml) { return File(toml).Text(); };
  CHECK(text("model.kind = \"gpt\"\n") ==
        "error: train.toml: model.kind = \"gpt\" cannot learn from data.kind = \"mnist\"\n"
        "  gpt and tokens belong together\n");
  CHECK(text("distributed.activation_checkpointing = true\n") ==
        "error: train.toml: distributed.activation_checkpointing is for model.kind = \"gpt\"\n"
        "  leave it off for cnn\n");
  CHECK(text("distributed.comm_hook = \"bf16\"\ndistributed.zero_stage = 2\n") ==
        "error: train.toml: distributed.comm_hook is for DDP (distributed.zero_stage = 0)\n"
        "  leave it at \"no\" with shards\n");
  CHECK(text("distributed.cpu_offload = true\n") ==
        "error: train.toml: distributed.cpu_offload needs distributed.zero_stage\n"
        "  set zero_stage to 1, 2 or 3\n");
  CHECK(text("global_batch = 10\naccumulation = 4\n") ==
        "error: train.toml: a global_batch of 10 cannot be divided into 4 micro-steps "
        "(accumulation)\n  choose an accumulation that divides it\n");
  CHECK(text("schedule.final_rate = 1\n") ==
        "error: train.toml: schedule.final_rate is above optimizer.learning_rate\n  lower it\n");
  CHECK(text("data.kind = \"tokens\"\n[model]\nkind = \"gpt\"\nwidth = 10\nheads = 4\n") ==
        "error: train.toml: model.width = 10 cannot be divided among model.heads = 4\n"
        "  choose a width that is a multiple of heads\n");
}

TEST_CASE("config: files that are not there, or are none") {
  const Scratch scratch;
  const auto text = [](const std::filesystem::path& file) {
    const auto config = LoadConfig(file, {});
    REQUIRE(!config);
    CHECK(config.error().code == ExitCode::kUsage);
    return config.error().Text();
  };
  CHECK(text(scratch / "none") == "error: open " + (scratch / "none").string() +
                                      ": No such file or directory\n"
                                      "  name the trainer's configuration with --config FILE\n");
  CHECK(text(scratch.path()) == "error: open " + scratch.path().string() +
                                    ": Is a directory\n"
                                    "  name the trainer's configuration with --config FILE\n");
}

TEST_CASE("out of memory: what LibTorch says, and what needs less") {
  // As c10's CPU allocator and CUDA's caching allocator say it.
  const std::runtime_error host(
      "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
      "you tried to "
      "allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)");
  const std::runtime_error gpu(
      "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 "
      "GiB.\nException raised "
      "from malloc");
  CHECK(IsOutOfMemory(host));
  CHECK(IsOutOfMemory(gpu));
  CHECK(IsOutOfMemory(std::bad_alloc()));
  CHECK(!IsOutOfMemory(std::runtime_error("the shapes differ")));
  TrainConfig config;
  config.global_batch = 96;
  config.accumulation = 2;
  CHECK(OutOfMemory(std::bad_alloc(), config, 2).Text() ==
        R"(error: the host has no more memory for this rank
  any of these needs less:
    --set accumulation=4                           12 samples of a rank at a time instead of 24; the same global batch of 96
    --set distributed.zero_stage=1                 each rank keeps one of 2 shards: optimizer state
)");
  config.model.kind = "gpt";
  config.global_batch = 6;
  config.distributed.zero_stage = 2;
  CHECK(
      OutOfMemory(gpu, config, 1).Text() ==
      R"(error: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB.
  any of these needs less:
    --set accumulation=6                           1 samples of a rank at a time instead of 3; the same global batch of 6
    --set distributed.activation_checkpointing=true layers are computed again in backward
    --set distributed.cpu_offload=true             optimizer state in the host's memory
)");
  config.model.kind = "mlp";
  config.accumulation = 6;
  CHECK(OutOfMemory(host, config, 1).next == "use more ranks, or a smaller model");
}

}  // namespace
}  // namespace envkit

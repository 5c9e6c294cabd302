#include "launch/save_config.h"

#include <doctest/doctest.h>

#include <deque>

#include "base/files.h"
#include "base/scratch.h"
#include "launch/yaml.h"

namespace envkit {
namespace {

// Answers by the start of the question; an empty line for the others. Counts what was asked.
struct Answers {
  std::map<std::string, std::string> lines;
  std::vector<std::string> asked;
  AskLine Ask() {
    return [this](const std::string& question) -> std::optional<std::string> {
      asked.push_back(question);
      for (const auto& [start, line] : lines) {
        if (question.find(start) == 0) return line;
      }
      return "";
    };
  }
};

SavedConfig Ask(std::map<std::string, std::string> lines, int gpus = 0) {
  Answers answers{std::move(lines), {}};
  const auto config = AskConfig({}, gpus, answers.Ask());
  REQUIRE(config);
  return *config;
}

// What our own reader makes of the file: it must know every key and take every value.
Settings Read(const SavedConfig& config) {
  const Scratch scratch;
  ConfigPlaces places;
  places.project = scratch / "config.yaml";
  REQUIRE(WriteConfig(places.project, YamlText(config)));
  std::vector<std::string> notes;
  const auto settings = ReadSettings({}, {}, places, notes);
  if (!settings) FAIL(settings.error().Text());
  return *settings;
}

std::string Refused(const FlagValues& flags, const std::map<std::string, std::string>& lines = {}) {
  Answers answers{lines, {}};
  const auto config = AskConfig(flags, 0, answers.Ask());
  return config ? "no error" : config.error().Text();
}

}  // namespace

TEST_CASE("nobody to ask: accelerate's defaults, in its own order") {
  const auto config = AskConfig({}, 0, {});
  REQUIRE(config);
  CHECK(YamlText(*config) == R"(compute_environment: LOCAL_MACHINE
debug: false
distributed_type: 'NO'
downcast_bf16: 'no'
enable_cpu_affinity: false
gpu_ids: all
machine_rank: 0
main_training_function: main
mixed_precision: 'no'
num_machines: 1
num_processes: 1
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
)");
  CHECK(Read(*config).Get("num_processes") == "1");
}

TEST_CASE("several GPUs are the default where there are several") {
  const auto config = AskConfig({}, 4, {});
  REQUIRE(config);
  CHECK(config->processes == 4);
  CHECK(Read(*config).On("multi_gpu"));
  CHECK(Read(*config).Get("num_processes") == "4");
}

TEST_CASE("flags answer their questions, and the others are asked") {
  Answers answers;
  const auto config = AskConfig({{"cpu", {"True", "--cpu"}},
                                 {"num_processes", {"4", "--num-processes"}},
                                 {"mixed_precision", {"bf16", "--mixed-precision"}}},
                                0, answers.Ask());
  REQUIRE(config);
  const Settings settings = Read(*config);
  CHECK(settings.On("cpu"));
  CHECK(settings.Get("num_processes") == "4");
  CHECK(settings.Get("mixed_precision") == "bf16");
  CHECK(answers.asked ==
        std::vector<std::string>{"how many machines [1]: ",
                                 "check distributed operations while running (slower, finds what "
                                 "hangs) [no]: ",
                                 "optimise the script with torch dynamo [no]: "});
}

TEST_CASE("several machines") {
  const SavedConfig config = Ask({{"what trains", "several GPUs"},
                                  {"how many machines", "2"},
                                  {"which of them", "1"},
                                  {"address of machine 0", "10.0.0.1"},
                                  {"port at which", "29501"},
                                  {"all on one", "no"},
                                  {"rendezvous backend", "c10d"},
                                  {"GPUs, on all", "16"}},
                                 8);
  CHECK(config.processes == 8);
  const Settings settings = Read(config);
  CHECK(settings.Get("nnodes") == "2");
  CHECK(settings.Get("node_rank") == "1");
  CHECK(settings.Get("master_addr") == "10.0.0.1");
  CHECK(settings.Get("master_port") == "29501");
  CHECK(settings.Get("rdzv_backend") == "c10d");
  CHECK(settings.Get("num_processes") == "16");
}

TEST_CASE("every branch is read back as it was answered") {
  SUBCASE("FSDP 2 with more kinds of parallelism, and dynamo") {
    const Settings settings = Read(Ask({{"FullyShardedDataParallel", "yes"},
                                        {"class names of the layers", "BertLayer,GPTJBlock"},
                                        {"more kinds of parallelism", "yes"},
                                        {"context parallelism", "2"},
                                        {"how context", "alltoall"},
                                        {"optimise", "y"},
                                        {"change what torch.compile", "y"},
                                        {"mode", "max-autotune"}},
                                       2));
    CHECK(settings.On("use_fsdp"));
    CHECK(settings.Get("fsdp_version") == "2");
    CHECK(settings.Get("fsdp_transformer_layer_cls_to_wrap") == "BertLayer,GPTJBlock");
    CHECK(settings.Get("fsdp_reshard_after_forward") == "True");
    CHECK(settings.Get("fsdp_state_dict_type") == "SHARDED_STATE_DICT");
    CHECK(settings.On("use_parallelism_config"));
    CHECK(settings.Get("parallelism_config_cp_size") == "2");
    CHECK(settings.Get("parallelism_config_cp_comm_strategy") == "alltoall");
    CHECK(settings.Get("dynamo_backend") == "INDUCTOR");
    CHECK(settings.Get("dynamo_mode") == "max-autotune");
  }
  SUBCASE("FSDP 1, by the menu's numbers") {
    const Settings settings = Read(Ask({{"FullyShardedDataParallel", "yes"},
                                        {"FSDP version", "1"},
                                        {"sharding strategy", "3"},
                                        {"auto wrap policy", "SIZE_BASED_WRAP"},
                                        {"least number", "2000"},
                                        {"load models", "no"},
                                        {"broadcast", "no"}},
                                       2));
    CHECK(settings.Get("fsdp_version") == "1");
    CHECK(settings.Get("fsdp_reshard_after_forward") == "HYBRID_SHARD");
    CHECK(settings.Get("fsdp_min_num_params") == "2000");
    CHECK(settings.Get("fsdp_sync_module_states") == "False");
  }
  SUBCASE("DeepSpeed") {
    const Settings settings = Read(Ask({{"DeepSpeed [", "yes"},
                                        {"ZeRO stage", "3"},
                                        {"where to offload the param", "nvme"},
                                        {"path on the NVMe", "/scratch/my disk"},
                                        {"clip gradients", "yes"},
                                        {"to which norm", "0.5"},
                                        {"mixture", "yes"},
                                        {"class names of the MoE", "JetMoEBlock"}},
                                       2));
    CHECK(settings.On("use_deepspeed"));
    CHECK(settings.Get("zero_stage") == "3");
    CHECK(settings.Get("offload_param_nvme_path") == "/scratch/my disk");
    CHECK(settings.Get("gradient_clipping") == "0.5");
    CHECK(settings.Get("deepspeed_moe_layer_cls_names") == "JetMoEBlock");
  }
  SUBCASE("Megatron-LM") {
    const Settings settings = Read(Ask(
        {{"Megatron-LM", "yes"}, {"tensor parallelism", "2"}, {"pipeline", "2"}, {"micro", "4"}},
        4));
    CHECK(settings.On("use_megatron_lm"));
    CHECK(settings.Get("megatron_lm_tp_degree") == "2");
    CHECK(settings.On("megatron_lm_sequence_parallelism"));
    CHECK(settings.Get("megatron_lm_num_micro_batches") == "4");
  }
  SUBCASE("FP8") {
    for (const char* backend : {"ao", "te", "msamp"}) {
      const Settings settings =
          Read(Ask({{"mixed precision", "fp8"}, {"FP8 backend", backend}}, 1));
      CHECK(settings.Get("mixed_precision") == "fp8");
      CHECK(settings.Get("fp8_backend") == backend);
    }
  }
}

TEST_CASE("a wrong answer is asked for again") {
  std::deque<std::string> lines{"what?", "several CPU processes", "0", "1", "perhaps", ""};
  std::vector<std::string> asked;
  const auto config = AskConfig({}, 0, [&](const std::string& question) {
    asked.push_back(question);
    std::optional<std::string> line = "";
    if (!lines.empty()) {
      line = lines.front();
      lines.pop_front();
    }
    return line;
  });
  REQUIRE(config);
  CHECK(asked[1] ==
        "'what?' is none of one process, several CPU processes and several GPUs\n"
        "what trains (one process, several CPU processes or several GPUs) [one process]: ");
  CHECK(asked[3] == "'0' is not a number of 1 or more\nhow many machines [1]: ");
  CHECK(asked[5].find("'perhaps' is neither yes nor no\ncheck distributed") == 0);
  CHECK(config->processes == 2);
}

TEST_CASE("what cannot be saved") {
  CHECK(Refused({{"nnodes", {"2", "--nnodes"}}}) ==
        "error: address of machine 0: there was no answer, and none to assume\n"
        "  Say it with --main-process-ip ADDRESS.\n");
  CHECK(Refused({{"nnodes", {"2", "--nnodes"}},
                 {"master_addr", {"a", "--main-process-ip"}},
                 {"num_processes", {"3", "--num-processes"}}}) ==
        "error: 3 processes cannot be shared out evenly to 2 machines\n");
  CHECK(Refused({{"num_processes", {"many", "--num-processes"}}}) ==
        "error: --num-processes: 'many' is not a number of 1 or more\n");
}

TEST_CASE("envkit.toml gets its part, and keeps the rest") {
  SavedConfig config;
  config.processes = 4;
  CHECK(WithConfig("[jobs.train]\ncommand = [\"a\"]\nprocesses = \"auto\"  # one per GPU\n\n"
                   "[jobs.eval]\nprocesses = 1\n",
                   "train", config) ==
        "[jobs.train]\ncommand = [\"a\"]\nprocesses = 4\n\n[jobs.eval]\nprocesses = 1\n");
  CHECK(WithConfig("[jobs.train]\ncommand = [\"a\"]", "train", config) ==
        "[jobs.train]\nprocesses = 4\ncommand = [\"a\"]");
  CHECK_FALSE(WithConfig("[jobs.eval]\n", "train", config));
  CHECK_FALSE(WithConfig("", "train", config));
  config.gpus = "0,2";
  CHECK(WithConfig("[run]\ngpus = \"all\"\n[jobs.train]\n", "train", config) ==
        "[run]\ngpus = \"0,2\"\n[jobs.train]\nprocesses = 4\n");
  CHECK(WithConfig("[jobs.train]\nprocesses = 2\n", "train", config) ==
        "[jobs.train]\nprocesses = 4\n\n[run]\ngpus = \"0,2\"\n");
}

}  // namespace envkit

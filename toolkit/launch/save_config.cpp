#include "launch/save_config.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <vector>

#include "base/text.h"
#include "launch/process.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

bool IsWhole(const std::string& text, int least) {
  int number = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && at == end && number >= least;
}

bool IsDecimal(const std::string& text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && at == end && number >= 0;
}

// Single quotes where YAML would take the word for something else than a string.
std::string YamlString(const std::string& text) {
  const std::string lower = Lower(text);
  bool plain = !text.empty() && text.find_first_of("'\"\\#:,[]{}&*!|>%@` ") == std::string::npos &&
               text.front() != '-' && text.front() != '?' && text.front() != '~';
  for (const char* word : {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}) {
    plain &= lower != word;
  }
  plain = plain && std::string_view("0123456789.+").find(text.front()) == std::string_view::npos;
  if (plain) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "''" : std::string(1, c);
  return quoted + "'";
}

// One question after the other. The first wrong answer that nobody can mend ends in `problem`.
class Questions {
 public:
  Questions(const FlagValues& flags, const AskLine& ask) : flags_(flags), ask_(ask) {}

  using Check = std::function<std::string(const std::string&)>;  // what is wrong; "": nothing

  // The answer to QUESTION: SETTING's flag, else the user's line, else FALLBACK.
  std::string Text(const std::string& setting, const std::string& question,
                   const std::string& fallback, const Check& check = {}) {
    if (const auto flag = flags_.find(setting); flag != flags_.end()) {
      const std::string wrong = check ? check(flag->second.first) : "";
      if (!wrong.empty()) Problem(fmt::format("{}: {}", flag->second.second, wrong));
      return flag->second.first;
    }
    std::string wrong;
    while (ask_ && !ended_) {
      const std::string choice = fallback.empty() ? "" : fmt::format(" [{}]", fallback);
      const auto line = ask_(fmt::format("{}{}{}: ", wrong, question, choice));
      ended_ = !line;
      if (!line || line->empty()) break;
      wrong = check ? check(*line) : "";
      if (wrong.empty()) return *line;
      wrong += "\n";
    }
    return fallback;
  }
  std::string Needed(const std::string& setting, const std::string& question,
                     const std::string& flag) {
    std::string text = Text(setting, question, "");
    if (text.empty()) Problem(fmt::format("{}: there was no answer, and none to assume", question));
    if (text.empty()) next_ = fmt::format("Say it with {}.", flag);
    return text;
  }
  int Number(const std::string& setting, const std::string& question, int fallback, int least = 1) {
    const std::string text = Text(setting, question, std::to_string(fallback), [&](auto& line) {
      return IsWhole(line, least) ? ""
                                  : fmt::format("'{}' is not a number of {} or more", line, least);
    });
    return std::atoi(text.c_str());
  }
  std::string Decimal(const std::string& setting, const std::string& question,
                      const std::string& fallback) {
    return Text(setting, question, fallback, [](auto& line) {
      return IsDecimal(line) ? "" : fmt::format("'{}' is not a number", line);
    });
  }
  bool YesNo(const std::string& setting, const std::string& question, bool fallback) {
    const std::string text =
        Lower(Text(setting, question, fallback ? "yes" : "no", [](auto& line) -> std::string {
          const std::string word = Lower(line);
          for (const char* one : {"yes", "no", "y", "n", "true", "false", "1", "0"}) {
            if (word == one) return "";
          }
          return fmt::format("'{}' is neither yes nor no", line);
        }));
    return text == "yes" || text == "y" || text == "true" || text == "1";
  }
  // By its name in any case, or by its number from 0 on, as accelerate's menu has it.
  std::string Choice(const std::string& setting, const std::string& question,
                     const std::vector<std::string>& options, std::size_t fallback = 0) {
    const auto find = [&](const std::string& line) -> std::size_t {
      for (std::size_t i = 0; i < options.size(); ++i) {
        if (Lower(line) == Lower(options[i])) return i;
      }
      return IsWhole(line, 0) ? static_cast<std::size_t>(std::atoi(line.c_str())) : options.size();
    };
    const std::string text =
        Text(setting, fmt::format("{} ({})", question, JoinOr(options)), options[fallback],
             [&](auto& line) {
               return find(line) < options.size()
                          ? ""
                          : fmt::format("'{}' is none of {}", line, JoinOr(options, "and"));
             });
    return options[std::min(find(text), options.size() - 1)];
  }
  bool Said(const std::string& setting) const { return flags_.contains(setting); }
  void Problem(std::string text) {
    if (problem_.empty()) problem_ = std::move(text);
  }
  Result<void> Over() const {
    if (problem_.empty()) return {};
    return Usage(problem_, next_);
  }

 private:
  const FlagValues& flags_;
  const AskLine& ask_;
  bool ended_ = false;
  std::string problem_, next_;
};

constexpr const char* kBool[] = {"false", "true"};

void AskNodes(Questions& ask, SavedConfig& config, int& nodes) {
  nodes = ask.Number("nnodes", "how many machines", 1);
  if (nodes > 1) {
    const int rank = ask.Number("node_rank", "which of them is this one, from 0 on", 0, 0);
    if (rank >= nodes) ask.Problem(fmt::format("machine {}, but there are only {}", rank, nodes));
    config.top["machine_rank"] = std::to_string(rank);
    config.top["main_process_ip"] =
        YamlString(ask.Needed("master_addr", "address of machine 0", "--main-process-ip ADDRESS"));
    config.top["main_process_port"] =
        std::to_string(ask.Number("master_port", "port at which machine 0 listens", 29'500));
    if (!ask.YesNo("same_network", "all on one local network", true)) {
      config.top["same_network"] = "false";
      config.top["rdzv_backend"] =
          ask.Choice("rdzv_backend", "rendezvous backend", {"static", "c10d"});
    } else if (ask.Said("rdzv_backend")) {
      config.top["rdzv_backend"] =
          ask.Choice("rdzv_backend", "rendezvous backend", {"static", "c10d"});
    }
  }
  config.top["num_machines"] = std::to_string(nodes);
  config.top["debug"] = kBool[ask.YesNo(
      "debug", "check distributed operations while running (slower, finds what hangs)", false)];
}

void AskDynamo(Questions& ask, SavedConfig& config) {
  const bool said = ask.Said("dynamo_backend");
  if (!said && !ask.YesNo("", "optimise the script with torch dynamo", false)) return;
  auto& section = config.sections["dynamo_config"];
  const std::string backend = ask.Choice(
      "dynamo_backend", "dynamo backend",
      {"no", "eager", "aot_eager", "inductor", "aot_ts_nvfuser", "nvprims_nvfuser", "cudagraphs",
       "ofi", "fx2trt", "onnxrt", "tensorrt", "aot_torchxla_trace_once", "tvm"},
      3);
  section["dynamo_backend"] = backend;
  std::transform(backend.begin(), backend.end(), section["dynamo_backend"].begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (backend == "no") section["dynamo_backend"] = "'NO'";
  const bool more = ask.Said("dynamo_mode") || ask.Said("dynamo_use_dynamic") ||
                    ask.Said("dynamo_use_fullgraph") || ask.Said("dynamo_use_regional_compilation");
  if (!more && !ask.YesNo("", "change what torch.compile gets", false)) return;
  section["dynamo_mode"] =
      ask.Choice("dynamo_mode", "mode", {"default", "reduce-overhead", "max-autotune"});
  section["dynamo_use_fullgraph"] =
      kBool[ask.YesNo("dynamo_use_fullgraph", "the whole graph or an error", false)];
  section["dynamo_use_dynamic"] =
      kBool[ask.YesNo("dynamo_use_dynamic", "trace dynamic shapes", false)];
  section["dynamo_use_regional_compilation"] =
      kBool[ask.YesNo("dynamo_use_regional_compilation", "compile by regions", false)];
}

// True: a DeepSpeed config file decides, the precision too.
bool AskDeepSpeed(Questions& ask, SavedConfig& config) {
  auto& section = config.sections["deepspeed_config"];
  const bool by_file =
      ask.Said("deepspeed_config_file") || ask.YesNo("", "a DeepSpeed config file", false);
  if (by_file) {
    section["deepspeed_config_file"] = YamlString(
        ask.Needed("deepspeed_config_file", "path of that file", "--deepspeed-config-file FILE"));
  } else {
    const std::string stage = ask.Choice("zero_stage", "ZeRO stage", {"0", "1", "2", "3"}, 2);
    section["zero_stage"] = stage;
    if (stage >= "2") {
      for (const char* what : {"optimizer", "param"}) {
        const std::string device = fmt::format("offload_{}_device", what);
        const std::string path = fmt::format("offload_{}_nvme_path", what);
        section[device] = ask.Choice(device, fmt::format("where to offload the {} states", what),
                                     {"none", "cpu", "nvme"});
        if (section[device] != "nvme") continue;
        section[path] = YamlString(ask.Text(path, "path on the NVMe disk", "/nvme"));
      }
    }
    section["gradient_accumulation_steps"] =
        std::to_string(ask.Number("gradient_accumulation_steps", "gradient accumulation steps", 1));
    if (ask.Said("gradient_clipping") || ask.YesNo("", "clip gradients", false)) {
      section["gradient_clipping"] = ask.Decimal("gradient_clipping", "to which norm", "1.0");
    }
    if (stage == "3") {
      section["zero3_save_16bit_model"] =
          kBool[ask.YesNo("zero3_save_16bit_model", "save 16-bit weights with stage 3", false)];
    }
  }
  section["zero3_init_flag"] =
      kBool[ask.YesNo("zero3_init_flag", "deepspeed.zero.Init, for huge models", false)];
  const char* const moe = "deepspeed_moe_layer_cls_names";
  if (ask.Said(moe) || ask.YesNo("", "mixture of experts", false)) {
    section[moe] = YamlString(ask.Needed(moe, "class names of the MoE layers, with commas",
                                         "--deepspeed-moe-layer-cls-names NAMES"));
  }
  return by_file;
}

void AskFsdp(Questions& ask, SavedConfig& config) {
  auto& section = config.sections["fsdp_config"];
  const bool first = ask.Choice("fsdp_version", "FSDP version", {"1", "2"}, 1) == "1";
  const auto yes = [&](const char* name, const char* question, bool fallback) {
    section[name] = kBool[ask.YesNo(name, question, fallback)];
    return section[name] == "true";
  };
  section["fsdp_version"] = first ? "1" : "2";
  if (first) {
    section["fsdp_reshard_after_forward"] = ask.Choice(
        "fsdp_sharding_strategy", "sharding strategy",
        {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"});
  } else {
    yes("fsdp_reshard_after_forward", "reshard after forward", true);
  }
  yes("fsdp_offload_params", "offload parameters and gradients to the CPU", false);
  const std::string policy = ask.Choice("fsdp_auto_wrap_policy", "auto wrap policy",
                                        {"TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"});
  section["fsdp_auto_wrap_policy"] = policy;
  const char* const layers = "fsdp_transformer_layer_cls_to_wrap";
  if (policy == "TRANSFORMER_BASED_WRAP") {
    const std::string names = ask.Text(
        layers, "class names of the layers to wrap, with commas; empty: the model's own", "");
    if (!names.empty()) section[layers] = YamlString(names);
  } else if (policy == "SIZE_BASED_WRAP") {
    section["fsdp_min_num_params"] = std::to_string(
        ask.Number("fsdp_min_num_params", "least number of parameters", 100'000'000, 0));
  }
  if (first) {
    section["fsdp_backward_prefetch"] =
        ask.Choice("fsdp_backward_prefetch", "backward prefetch",
                   {"BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"});
  }
  section["fsdp_state_dict_type"] =
      first ? ask.Choice("fsdp_state_dict_type", "state dict type",
                         {"FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT"})
            : ask.Choice("fsdp_state_dict_type", "state dict type",
                         {"SHARDED_STATE_DICT", "FULL_STATE_DICT"});
  if (first) {
    yes("fsdp_forward_prefetch", "forward prefetch", false);
    yes("fsdp_use_orig_params", "use_orig_params", true);
  }
  const bool efficient = yes("fsdp_cpu_ram_efficient_loading",
                             "load models with little memory (Transformers only)", true);
  if (first && efficient) {
    section["fsdp_sync_module_states"] = "true";  // only the first rank has the weights
  } else if (first) {
    yes("fsdp_sync_module_states", "broadcast parameters from rank 0 at the start", true);
  }
  yes("fsdp_activation_checkpointing", "activation checkpointing", false);
  if (first ||
      (!ask.Said("use_parallelism_config") && !ask.YesNo("", "more kinds of parallelism", false))) {
    return;
  }
  auto& more = config.sections["parallelism_config"];
  for (const auto& [name, what] : {std::pair{"dp_replicate", "data parallelism: replicas"},
                                   {"dp_shard", "FSDP: shards"},
                                   {"tp", "tensor parallelism"},
                                   {"cp", "context parallelism"}}) {
    const std::string key = fmt::format("parallelism_config_{}_size", name);
    more[key] = std::to_string(ask.Number(key, what, 1));
  }
  if (more["parallelism_config_cp_size"] != "1") {
    const char* const key = "parallelism_config_cp_comm_strategy";
    more[key] = ask.Choice(key, "how context parallelism communicates", {"allgather", "alltoall"});
  }
}

void AskMegatron(Questions& ask, SavedConfig& config) {
  auto& section = config.sections["megatron_lm_config"];
  const auto number = [&](const char* name, const char* question) {
    section[name] = std::to_string(ask.Number(name, question, 1));
    return section[name] != "1";
  };
  const auto yes = [&](const char* name, const char* question) {
    section[name] = kBool[ask.YesNo(name, question, true)];
  };
  if (number("megatron_lm_tp_degree", "tensor parallelism")) {
    yes("megatron_lm_sequence_parallelism", "sequence parallelism");
  }
  if (number("megatron_lm_pp_degree", "pipeline parallelism")) {
    number("megatron_lm_num_micro_batches", "micro-batches");
  }
  yes("megatron_lm_recompute_activations", "recompute activations selectively");
  yes("megatron_lm_use_distributed_optimizer", "distributed optimiser");
  section["megatron_lm_gradient_clipping"] =
      ask.Decimal("megatron_lm_gradient_clipping", "gradient norm to clip to; 0: none", "1.0");
}

void AskFp8(Questions& ask, SavedConfig& config) {
  auto& section = config.sections["fp8_config"];
  const std::string backend = ask.Choice("fp8_backend", "FP8 backend", {"ao", "te", "msamp"});
  section["fp8_backend"] = backend;
  const auto yes = [&](const char* name, const char* question, bool fallback) {
    section[name] = kBool[ask.YesNo(name, question, fallback)];
  };
  if (backend == "ao") {
    yes("fp8_enable_fsdp_float8_all_gather", "float8 all-gather of FSDP 2", true);
    yes("fp8_pad_inner_dim", "pad the inner dimension of matrices", true);
  } else if (backend == "msamp") {
    section["fp8_opt_level"] = ask.Choice("fp8_opt_level", "optimisation level", {"O1", "O2"}, 1);
  } else {
    yes("fp8_use_autocast_during_eval", "FP8 in evaluation too", false);
    section["fp8_margin"] = std::to_string(ask.Number("fp8_margin", "margin", 0, 0));
    section["fp8_interval"] = std::to_string(ask.Number("fp8_interval", "interval", 1));
    section["fp8_format"] = ask.Choice("fp8_format", "format", {"HYBRID", "E4M3", "E5M2"});
    section["fp8_amax_history_len"] =
        std::to_string(ask.Number("fp8_amax_history_len", "length of the amax history", 1024));
    section["fp8_amax_compute_algo"] =
        ask.Choice("fp8_amax_compute_algo", "amax algorithm", {"max", "most_recent"});
  }
}

// Where in TEXT the table [NAME] begins (behind its line) and ends.
std::optional<std::pair<std::size_t, std::size_t>> FindTable(const std::string& text,
                                                             const std::string& name) {
  std::optional<std::size_t> begin;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    line.erase(0, line.find_first_not_of(" \t"));
    if (line.starts_with('[')) {
      if (begin) return {{*begin, at}};
      line.resize(std::min(line.find(']'), line.size()));
      if (line == "[" + name) begin = std::min(end + 1, text.size());
    }
    at = end + 1;
  }
  if (!begin) return std::nullopt;
  return {{*begin, text.size()}};
}

// Sets KEY of the table [NAME], in its line where it has one, else in the table's first. A comment
// behind the old value goes: it was about that.
void SetKey(std::string& text, const std::string& name, const std::string& key,
            const std::string& value) {
  const auto table = FindTable(text, name);
  const std::string line = fmt::format("{} = {}\n", key, value);
  if (!table) {
    if (!text.empty() && !text.ends_with('\n')) text += '\n';
    text += fmt::format("\n[{}]\n{}", name, line);
    return;
  }
  for (std::size_t at = table->first; at < table->second;) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string old = text.substr(at, end - at);
    const std::size_t equals = old.find('=');
    const std::string word = old.substr(
        0, equals == std::string::npos ? 0 : old.find_last_not_of(" \t", equals - 1) + 1);
    if (equals != std::string::npos && word == key) {
      text.replace(at, std::min(end + 1, text.size()) - at, line);
      return;
    }
    at = end + 1;
  }
  if (table->first > 0 && text[table->first - 1] != '\n') text.insert(table->first, "\n");
  text.insert(FindTable(text, name)->first, line);
}

// The names of the jobs that TEXT has, in their order.
std::vector<std::string> JobsOf(const std::string& text) {
  std::vector<std::string> jobs;
  constexpr std::string_view kHead = "[jobs.";
  for (std::size_t at = 0; at < text.size(); at = std::min(text.find('\n', at), text.size()) + 1) {
    if (text.compare(at, kHead.size(), kHead) != 0) continue;
    const std::size_t end = text.find(']', at);
    const std::string name = text.substr(at + kHead.size(), end - at - kHead.size());
    if (end != std::string::npos && name.find('.') == std::string::npos) jobs.push_back(name);
  }
  return jobs;
}

}  // namespace

Result<SavedConfig> AskConfig(const FlagValues& flags, int gpus, const AskLine& line) {
  Questions ask(flags, line);
  SavedConfig config;
  config.top = {{"compute_environment", "LOCAL_MACHINE"},
                {"downcast_bf16", "'no'"},
                {"enable_cpu_affinity", "false"},
                {"machine_rank", "0"},
                {"main_training_function", "main"},
                {"rdzv_backend", "static"},
                {"same_network", "true"},
                {"tpu_env", "[]"},
                {"tpu_use_cluster", "false"},
                {"tpu_use_sudo", "false"},
                {"debug", "false"}};
  const std::vector<std::string> kinds{"one process", "several CPU processes", "several GPUs"};
  const auto any = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return ask.Said(n); });
  };
  const bool several = any(
      {"num_processes", "nproc_per_node", "nnodes", "multi_gpu", "use_fsdp", "use_megatron_lm"});
  std::string kind = kinds[any({"cpu"}) && several ? 1 : several || gpus > 1 ? 2 : 0];
  if (!several && !any({"cpu", "use_deepspeed"})) {
    const auto at =
        static_cast<std::size_t>(std::find(kinds.begin(), kinds.end(), kind) - kinds.begin());
    kind = ask.Choice("", "what trains", kinds, at);
  }
  const bool one = kind == kinds[0];
  int nodes = 1;
  config.top["num_machines"] = "1";
  if (!one) AskNodes(ask, config, nodes);
  const bool cpu =
      kind == kinds[1] || (one && ask.YesNo("cpu", "on the CPU, though there may be a GPU", false));
  config.top["use_cpu"] = kBool[cpu];
  AskDynamo(ask, config);
  std::string type = one ? "'NO'" : cpu ? "MULTI_CPU" : "MULTI_GPU";
  bool precision_elsewhere = false;
  const bool open = !cpu && !any({"use_fsdp", "use_megatron_lm", "multi_gpu"});
  if (!cpu && (any({"use_deepspeed"}) || (open && ask.YesNo("", "DeepSpeed", false)))) {
    type = "DEEPSPEED";
    precision_elsewhere = AskDeepSpeed(ask, config);
  } else if (!cpu && !one &&
             (any({"use_fsdp"}) || (open && ask.YesNo("", "FullyShardedDataParallel", false)))) {
    type = "FSDP";
    AskFsdp(ask, config);
  } else if (!cpu && !one &&
             (any({"use_megatron_lm"}) || (open && ask.YesNo("", "Megatron-LM", false)))) {
    type = "MEGATRON_LM";
    AskMegatron(ask, config);
  }
  config.top["distributed_type"] = type;
  if (!one || type == "DEEPSPEED") {
    const int usual = cpu ? 2 : std::max(gpus, 1);
    if (ask.Said("nproc_per_node")) {
      config.processes = ask.Number("nproc_per_node", "processes on each machine", usual);
    } else {
      const int all =
          ask.Number("num_processes",
                     cpu ? "processes, on all machines together" : "GPUs, on all machines together",
                     usual * nodes);
      config.processes = all / nodes;
      if (all % nodes != 0) {
        ask.Problem(
            fmt::format("{} processes cannot be shared out evenly to {} machines", all, nodes));
      }
    }
  }
  config.top["num_processes"] = std::to_string(config.processes * nodes);
  if (!cpu) {
    config.gpus =
        ask.Text("gpu_ids", "which GPUs of this machine, with commas", "all",
                 [](const std::string& line) -> std::string {
                   const bool good =
                       line == "all" || line.find_first_not_of("0123456789, ") == std::string::npos;
                   return good ? "" : fmt::format("'{}' names no GPUs", line);
                 });
    std::erase(config.gpus, ' ');
    config.top["gpu_ids"] = YamlString(config.gpus);
    if (type == "'NO'" || type == "MULTI_GPU") {
      config.top["enable_cpu_affinity"] = kBool[ask.YesNo(
          "enable_cpu_affinity", "bind processes to the CPUs near their GPU", false)];
    }
  }
  if (!precision_elsewhere) {
    const std::string precision =
        ask.Choice("mixed_precision", "mixed precision", {"no", "fp16", "bf16", "fp8"});
    config.top["mixed_precision"] = YamlString(precision);
    if (precision == "fp8") AskFp8(ask, config);
  }
  ENVKIT_CHECK(ask.Over());
  return config;
}

std::string YamlText(const SavedConfig& config) {
  std::map<std::string, std::string> blocks;
  for (const auto& [key, value] : config.top) blocks[key] = fmt::format("{}: {}\n", key, value);
  for (const auto& [name, values] : config.sections) {
    std::string& block = blocks[name] = name + ":\n";
    for (const auto& [key, value] : values) block += fmt::format("  {}: {}\n", key, value);
  }
  std::string text;
  for (const auto& [key, block] : blocks) text += block;
  return text;
}

std::optional<std::string> WithConfig(const std::string& text, const std::string& job,
                                      const SavedConfig& config) {
  const std::string name = "jobs." + job;
  if (!FindTable(text, name)) return std::nullopt;
  std::string changed = text;
  SetKey(changed, name, "processes", std::to_string(config.processes));
  // Nothing said of GPUs leaves the project's own choice.
  if (config.gpus != "all") SetKey(changed, "run", "gpus", fmt::format("\"{}\"", config.gpus));
  return changed;
}

Result<void> WriteConfig(const fs::path& file, const std::string& text) {
  std::error_code error;
  if (file.has_parent_path()) fs::create_directories(file.parent_path(), error);
  const fs::path temporary =
      file.parent_path() / fmt::format(".{}.{}", file.filename().string(), getpid());
  const Fd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  const bool written =
      fd && write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (written && rename(temporary.c_str(), file.c_str()) == 0) return {};
  const int why = errno;
  unlink(temporary.c_str());
  return Usage(fmt::format("cannot write {}: {}", file.string(), std::strerror(why)),
               "Name another file with --config-file.");
}

Result<std::string> SaveConfig(const FlagValues& flags, int gpus, const AskLine& line) {
  ENVKIT_TRY(const SavedConfig config, AskConfig(flags, gpus, line));
  const auto named = flags.find("config_file");
  const fs::path file = named == flags.end() ? ".accelerate/config.yaml" : named->second.first;
  ENVKIT_CHECK(WriteConfig(file, YamlText(config)));
  std::string said = fmt::format("saved    {}: accelerate launch and envkit launch read it{}\n",
                                 file.string(), named == flags.end() ? "" : " with --config-file");
  const std::string part = fmt::format("processes = {}", config.processes);
  std::ifstream in("envkit.toml", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::vector<std::string> jobs = JobsOf(text);
  Questions ask(flags, line);
  const std::string job = jobs.size() < 2 ? (jobs.empty() ? "train" : jobs.front())
                                          : ask.Choice("", "which job of envkit.toml", jobs);
  if (const auto changed = WithConfig(text, job, config)) {
    ENVKIT_CHECK(WriteConfig("envkit.toml", *changed));
    said += fmt::format("saved    envkit.toml: [jobs.{}] {}\n", job, part);
  } else {
    said += fmt::format("note     there is no envkit.toml with jobs here; for one: [jobs.{}] {}\n",
                        job, part);
  }
  return said;
}

}  // namespace envkit

#include "launch/settings.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>

#include "base/text.h"
#include "launch/flags.h"
#include "launch/yaml.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Environment = std::map<std::string, std::string>;

std::string Env(const Environment& env, const std::string& name) {
  const auto it = env.find(name);
  return it == env.end() ? "" : it->second;
}

int Count(const std::string& text) {
  int number = -1;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && at == end ? number : -1;
}

// Settings of which one makes the others void.
constexpr const char* kRivals[][2] = {{"nproc_per_node", "num_processes"},
                                      {"num_processes", "nproc_per_node"},
                                      {"rdzv_endpoint", "master_addr"},
                                      {"rdzv_endpoint", "master_port"},
                                      {"master_addr", "rdzv_endpoint"}};

Result<void> CheckChoice(const FlagRow& row, const std::string& value, const std::string& source) {
  if (row.choices == nullptr) return {};
  std::vector<std::string> choices;
  for (std::string_view rest = row.choices; !rest.empty();) {
    const std::size_t bar = std::min(rest.find('|'), rest.size());
    choices.emplace_back(rest.substr(0, bar));
    rest.remove_prefix(std::min(bar + 1, rest.size()));
  }
  std::string lower = value;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const auto& choice : choices) {
    if (value == choice || lower == choice) return {};
  }
  return Usage(fmt::format("{}: there is no {} \"{}\"", source, row.name, value),
               fmt::format("It is {}.", JoinOr(choices)));
}

// Top-level keys of accelerate's file and the settings they mean; nullptr: known, without effect
// here; "!": only its being off is possible.
struct FileKey {
  const char* key;
  const char* setting;
};
constexpr FileKey kFileKeys[] = {
    {"compute_environment", "compute_environment"},
    {"debug", "debug"},
    {"distributed_type", "distributed_type"},
    {"downcast_bf16", nullptr},
    {"dynamo_backend", "dynamo_backend"},
    {"enable_cpu_affinity", "enable_cpu_affinity"},
    {"fp16", "fp16"},
    {"gpu_ids", "gpu_ids"},
    {"machine_rank", "node_rank"},
    {"main_process_ip", "master_addr"},
    {"main_process_port", "master_port"},
    {"main_training_function", nullptr},
    {"mixed_precision", "mixed_precision"},
    {"num_machines", "nnodes"},
    {"num_processes", "num_processes"},
    {"rdzv_backend", "rdzv_backend"},
    {"same_network", nullptr},
    {"use_cpu", "cpu"},
    {"command_file", "!"},
    {"commands", "!"},
    {"tpu_env", "!"},
    {"tpu_name", "!"},
    {"tpu_use_cluster", "!"},
    {"tpu_use_sudo", "!"},
    {"tpu_vm", "!"},
    {"tpu_zone", "!"},
    {"num_cpu_threads_per_process", "num_cpu_threads_per_process"},
};

// Sections, and what accelerate puts before their keys.
constexpr FileKey kSections[] = {{"deepspeed_config", ""},   {"dynamo_config", "dynamo_"},
                                 {"fp8_config", "fp8_"},     {"fsdp_config", "fsdp_"},
                                 {"megatron_lm_config", ""}, {"mpirun_config", ""},
                                 {"parallelism_config", ""}};
// Keys that `accelerate config` writes and that are no flags.
constexpr const char* kFileOnly[] = {"fsdp_ignored_modules", "fsdp_backward_prefetch_policy",
                                     "mpirun_ccl", "fsdp_min_num_params",
                                     "deepspeed_moe_layer_cls_names"};

const char* const* FindFileOnly(const std::string& name) {
  return std::find_if(std::begin(kFileOnly), std::end(kFileOnly),
                      [&](const char* known) { return name == known; });
}

Unexpected UnknownKey(const std::string& where, const std::string& what, const std::string& key,
                      const std::vector<std::string>& known) {
  const auto meant = ClosestMatch(key, known);
  return Usage(fmt::format("{}: there is no key `{}`{}", where, key, what),
               meant ? fmt::format("Did you mean `{}`?", *meant)
                     : "envkit knows the keys of accelerate 1.15.");
}

Result<void> ApplyDistributedType(const ConfigEntry& entry, SettingLayer layer,
                                  const std::string& source, Settings& settings) {
  static constexpr FileKey kTypes[] = {
      {"NO", nullptr},      {"MULTI_CPU", "cpu"},           {"MULTI_GPU", "multi_gpu"},
      {"FSDP", "use_fsdp"}, {"DEEPSPEED", "use_deepspeed"}, {"MEGATRON_LM", "use_megatron_lm"}};
  for (const auto& [name, setting] : kTypes) {
    if (entry.value != name && !(entry.value == "False" && std::string(name) == "NO")) continue;
    if (setting != nullptr) settings.Set(setting, "True", layer, source);
    return {};
  }
  static constexpr const char* kOthers[] = {"XLA",        "TPU",        "MULTI_NPU",
                                            "MULTI_MLU",  "MULTI_XPU",  "MULTI_HPU",
                                            "MULTI_SDAA", "MULTI_MUSA", "MULTI_NEURON"};
  for (const char* other : kOthers) {
    if (entry.value == other) {
      return Usage(
          fmt::format("{}: distributed_type {} is for devices that envkit does not support", source,
                      entry.value),
          "It starts ranks on NVIDIA GPUs and on CPUs.");
    }
  }
  std::vector<std::string> known(std::begin(kOthers), std::end(kOthers));
  for (const auto& type : kTypes) known.emplace_back(type.key);
  const auto meant = ClosestMatch(entry.value, known);
  return Usage(fmt::format("{}: there is no distributed_type \"{}\"", source, entry.value),
               meant ? fmt::format("Did you mean {}?", *meant) : "");
}

Result<void> ApplySection(const ConfigEntry& entry, SettingLayer layer, const std::string& source,
                          Settings& settings) {
  const auto* section = std::find_if(std::begin(kSections), std::end(kSections),
                                     [&](const FileKey& s) { return entry.section == s.key; });
  if (section == std::end(kSections)) {
    std::vector<std::string> known;
    for (const auto& one : kSections) known.emplace_back(one.key);
    return UnknownKey(source, " with keys of its own", entry.section, known);
  }
  std::string name = entry.key;
  const std::string prefix = section->setting;
  // accelerate asks only whether the key starts with "fsdp", "fp8" or "dynamo_".
  if (!name.starts_with(prefix.substr(0, prefix.find('_')))) name = prefix + name;
  const FlagRow* row = FindFlag(name);
  if (row == nullptr && FindFileOnly(name) == std::end(kFileOnly)) {
    std::vector<std::string> known(std::begin(kFileOnly), std::end(kFileOnly));
    for (const FlagRow& one : FlagRows()) {
      if (one.origin == Origin::kAccelerate) known.emplace_back(one.setting);
    }
    return UnknownKey(source, fmt::format(" in {}", entry.section), entry.key, known);
  }
  if (entry.null) return {};
  if (row != nullptr && row->refused != nullptr && entry.value != "False") {
    return Usage(fmt::format("{}: {}: {}", source, entry.key, row->refused));
  }
  if (name == "fsdp_backward_prefetch_policy") name = "fsdp_backward_prefetch";
  settings.Set(name, entry.value, layer, source);
  if (entry.section == "deepspeed_config") {
    settings.Set("deepspeed_fields",
                 settings.Get("deepspeed_fields") + (settings.Find("deepspeed_fields") ? "," : "") +
                     entry.key,
                 layer, source);
  }
  if (entry.section == "parallelism_config") {
    settings.Set("use_parallelism_config", "True", layer, source);
  }
  return {};
}

Result<void> ReadConfig(const fs::path& file, SettingLayer layer, bool choose_type,
                        Settings& settings) {
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const std::string name = file.string();
  const bool json = name.ends_with(".json");
  ENVKIT_TRY(const auto entries, json ? ParseFlatJson(text, name) : ParseFlatYaml(text, name));
  for (const ConfigEntry& entry : entries) {
    const std::string source =
        json ? fmt::format("{} ({})", name, entry.key) : fmt::format("{}:{}", name, entry.line);
    if (!entry.section.empty()) {
      ENVKIT_CHECK(ApplySection(entry, layer, source, settings));
      continue;
    }
    const auto* known = std::find_if(std::begin(kFileKeys), std::end(kFileKeys),
                                     [&](const FileKey& k) { return entry.key == k.key; });
    const bool section = std::any_of(std::begin(kSections), std::end(kSections),
                                     [&](const FileKey& s) { return entry.key == s.key; });
    if (known == std::end(kFileKeys) && !section) {
      std::vector<std::string> names;
      for (const auto& one : kFileKeys) names.emplace_back(one.key);
      for (const auto& one : kSections) names.emplace_back(one.key);
      return UnknownKey(source, "", entry.key, names);
    }
    if (entry.null || section || known->setting == nullptr) continue;
    const std::string setting = known->setting;
    if (setting == "!") {
      if (entry.value == "False") continue;
      return Usage(fmt::format("{}: {}: TPUs are not supported", source, entry.key));
    }
    if (setting == "compute_environment") {
      if (entry.value == "LOCAL_MACHINE") continue;
      return Usage(fmt::format("{}: compute_environment {} is not supported", source, entry.value),
                   "It starts ranks on this machine: LOCAL_MACHINE.");
    }
    if (setting == "distributed_type") {
      if (choose_type) ENVKIT_CHECK(ApplyDistributedType(entry, layer, source, settings));
      continue;
    }
    if (setting == "fp16") {
      if (entry.value == "True") settings.Set("mixed_precision", "fp16", layer, source);
      continue;
    }
    if (setting == "mixed_precision" && entry.value == "False") {  // an unquoted `no`
      settings.Set(setting, "no", layer, source);
      continue;
    }
    if (setting == "num_processes" && entry.value == "-1") continue;  // accelerate's "not known"
    if (const FlagRow* row = FindFlag(setting)) {
      ENVKIT_CHECK(CheckChoice(*row, entry.value, source));
    }
    settings.Set(setting, entry.value, layer, source);
  }
  return {};
}

// One launcher for each node, wherever the nodes come from.
Unexpected TooManyLaunchers(const char* who, const std::string& count, const char* how) {
  return Usage(
      fmt::format("{} started {} launchers on this node", who, count),
      fmt::format("envkit launch starts the ranks itself: start it once a node, {}.", how));
}

Result<void> ReadSlurm(const Environment& env, Settings& settings,
                       std::vector<std::string>& notes) {
  const int step_nodes = Count(Env(env, "SLURM_STEP_NUM_NODES"));
  const int job_nodes = Count(Env(env, "SLURM_JOB_NUM_NODES"));
  if (step_nodes < 0 && job_nodes > 1) {
    notes.push_back(
        fmt::format("this Slurm job has {} nodes, and only this one is used: start it "
                    "with srun --ntasks-per-node=1 to use all",
                    job_nodes));
  }
  if (step_nodes < 2) return {};
  const std::string tasks = Env(env, "SLURM_STEP_TASKS_PER_NODE");  // "1(x2)", "4,3"
  if (!tasks.empty() && std::atoi(tasks.c_str()) > 1) {
    return TooManyLaunchers("srun", tasks.substr(0, tasks.find('(')), "with --ntasks-per-node=1");
  }
  const auto set = [&](const char* name, std::string value, const char* variable) {
    settings.Set(name, std::move(value), SettingLayer::kCluster,
                 fmt::format("environment {}", variable));
  };
  set("nnodes", std::to_string(step_nodes), "SLURM_STEP_NUM_NODES");
  set("node_rank", Env(env, "SLURM_NODEID"), "SLURM_NODEID");
  const std::string host = FirstSlurmHost(Env(env, "SLURM_STEP_NODELIST"));
  if (!host.empty()) set("master_addr", host, "SLURM_STEP_NODELIST");
  // Fixed ports collide where jobs share a node. Below the range that the kernel gives out.
  const long job = std::atol(Env(env, "SLURM_JOB_ID").c_str());
  set("master_port", std::to_string(15'000 + job % 15'000), "SLURM_JOB_ID");
  set("rdzv_id", fmt::format("slurm-{}-{}", job, Env(env, "SLURM_STEP_ID")), "SLURM_JOB_ID");
  return {};
}

Result<void> ReadMpi(const Environment& env, Settings& settings) {
  struct Names {
    const char *who, *size, *rank, *local, *how;
  };
  static constexpr Names kKinds[] = {
      {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
       "with -npernode 1"},
      {"mpirun", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "with -ppn 1"}};
  for (const Names& kind : kKinds) {
    const int size = Count(Env(env, kind.size));
    if (size < 2 || env.contains("SLURM_STEP_NUM_NODES")) continue;  // srun sets PMI_* as well
    if (Count(Env(env, kind.local)) > 1) {
      return TooManyLaunchers(kind.who, Env(env, kind.local), kind.how);
    }
    settings.Set("nnodes", std::to_string(size), SettingLayer::kCluster,
                 fmt::format("environment {}", kind.size));
    settings.Set("node_rank", Env(env, kind.rank), SettingLayer::kCluster,
                 fmt::format("environment {}", kind.rank));
    return {};
  }
  return {};
}

// A pod of an indexed Job is called NAME-INDEX; the first one is node 0.
void ReadKubernetes(const Environment& env, Settings& settings) {
  const std::string index = Env(env, "JOB_COMPLETION_INDEX");
  if (index.empty()) return;
  settings.Set("node_rank", index, SettingLayer::kCluster, "environment JOB_COMPLETION_INDEX");
  std::string host = Env(env, "HOSTNAME");
  if (host.empty() || !host.ends_with("-" + index)) return;
  host.resize(host.size() - index.size());
  // The kubelet writes the pod's full name, with its Service, into /etc/hosts.
  std::ifstream hosts("/etc/hosts");
  std::string domain;
  for (std::string word; hosts >> word;) {
    if (word.starts_with(host + index + ".")) domain = word.substr(host.size() + index.size());
  }
  settings.Set("master_addr", host + "0" + domain, SettingLayer::kCluster,
               "environment JOB_COMPLETION_INDEX and the pod's name");
}

Result<void> ReadEnvironment(const Environment& env, Settings& settings) {
  for (const FlagRow& row : FlagRows()) {
    if (row.origin != Origin::kTorchrun && row.origin != Origin::kBoth) continue;
    std::string variable = "PET_" + Underscored(row.name);
    std::transform(variable.begin(), variable.end(), variable.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    const auto it = env.find(variable);
    if (it == env.end()) continue;
    const std::string source = "environment " + variable;
    if (row.refused != nullptr) {
      if (it->second.empty()) continue;
      return Usage(fmt::format("{} is not supported: {}", variable, row.refused));
    }
    if (!row.switched) {
      ENVKIT_CHECK(CheckChoice(row, it->second, source));
      settings.Set(row.setting, it->second, SettingLayer::kEnvironment, source);
      continue;
    }
    const int on = Count(it->second);
    if (on < 0) {
      return Usage(fmt::format("{}={}: it is neither 0 nor 1", variable, it->second));
    }
    if (on > 0) settings.Set(row.setting, "True", SettingLayer::kEnvironment, source);
  }
  return {};
}

}  // namespace

void Settings::Set(const std::string& name, std::string value, SettingLayer layer,
                   std::string source) {
  const auto it = values_.find(name);
  if (it != values_.end() && it->second.layer > layer) return;
  for (const auto& [one, rival] : kRivals) {
    if (name != one) continue;
    const auto other = values_.find(rival);
    if (other == values_.end()) continue;
    if (other->second.layer > layer) return;
    if (other->second.layer < layer) values_.erase(other);
  }
  values_[name] = {std::move(value), layer, std::move(source)};
}

const Setting* Settings::Find(const std::string& name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? nullptr : &it->second;
}

std::string Settings::Get(const std::string& name, const std::string& fallback) const {
  const Setting* setting = Find(name);
  return setting == nullptr ? fallback : setting->value;
}

bool Settings::On(const std::string& name) const {
  const std::string value = Get(name);
  return value == "True" || value == "true" || value == "1";
}

Result<int> Settings::Number(const std::string& name, int fallback, int least) const {
  const Setting* setting = Find(name);
  if (setting == nullptr) return fallback;
  const int number = Count(setting->value);
  if (number < least) {
    return Usage(fmt::format("{}: '{}' is not a number of {} or more", setting->source,
                             setting->value, least));
  }
  return number;
}

Result<double> Settings::Seconds(const std::string& name, double fallback) const {
  const Setting* setting = Find(name);
  if (setting == nullptr) return fallback;
  char* end = nullptr;
  const double seconds = std::strtod(setting->value.c_str(), &end);
  if (setting->value.empty() || *end != 0 || !(seconds >= 0) || seconds > 86'400) {
    return Usage(fmt::format("{}: '{}' is not a number of seconds from 0 to 86400", setting->source,
                             setting->value));
  }
  return seconds;
}

std::string FirstSlurmHost(const std::string& list) {
  std::string host;
  bool inside = false;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const char c = list[i];
    if (c == '[') {
      // Of "[03-05,9]" the first number; what follows the bracket belongs to the name as well.
      const std::size_t end = list.find_first_of("-,]", i);
      const std::size_t close = list.find(']', i);
      if (end == std::string::npos || close == std::string::npos) return "";
      host += list.substr(i + 1, end - i - 1);
      i = close;
    } else if (c == ',' && !inside) {
      break;
    } else {
      host += c;
    }
  }
  return host;
}

ConfigPlaces FindConfigs(Personality personality, const Environment& env) {
  ConfigPlaces places;
  if (personality == Personality::kTorchrun) return places;
  std::error_code error;
  if (fs::exists(".accelerate/config.yaml", error)) places.project = ".accelerate/config.yaml";
  fs::path cache = Env(env, "HF_HOME");
  if (cache.empty()) {
    cache = Env(env, "XDG_CACHE_HOME");
    if (cache.empty() && !Env(env, "HOME").empty()) cache = fs::path(Env(env, "HOME")) / ".cache";
    if (!cache.empty()) cache /= "huggingface";
  }
  if (cache.empty()) return places;
  for (const char* name : {"default_config.yaml", "default_config.json"}) {
    const fs::path file = cache / "accelerate" / name;
    if (!fs::is_regular_file(file, error)) continue;
    places.user = file;
    break;
  }
  return places;
}

Result<Settings> ReadSettings(const FlagValues& flags, const Environment& env,
                              const ConfigPlaces& places, std::vector<std::string>& notes) {
  Settings settings;
  static constexpr const char* kParadigms[] = {"cpu", "multi_gpu", "use_deepspeed", "use_fsdp",
                                               "use_megatron_lm"};
  std::vector<std::string> chosen;
  for (const char* one : kParadigms) {
    if (flags.contains(one)) chosen.push_back(flags.at(one).second);
  }
  const auto megatron = std::find(chosen.begin(), chosen.end(), "--use_megatron_lm");
  if (chosen.size() > 1 && megatron == chosen.end()) {
    return Usage(fmt::format("{} exclude each other", JoinOr(chosen, "and")), "Name one of them.");
  }
  // accelerate takes the file's distributed_type only where no flag chooses one.
  const bool choose_type = chosen.empty();
  if (const auto named = flags.find("config_file"); named != flags.end()) {
    std::error_code error;
    if (!fs::is_regular_file(named->second.first, error)) {
      return Usage(fmt::format("there is no config file {}", named->second.first),
                   "Write one with accelerate config, or leave out --config-file.");
    }
    ENVKIT_CHECK(ReadConfig(named->second.first, SettingLayer::kProject, choose_type, settings));
  } else {
    if (!places.user.empty() && !flags.contains("cpu")) {
      ENVKIT_CHECK(ReadConfig(places.user, SettingLayer::kFile, choose_type, settings));
    }
    if (!places.project.empty()) {
      ENVKIT_CHECK(ReadConfig(places.project, SettingLayer::kProject, choose_type, settings));
    }
  }
  const bool one_node = flags.contains("standalone") ||
                        (flags.contains("nnodes") &&
                         (flags.at("nnodes").first == "1" || flags.at("nnodes").first == "1:1"));
  if (!one_node) {
    ENVKIT_CHECK(ReadMpi(env, settings));
    ReadKubernetes(env, settings);
    ENVKIT_CHECK(ReadSlurm(env, settings, notes));
  }
  ENVKIT_CHECK(ReadEnvironment(env, settings));
  for (const auto& [name, value] : flags) {
    if (const FlagRow* row = FindFlag(name)) {
      ENVKIT_CHECK(CheckChoice(*row, value.first, value.second));
    }
    settings.Set(name, value.first, SettingLayer::kFlag, "flag " + value.second);
  }
  return settings;
}

}  // namespace envkit

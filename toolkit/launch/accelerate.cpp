// The variables through which `accelerate launch` tells a script what it was asked for.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "launch/flags.h"
#include "launch/settings.h"

namespace envkit {
namespace {

using Environment = std::map<std::string, std::string>;

enum class When { kAlways, kFsdp, kMegatron, kParallelism, kDeepSpeed, kFp8 };
enum class Form { kAsIs, kLower, kUpper, kFloat };

struct AccelerateRow {
  When when = When::kAlways;
  const char* setting = nullptr;
  const char* variable = nullptr;
  const char* fallback = nullptr;  // nullptr: not set unless it was asked for
  Form form = Form::kAsIs;
};

constexpr AccelerateRow kAccelerateRows[] = {
    {When::kAlways, "mixed_precision", "ACCELERATE_MIXED_PRECISION", "no", Form::kLower},
    {When::kAlways, "dynamo_backend", "ACCELERATE_DYNAMO_BACKEND", "NO", Form::kUpper},
    {When::kAlways, "dynamo_mode", "ACCELERATE_DYNAMO_MODE", "default"},
    {When::kAlways, "dynamo_use_fullgraph", "ACCELERATE_DYNAMO_USE_FULLGRAPH", "False"},
    {When::kAlways, "dynamo_use_dynamic", "ACCELERATE_DYNAMO_USE_DYNAMIC", "False"},
    {When::kAlways, "dynamo_use_regional_compilation", "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
     "False"},
    {When::kFsdp, "fsdp_version", "FSDP_VERSION", "1"},
    {When::kFsdp, "fsdp_sharding_strategy", "FSDP_SHARDING_STRATEGY", "FULL_SHARD"},
    {When::kFsdp, "fsdp_reshard_after_forward", "FSDP_RESHARD_AFTER_FORWARD", "true", Form::kLower},
    {When::kFsdp, "fsdp_offload_params", "FSDP_OFFLOAD_PARAMS", "false", Form::kLower},
    {When::kFsdp, "fsdp_min_num_params", "FSDP_MIN_NUM_PARAMS", "100000000"},
    {When::kFsdp, "fsdp_auto_wrap_policy", "FSDP_AUTO_WRAP_POLICY"},
    {When::kFsdp, "fsdp_transformer_layer_cls_to_wrap", "FSDP_TRANSFORMER_CLS_TO_WRAP"},
    {When::kFsdp, "fsdp_backward_prefetch", "FSDP_BACKWARD_PREFETCH"},
    {When::kFsdp, "fsdp_state_dict_type", "FSDP_STATE_DICT_TYPE"},
    {When::kFsdp, "fsdp_forward_prefetch", "FSDP_FORWARD_PREFETCH", "false", Form::kLower},
    {When::kFsdp, "fsdp_use_orig_params", "FSDP_USE_ORIG_PARAMS", "true", Form::kLower},
    {When::kFsdp, "fsdp_cpu_ram_efficient_loading", "FSDP_CPU_RAM_EFFICIENT_LOADING", "true",
     Form::kLower},
    {When::kFsdp, "fsdp_sync_module_states", "FSDP_SYNC_MODULE_STATES", "true", Form::kLower},
    {When::kFsdp, "fsdp_activation_checkpointing", "FSDP_ACTIVATION_CHECKPOINTING", "false",
     Form::kLower},
    {When::kFsdp, "fsdp_activation_checkpointing_offload", "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD",
     "false", Form::kLower},
    {When::kFsdp, "fsdp_ignored_modules", "FSDP_IGNORED_MODULES"},
    {When::kMegatron, "megatron_lm_tp_degree", "MEGATRON_LM_TP_DEGREE", "1"},
    {When::kMegatron, "megatron_lm_use_custom_fsdp", "MEGATRON_LM_USE_CUSTOM_FSDP", "False"},
    {When::kMegatron, "megatron_lm_no_load_optim", "MEGATRON_LM_NO_LOAD_OPTIM", "False"},
    {When::kMegatron, "megatron_lm_eod_mask_loss", "MEGATRON_LM_EOD_MASK_LOSS", "False"},
    {When::kMegatron, "megatron_lm_no_save_optim", "MEGATRON_LM_NO_SAVE_OPTIM", "False"},
    {When::kMegatron, "megatron_lm_optimizer_cpu_offload", "MEGATRON_LM_OPTIMIZER_CPU_OFFLOAD",
     "False"},
    {When::kMegatron, "megatron_lm_use_precision_aware_optimizer",
     "MEGATRON_LM_USE_PRECISION_AWARE_OPTIMIZER", "False"},
    {When::kMegatron, "megatron_lm_overlap_cpu_optimizer_d2h_h2d",
     "MEGATRON_LM_OVERLAP_CPU_OPTIMIZER_D2H_H2D", "False"},
    {When::kMegatron, "megatron_lm_decoder_last_pipeline_num_layers",
     "MEGATRON_LM_DECODER_LAST_PIPELINE_NUM_LAYERS"},
    {When::kMegatron, "megatron_lm_pp_degree", "MEGATRON_LM_PP_DEGREE", "1"},
    {When::kMegatron, "megatron_lm_gradient_clipping", "MEGATRON_LM_GRADIENT_CLIPPING", "1.0",
     Form::kFloat},
    {When::kMegatron, "megatron_lm_num_micro_batches", "MEGATRON_LM_NUM_MICRO_BATCHES"},
    {When::kMegatron, "megatron_lm_sequence_parallelism", "MEGATRON_LM_SEQUENCE_PARALLELISM"},
    {When::kMegatron, "megatron_lm_recompute_activations", "MEGATRON_LM_RECOMPUTE_ACTIVATIONS"},
    {When::kMegatron, "megatron_lm_use_distributed_optimizer",
     "MEGATRON_LM_USE_DISTRIBUTED_OPTIMIZER"},
    {When::kMegatron, "megatron_lm_recompute_granularity", "MEGATRON_LM_RECOMPUTE_GRANULARITY"},
    {When::kMegatron, "megatron_lm_recompute_method", "MEGATRON_LM_RECOMPUTE_METHOD"},
    {When::kMegatron, "megatron_lm_recompute_num_layers", "MEGATRON_LM_RECOMPUTE_NUM_LAYERS"},
    {When::kMegatron, "megatron_lm_attention_backend", "MEGATRON_LM_ATTENTION_BACKEND"},
    {When::kMegatron, "megatron_lm_expert_model_parallel_size",
     "MEGATRON_LM_EXPERT_MODEL_PARALLEL_SIZE"},
    {When::kMegatron, "megatron_lm_context_parallel_size", "MEGATRON_LM_CONTEXT_PARALLEL_SIZE"},
    {When::kMegatron, "megatron_lm_attention_dropout", "MEGATRON_LM_ATTENTION_DROPOUT", nullptr,
     Form::kFloat},
    {When::kMegatron, "megatron_lm_hidden_dropout", "MEGATRON_LM_HIDDEN_DROPOUT", nullptr,
     Form::kFloat},
    {When::kMegatron, "megatron_lm_attention_softmax_in_fp32",
     "MEGATRON_LM_ATTENTION_SOFTMAX_IN_FP32"},
    {When::kMegatron, "megatron_lm_expert_tensor_parallel_size",
     "MEGATRON_LM_EXPERT_TENSOR_PARALLEL_SIZE"},
    {When::kMegatron, "megatron_lm_calculate_per_token_loss",
     "MEGATRON_LM_CALCULATE_PER_TOKEN_LOSS"},
    {When::kMegatron, "megatron_lm_use_rotary_position_embeddings",
     "MEGATRON_LM_USE_ROTARY_POSITION_EMBEDDINGS"},
    {When::kParallelism, "parallelism_config_dp_replicate_size",
     "PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "1"},
    {When::kParallelism, "parallelism_config_dp_shard_size", "PARALLELISM_CONFIG_DP_SHARD_SIZE",
     "1"},
    {When::kParallelism, "parallelism_config_tp_size", "PARALLELISM_CONFIG_TP_SIZE", "1"},
    {When::kParallelism, "parallelism_config_cp_size", "PARALLELISM_CONFIG_CP_SIZE", "1"},
    {When::kParallelism, "parallelism_config_cp_backend", "PARALLELISM_CONFIG_CP_BACKEND", "torch"},
    {When::kParallelism, "parallelism_config_sp_size", "PARALLELISM_CONFIG_SP_SIZE", "1"},
    {When::kParallelism, "parallelism_config_sp_backend", "PARALLELISM_CONFIG_SP_BACKEND",
     "deepspeed"},
    {When::kDeepSpeed, "zero_stage", "ACCELERATE_DEEPSPEED_ZERO_STAGE"},
    {When::kDeepSpeed, "gradient_accumulation_steps", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"},
    {When::kDeepSpeed, "gradient_clipping", "ACCELERATE_GRADIENT_CLIPPING", nullptr, Form::kFloat},
    {When::kDeepSpeed, "offload_optimizer_device", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
     nullptr, Form::kLower},
    {When::kDeepSpeed, "offload_param_device", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", nullptr,
     Form::kLower},
    {When::kDeepSpeed, "zero3_init_flag", "ACCELERATE_DEEPSPEED_ZERO3_INIT", nullptr, Form::kLower},
    {When::kDeepSpeed, "zero3_save_16bit_model", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL",
     nullptr, Form::kLower},
    {When::kDeepSpeed, "deepspeed_config_file", "ACCELERATE_DEEPSPEED_CONFIG_FILE"},
    {When::kDeepSpeed, "deepspeed_moe_layer_cls_names", "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES"},
    {When::kFp8, "fp8_backend", "ACCELERATE_FP8_BACKEND"},
    {When::kFp8, "fp8_use_autocast_during_eval", "ACCELERATE_FP8_USE_AUTOCAST_DURING_EVAL",
     "False"},
    {When::kFp8, "fp8_margin", "ACCELERATE_FP8_MARGIN", "0"},
    {When::kFp8, "fp8_interval", "ACCELERATE_FP8_INTERVAL", "1"},
    {When::kFp8, "fp8_format", "ACCELERATE_FP8_FORMAT", "HYBRID"},
    {When::kFp8, "fp8_amax_history_len", "ACCELERATE_FP8_AMAX_HISTORY_LEN", "1024"},
    {When::kFp8, "fp8_amax_compute_algo", "ACCELERATE_FP8_AMAX_COMPUTE_ALGO", "most_recent"},
    {When::kFp8, "fp8_opt_level", "ACCELERATE_FP8_OPT_LEVEL", "O2"},
    {When::kFp8, "fp8_enable_fsdp_float8_all_gather",
     "ACCELERATE_FP8_ENABLE_FSDP_FLOAT8_ALL_GATHER", "1"},
    {When::kFp8, "fp8_pad_inner_dim", "ACCELERATE_FP8_PAD_INNER_DIM", "1"},
};

std::string Shaped(std::string value, Form form) {
  const auto each = [&](int (*change)(int)) {
    std::transform(value.begin(), value.end(), value.begin(),
                   [&](unsigned char c) { return static_cast<char>(change(c)); });
  };
  if (form == Form::kLower) each(std::tolower);
  if (form == Form::kUpper) each(std::toupper);
  if (form == Form::kFloat && !value.empty() &&
      value.find_first_not_of("-0123456789") == std::string::npos) {
    value += ".0";
  }
  return value;
}

// Booleans in this order: fprop, dgrad, wgrad.
void AddOverrides(const std::string& list, Variables& variables) {
  std::string_view rest = list;
  for (const char* name : {"FPROP", "DGRAD", "WGRAD"}) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string_view one = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    const bool on = one == "true" || one == "True" || one == "1" || one == "yes";
    variables.emplace_back(fmt::format("ACCELERATE_FP8_OVERRIDE_{}", name), on ? "1" : "0");
  }
}

}  // namespace

Result<Variables> AccelerateVariables(const Settings& settings, const Environment& env, bool alone,
                                      bool always) {
  const bool cpu = settings.On("cpu");
  const bool deepspeed = settings.On("use_deepspeed") && !cpu;
  const bool fsdp = settings.On("use_fsdp") && !cpu && !deepspeed;
  const bool megatron = settings.On("use_megatron_lm") && !cpu && !deepspeed;
  const bool parallelism = settings.On("use_parallelism_config") && !cpu;
  const bool fp8 = settings.Get("mixed_precision") == "fp8";
  bool asked = always || cpu;
  for (const auto& [name, setting] : settings.all()) {
    const FlagRow* row = FindFlag(name);
    asked |= row != nullptr && row->origin == Origin::kAccelerate && name == row->setting;
  }
  Variables variables;
  if (!asked) return variables;
  const auto add = [&](const char* name, std::string value) {
    variables.emplace_back(name, std::move(value));
  };
  if (parallelism && (!settings.On("use_fsdp") || settings.Get("fsdp_version", "1") == "1")) {
    return Usage("--use-parallelism-config needs --use-fsdp with --fsdp-version 2");
  }
  const auto off = [&](const char* name) {
    return Shaped(settings.Get(name, "true"), Form::kLower) == "false";
  };
  if (fsdp && !off("fsdp_cpu_ram_efficient_loading") && off("fsdp_sync_module_states")) {
    return Usage(
        "fsdp_cpu_ram_efficient_loading needs fsdp_sync_module_states",
        "Only the first rank has the weights then: set it to true, or the former to false.");
  }
  for (const AccelerateRow& row : kAccelerateRows) {
    const bool wanted = row.when == When::kAlways || (row.when == When::kFsdp && fsdp) ||
                        (row.when == When::kMegatron && megatron) ||
                        (row.when == When::kParallelism && parallelism) ||
                        (row.when == When::kDeepSpeed && deepspeed) ||
                        (row.when == When::kFp8 && fp8);
    if (!wanted) continue;
    if (deepspeed && std::string_view(row.setting).starts_with("dynamo_")) continue;
    const Setting* setting = settings.Find(row.setting);
    if (setting == nullptr && row.fallback == nullptr) continue;
    // What the user has exported stays where nobody asked for something else.
    if (setting == nullptr && !always && env.contains(row.variable)) continue;
    const Form form =
        row.form == Form::kFloat && setting != nullptr && setting->layer != SettingLayer::kFlag
            ? Form::kAsIs  // YAML has the number as it was written
            : row.form;
    add(row.variable, Shaped(setting == nullptr ? row.fallback : setting->value, form));
  }
  const bool simple =
      cpu || (alone && !deepspeed && !fsdp && !megatron && !settings.On("multi_gpu"));
  if (simple && (cpu || always)) add("ACCELERATE_USE_CPU", cpu ? "True" : "False");
  if (simple && cpu) {
    add("KMP_BLOCKTIME", "1");
    // It binds threads from the first core on: right for one rank, a pile-up for several.
    if (alone) add("KMP_AFFINITY", "granularity=fine,compact,1,0");
  }
  if (settings.On("debug")) add("ACCELERATE_DEBUG_MODE", "true");
  if (settings.On("enable_cpu_affinity")) add("ACCELERATE_CPU_AFFINITY", "1");
  if (fsdp) add("ACCELERATE_USE_FSDP", "true");
  if (megatron) add("ACCELERATE_USE_MEGATRON_LM", "true");
  if (fp8) AddOverrides(settings.Get("fp8_override_linear_precision"), variables);
  if (parallelism) {
    add("ACCELERATE_USE_PARALLELISM_CONFIG", "true");
    const auto take = [&](const char* setting, const char* variable, const char* fallback) {
      add(variable, settings.Get(setting, fallback));
    };
    if (settings.Get("parallelism_config_cp_size", "1") != "1") {
      take("parallelism_config_cp_comm_strategy", "PARALLELISM_CONFIG_CP_COMM_STRATEGY",
           "allgather");
    }
    if (settings.Get("parallelism_config_sp_size", "1") != "1") {
      take("parallelism_config_sp_seq_length", "PARALLELISM_CONFIG_SP_SEQ_LENGTH", "None");
      take("parallelism_config_sp_seq_length_is_variable",
           "PARALLELISM_CONFIG_SP_SEQ_LENGTH_IS_VARIABLE", "True");
      take("parallelism_config_sp_attn_implementation", "PARALLELISM_CONFIG_SP_ATTN_IMPLEMENTATION",
           "sdpa");
    }
  }
  if (deepspeed) {
    std::string fields = settings.Get("deepspeed_fields");
    const Setting* precision = settings.Find("mixed_precision");
    if (precision != nullptr && precision->layer < SettingLayer::kEnvironment) {
      fields += (fields.empty() ? "" : ",") + std::string("mixed_precision");
    }
    add("ACCELERATE_CONFIG_DS_FIELDS", Shaped(fields, Form::kLower));
    add("ACCELERATE_USE_DEEPSPEED", "true");
    const auto path = env.find("PYTHONPATH");
    std::error_code error;
    const std::string here = std::filesystem::current_path(error).string();
    add("PYTHONPATH", path == env.end() || path->second.empty() ? here : path->second + ":" + here);
  }
  return variables;
}

}  // namespace envkit

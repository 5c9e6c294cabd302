#include "memory.h"

#include <fmt/format.h>

#include <new>
#include <string_view>

namespace envkit {

bool IsOutOfMemory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  const std::string_view text = error.what();
  for (const char* words : {"out of memory", "not enough memory", "can't allocate memory"})
    if (text.find(words) != std::string_view::npos) return true;
  return false;
}

Error OutOfMemory(const std::exception& error, const TrainConfig& config, int world_size) {
  std::string what = error.what();
  what = what.substr(0, what.find('\n'));
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr)
    what = "the host has no more memory for this rank";
  const bool gpu = what.find("CUDA") != std::string::npos;
  const std::int64_t batch = config.global_batch / world_size / config.accumulation;
  const auto& distributed = config.distributed;
  std::string next;
  const auto offer = [&](const std::string& setting, const std::string& why) {
    next += fmt::format("\n  --set {:40} {}", setting, why);
  };
  for (std::int64_t micro = batch - 1; micro > 0; --micro) {
    if (batch % micro != 0) continue;
    offer(fmt::format("accumulation={}", config.accumulation * (batch / micro)),
          fmt::format("{} samples of a rank at a time instead of {}; the same global batch of {}",
                      micro, batch, config.global_batch));
    break;
  }
  if (config.model.kind == "gpt" && !distributed.activation_checkpointing)
    offer("distributed.activation_checkpointing=true", "layers are computed again in backward");
  if (world_size > 1 && distributed.zero_stage < 3) {
    constexpr const char* kWhat[] = {"optimizer state", "gradients too", "parameters too"};
    offer(fmt::format("distributed.zero_stage={}", distributed.zero_stage + 1),
          fmt::format("each rank keeps one of {} shards: {}", world_size,
                      kWhat[distributed.zero_stage]));
  }
  if (gpu && !distributed.cpu_offload)
    offer(distributed.zero_stage > 0
              ? "distributed.cpu_offload=true"
              : "distributed.zero_stage=1 --set distributed.cpu_offload=true",
          "optimizer state in the host's memory");
  return {ExitCode::kFailed,
          what,
          next.empty() ? "use more ranks, or a smaller model" : "any of these needs less:" + next,
          {},
          false};
}

}  // namespace envkit

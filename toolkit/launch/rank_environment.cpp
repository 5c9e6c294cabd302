// What a rank finds in its environment, and where its logs are.
#include <fmt/format.h>
#include <unistd.h>

#include "launch/hang_watch.h"
#include "launch/plan.h"

namespace envkit {

namespace fs = std::filesystem;
using Environment = std::map<std::string, std::string>;

fs::path RankLogs(const LaunchPlan& plan, const Placement& place, std::size_t index) {
  // Global ranks, so that nodes may share a directory; torchrun has the local ones, in a directory
  // for each node.
  const int rank = plan.ranks[index].local_rank +
                   (plan.personality == Personality::kEnvkit ? place.first_rank : 0);
  return plan.log_dir / fmt::format("attempt_{}", place.attempt) / std::to_string(rank);
}

Variables RankVariables(const LaunchPlan& plan, const Placement& place, std::size_t index) {
  const RankPlan& own = plan.ranks[index];
  const std::string rank = std::to_string(place.first_rank + own.local_rank);
  const std::string world = std::to_string(place.world_size);
  Variables variables{
      {"RANK", rank},
      {"LOCAL_RANK", plan.virtual_local_rank ? "0" : std::to_string(own.local_rank)},
      {"WORLD_SIZE", world},
      {"LOCAL_WORLD_SIZE", std::to_string(plan.ranks.size())},
      {"GROUP_RANK", std::to_string(place.node_rank)},
      {"GROUP_WORLD_SIZE", std::to_string(plan.nodes.nodes)},
      {"ROLE_NAME", plan.role},
      {"ROLE_RANK", rank},
      {"ROLE_WORLD_SIZE", world},
      {"MASTER_ADDR", place.master_addr},
      {"MASTER_PORT", std::to_string(place.master_port)},
      {"TORCHELASTIC_RESTART_COUNT", std::to_string(place.attempt)},
      {"TORCHELASTIC_MAX_RESTARTS", std::to_string(plan.max_restarts)},
      {"TORCHELASTIC_RUN_ID", plan.nodes.run_id},
      // "True" would make the ranks wait for a TCPStore that only torchrun's agent serves.
      {"TORCHELASTIC_USE_AGENT_STORE", "False"},
      {"TORCHELASTIC_ERROR_FILE", (RankLogs(plan, place, index) / "error.json").string()}};
  if (plan.own_error_handling) variables.emplace_back("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1");
  if (plan.own_records) {
    // The names that torch 2.15 has, and those before.
    const std::string records = FlightRecords(plan, place).string();
    variables.emplace_back("TORCH_FR_DUMP_TEMP_FILE", records);
    variables.emplace_back("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", records);
    variables.emplace_back("TORCH_NCCL_DEBUG_INFO_PIPE_FILE", records);
  }
  for (const Variables* more : {&plan.env, &own.env}) {
    variables.insert(variables.end(), more->begin(), more->end());
  }
  return variables;
}

std::vector<std::string> MergedEnvironment(const Environment& env,
                                           const std::vector<Variables>& overlays) {
  Environment merged = env;
  for (const auto& overlay : overlays) {
    for (const auto& [name, value] : overlay) merged[name] = value;
  }
  std::vector<std::string> list;
  list.reserve(merged.size());
  for (const auto& [name, value] : merged) list.push_back(fmt::format("{}={}", name, value));
  return list;
}

Environment OwnEnvironment() {
  Environment env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    env.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return env;
}

}  // namespace envkit

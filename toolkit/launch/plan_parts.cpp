#include "launch/plan_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace envkit {
namespace {

struct Streams {
  bool out = false, err = false;
};

// torchrun's "3", or "0:1,1:2" by local rank.
Result<Streams> StreamsOf(const Setting* setting, int local_rank) {
  Streams streams;
  if (setting == nullptr) return streams;
  std::string_view rest = setting->value;
  const bool by_rank = rest.find(':') != std::string_view::npos;
  while (!rest.empty()) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    std::string_view one = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    bool ours = true;
    bool good = true;
    if (by_rank) {
      const std::size_t colon = one.find(':');
      const std::string_view rank = one.substr(0, colon);
      good = colon != std::string_view::npos && !rank.empty() &&
             rank.find_first_not_of("0123456789") == std::string_view::npos;
      ours = rank == std::to_string(local_rank);
      one.remove_prefix(colon == std::string_view::npos ? one.size() : colon + 1);
    }
    if (!good || one.size() != 1 || one[0] < '0' || one[0] > '3') {
      return Usage(fmt::format("{}: '{}' names no streams", setting->source, setting->value),
                   "0 none, 1 stdout, 2 stderr, 3 both, or by local rank: 0:1,1:3");
    }
    if (ours) streams = {one[0] == '1' || one[0] == '3', one[0] >= '2'};
  }
  return streams;
}

std::string WithoutBrackets(const std::string& host) {
  const bool has = host.size() > 1 && host.front() == '[' && host.back() == ']';
  return has ? host.substr(1, host.size() - 2) : host;
}

// "[fd00::1]:29500", "node-a:29500", "node-a".
void SplitEndpoint(const std::string& endpoint, std::string& host, int& port) {
  const std::size_t colon = endpoint.rfind(':');
  const std::size_t bracket = endpoint.rfind(']');
  const bool has_port =
      colon != std::string::npos &&
      (bracket == std::string::npos ? endpoint.find(':') == colon : colon > bracket);
  host = has_port ? endpoint.substr(0, colon) : endpoint;
  if (has_port) port = std::atoi(endpoint.c_str() + colon + 1);
  host = WithoutBrackets(host);
}

Result<int> Port(const Settings& settings, const char* name, int fallback) {
  ENVKIT_TRY(const int port, settings.Number(name, fallback, 0));
  if (port > 65'535) {
    return Usage(fmt::format("{}: there is no port {}", settings.Find(name)->source, port),
                 "Ports go up to 65535.");
  }
  return port;
}

Result<void> ReadRendezvousConf(const Settings& settings, NodePlan& nodes) {
  std::string_view rest;
  const std::string text = settings.Get("rdzv_conf");
  for (rest = text; !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const std::string one(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    const std::size_t equals = one.find('=');
    if (equals == std::string::npos) {
      return Usage(fmt::format("--rdzv-conf: '{}' is not KEY=VALUE", one),
                   "For example: --rdzv-conf join_timeout=300");
    }
    const std::string key = one.substr(0, equals);
    const double value = std::atof(one.c_str() + equals + 1);
    if ((key == "join_timeout" || key == "timeout") && value > 0) {
      nodes.join_timeout = std::chrono::milliseconds(static_cast<long long>(value * 1000));
    } else if (key == "rank") {
      nodes.rank = static_cast<int>(value);
    }  // the others tune torch's own stores, and there are none
  }
  return {};
}

}  // namespace

Result<void> PlanNodes(const Settings& settings, LaunchPlan& plan) {
  NodePlan& nodes = plan.nodes;
  const std::string count = settings.Get("nnodes", "1");  // "2", "2:2"
  const std::string most = count.substr(count.rfind(':') + 1);
  if (count.find(':') != std::string::npos && count.substr(0, count.find(':')) != most) {
    return Usage(fmt::format("{}: {} nodes: a job that grows and shrinks is not supported",
                             settings.Find("nnodes")->source, count),
                 fmt::format("Say how many there are: --nnodes {}", most));
  }
  nodes.nodes =
      most.find_first_not_of("0123456789") == std::string::npos ? std::atoi(most.c_str()) : 0;
  if (settings.On("standalone")) nodes.nodes = 1;
  if (nodes.nodes < 1 || nodes.nodes > 65'536) {
    return Usage(
        fmt::format("{}: '{}' is not a number of nodes", settings.Find("nnodes")->source, count),
        "For example: --nnodes 2");
  }
  const std::string backend = settings.Get("rdzv_backend", "static");
  if (backend != "static" && backend != "c10d") {
    const bool etcd = backend.starts_with("etcd");
    return Usage(fmt::format("rendezvous backend {} is not supported", backend),
                 etcd ? "etcd is not needed: the launchers meet at node 0. Use c10d or static."
                      : "Use c10d or static.");
  }
  ENVKIT_CHECK(ReadRendezvousConf(settings, nodes));
  nodes.run_id = settings.Get("rdzv_id", "none");
  ENVKIT_TRY(const double lost, settings.Seconds("node_timeout", 10));
  nodes.lost_after = std::chrono::milliseconds(static_cast<long long>(std::max(lost, 0.5) * 1000));
  nodes.local = settings.Get("local_addr");
  ENVKIT_TRY(plan.master_port, Port(settings, "master_port", 0));
  const Setting* endpoint = settings.Find("rdzv_endpoint");
  const bool used = endpoint != nullptr && !endpoint->value.empty() && !settings.On("standalone");
  plan.master_addr = WithoutBrackets(settings.Get("master_addr", "127.0.0.1"));
  if (used) SplitEndpoint(endpoint->value, plan.master_addr, plan.master_port);
  if (nodes.nodes == 1) {
    if (settings.On("standalone")) {
      plan.master_addr = "127.0.0.1";
      plan.master_port = 0;
    }
    nodes.rank = 0;
    return {};
  }
  ENVKIT_TRY(const int rank, settings.Number("node_rank", -1, 0));
  if (rank >= 0 &&
      (backend == "static" || settings.Find("node_rank")->layer == SettingLayer::kFlag)) {
    nodes.rank = rank;
  }
  if (!nodes.rank && backend == "static") {
    return Usage(fmt::format("{} nodes, and which of them this one is was not said", nodes.nodes),
                 "Say --node-rank 0, 1, … on each, or --rdzv-backend c10d to have them given out.");
  }
  if (nodes.rank && *nodes.rank >= nodes.nodes) {
    return Usage(fmt::format("node rank {}, but there are only {} nodes", *nodes.rank, nodes.nodes),
                 "Node ranks go from 0 to the number of nodes less 1.");
  }
  if (!used && settings.Find("master_addr") == nullptr) {
    return Usage(fmt::format("{} nodes, and where node 0 is was not said", nodes.nodes),
                 "Say --rdzv-endpoint HOST:PORT, the same on each node.");
  }
  nodes.host = plan.master_addr;
  nodes.port = plan.master_port == 0 ? 29'500 : plan.master_port;
  ENVKIT_TRY(plan.master_port, Port(settings, "rank_port", 0));
  return {};
}

Result<void> PlanConsole(const Settings& settings, LaunchPlan& plan) {
  const Setting* filter = settings.Find("local_ranks_filter");
  std::vector<int> shown;
  if (filter != nullptr && !filter->value.empty()) {
    shown = ParseCpuList(filter->value);
    if (shown.empty() || filter->value.find_first_not_of("0123456789,- ") != std::string::npos) {
      return Usage(fmt::format("{}: '{}' names no ranks", filter->source, filter->value),
                   "For example: --local-ranks-filter 0,1");
    }
  }
  for (RankPlan& rank : plan.ranks) {
    ENVKIT_TRY(const Streams hidden, StreamsOf(settings.Find("redirects"), rank.local_rank));
    ENVKIT_TRY(const Streams teed, StreamsOf(settings.Find("tee"), rank.local_rank));
    const bool show =
        shown.empty() || std::find(shown.begin(), shown.end(), rank.local_rank) != shown.end();
    rank.shown[0] = show && (!hidden.out || teed.out);
    rank.shown[1] = show && (!hidden.err || teed.err);
  }
  return {};
}

}  // namespace envkit

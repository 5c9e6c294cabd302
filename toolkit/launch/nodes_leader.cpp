// Node 0's part: who has come, when all start, whose failure came first, the end.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cmath>

#include "launch/node_messages.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr auto kLastCall = 1s;  // for the others to hear the end
constexpr double kSkewWorthSaying = 2;

}  // namespace

void Nodes::Accept(Clock::time_point now) {
  while (true) {
    Address address;
    address.length = sizeof address.storage;
    Fd fd(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&address.storage), &address.length,
                  SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    const int number = fd.get();
    Peer& peer = peers_[number];
    peer.fd = std::move(fd);
    peer.address = address.Text();
    peer.heard = now;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = number;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, number, &event);
  }
}

// Node 0's first look at a launcher that has come.
void Nodes::Greet(Peer& peer, const std::string& line, Clock::time_point) {
  const json message = json::parse(line, nullptr, false);
  const int fd = peer.fd.get();
  const auto refuse = [&](const std::string& why, const std::string& next) {
    Send(peer, Line({{"what", "refused"}, {"why", why}, {"next", next}}));
    Say(fmt::format("turned away the launcher of {}: {}\n", peer.address, why));
    peers_.erase(fd);
  };
  if (!message.is_object() || Field<std::string>(message, "what", "") != "hello") {
    peers_.erase(fd);  // no launcher: a port scan, a browser
    return;
  }
  peer.host = Field<std::string>(message, "host", "");
  const int wanted = Field(message, "node_rank", -1);
  const int nodes = Field(message, "nodes", 0);
  const std::string run_id = Field<std::string>(message, "run_id", "");
  if (Field(message, "protocol", 0) != kNodeProtocol) {
    return refuse("its envkit is of another version", "Use the same version on all nodes.");
  }
  if (run_id != nodes_.run_id) {
    return refuse(
        fmt::format("it belongs to the job \"{}\", and here is \"{}\"", run_id, nodes_.run_id),
        "Give each job an endpoint of its own, and its nodes the same --rdzv-id.");
  }
  if (nodes != nodes_.nodes) {
    return refuse(fmt::format("it expects {} nodes, and node 0 expects {}", nodes, nodes_.nodes),
                  "Say the same --nnodes on all of them.");
  }
  const bool taken =
      wanted == 0 || wanted >= nodes_.nodes ||
      (wanted > 0 && std::any_of(peers_.begin(), peers_.end(), [&](const auto& each) {
         return each.second.greeted && each.second.node_rank == wanted;
       }));
  if (taken) {
    return refuse(fmt::format("node rank {} is taken already", wanted),
                  "Give each node a --node-rank of its own.");
  }
  const auto came = std::count_if(peers_.begin(), peers_.end(),
                                  [](const auto& each) { return each.second.greeted; });
  if (started_ || came + 1 >= nodes_.nodes) {
    return refuse("all nodes are there already", "The job that runs there has all that it needs.");
  }
  peer.greeted = true;
  peer.node_rank = wanted;
  peer.processes = std::clamp(Field(message, "processes", 1), 1, 4096);
  peer.skew_ns = Field(message, "time", 0LL) - WallNanoseconds();
  const double skew = static_cast<double>(peer.skew_ns) / 1e9;
  if (std::abs(skew) > kSkewWorthSaying) {
    Say(
        fmt::format("warning: the clock of {} is {:.0f} s {} node 0's: the times of its logs are "
                    "off by that\n",
                    Name(peer), std::abs(skew), skew < 0 ? "behind" : "ahead of"));
  }
  if (came + 2 == nodes_.nodes) StartAll();
}

void Nodes::StartAll() {
  started_ = true;
  stopping_ = false;
  over_ = false;
  own_ = {};
  // Those that came without a number get those that are left, in the order of their coming.
  std::vector<Peer*> by_rank(static_cast<std::size_t>(nodes_.nodes));
  std::vector<Peer*> unnumbered;
  for (auto& [fd, peer] : peers_) {
    peer.over = false;
    peer.report = {};
    peer.states.clear();
    peer.spoke = Clock::now();
    if (!peer.greeted) continue;
    if (peer.node_rank < 0) {
      unnumbered.push_back(&peer);
    } else {
      by_rank[static_cast<std::size_t>(peer.node_rank)] = &peer;
    }
  }
  for (std::size_t node = 1; node < by_rank.size() && !unnumbered.empty(); ++node) {
    if (by_rank[node] != nullptr) continue;
    by_rank[node] = unnumbered.front();
    by_rank[node]->node_rank = static_cast<int>(node);
    unnumbered.erase(unnumbered.begin());
  }
  int world = static_cast<int>(plan_.ranks.size());
  for (const Peer* peer : by_rank) world += peer == nullptr ? 0 : peer->processes;
  place_.world_size = world;
  int first = static_cast<int>(plan_.ranks.size());
  for (std::size_t node = 1; node < by_rank.size(); ++node) {
    Send(*by_rank[node], Line({{"what", "start"},
                               {"attempt", place_.attempt},
                               {"node_rank", node},
                               {"first_rank", first},
                               {"world_size", world},
                               {"master_port", master_port_}}));
    first += by_rank[node]->processes;
  }
  NodeEvent event;
  event.kind = NodeEvent::Kind::kStart;
  event.place = place_;
  events_.push_back(std::move(event));
}

void Nodes::StopOthers(int origin, const std::string& why) {
  if (stopping_) return;
  stopping_ = true;
  for (auto& [fd, peer] : peers_) {
    if (peer.greeted && peer.node_rank != origin) {
      Send(peer, Line({{"what", "stop"}, {"why", why}}));
    }
  }
  if (origin == place_.node_rank) return;
  NodeEvent event;
  event.kind = NodeEvent::Kind::kStop;
  event.text = why;
  events_.push_back(std::move(event));
}

void Nodes::Lose(Peer& peer, const std::string& why) {
  const int fd = peer.fd.get();
  if (!leading()) return LoseLeader(why);
  const bool counted = peer.greeted && started_ && !end_;
  Peer gone = std::move(peer);
  peers_.erase(fd);
  if (!counted) {
    if (end_ && peers_.empty()) End(*end_);
    return;
  }
  const std::string text = fmt::format("{} was lost: {}", Name(gone), why);
  if (!gone.over) {
    gone.over = true;
    gone.report.exit_code = 1;
    gone.report.failed = true;
    gone.report.failed_at_ns = WallNanoseconds();
    gone.skew_ns = 0;
    gone.report.text =
        text + fmt::format(
                   "\n  next    see whether that machine is up and reaches {}:{}; its ranks "
                   "end by themselves\nexit code 1\n",
                   nodes_.host, nodes_.port);
    gone.report.cause = json{{"node", gone.node_rank}, {"text", text}}.dump();
  }
  const int node = gone.node_rank;
  lost_.push_back(std::move(gone));
  StopOthers(node, text);
  Decide();
}

// When every node's part is over: once more, or the end.
void Nodes::Decide() {
  if (!over_ || end_ || ended_) return;
  for (const auto& [fd, peer] : peers_) {
    if (peer.greeted && !peer.over) return;
  }
  const bool failed = own_.failed || !lost_.empty() ||
                      std::any_of(peers_.begin(), peers_.end(),
                                  [](const auto& each) { return each.second.report.failed; });
  if (failed && lost_.empty() && !signalled_ && may_restart()) {
    ++place_.attempt;
    StartAll();
    return;
  }
  EndAll();
}

void Nodes::EndAll() {
  // The first failure by the clocks of the nodes, put right by how far each was from ours.
  const NodeReport* root = own_.failed ? &own_ : nullptr;
  long long first = own_.failed_at_ns;
  int code = own_.exit_code;
  const auto consider = [&](const Peer& peer) {
    const NodeReport& report = peer.report;
    if (!report.failed) {
      // Without a failure the codes say how the stop went: anything else over preempted over 0.
      const int preempted = static_cast<int>(ExitCode::kPreempted);
      if (report.exit_code != 0 && (code == 0 || code == preempted)) code = report.exit_code;
      return;
    }
    const long long time = report.failed_at_ns - peer.skew_ns;
    if (root == nullptr || time < first) {
      root = &report;
      first = time;
    }
  };
  for (const auto& [fd, peer] : peers_) consider(peer);
  for (const Peer& peer : lost_) consider(peer);
  NodeReport report;
  if (root != nullptr) {
    report = *root;
  } else {
    report.exit_code = code;
  }
  json message = ReportMessage("end", report);
  std::erase_if(peers_, [](const auto& each) { return !each.second.greeted; });
  for (auto& [fd, peer] : peers_) {
    Send(peer, Line(message));
    shutdown(fd, SHUT_WR);
  }
  if (peers_.empty()) return End(report);
  // A close with bytes of theirs unread would take the message back: they go first.
  end_ = report;
  last_call_ = Clock::now() + kLastCall;
}

}  // namespace envkit

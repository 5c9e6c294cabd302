#include "launch/nodes.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "launch/report.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr int kProtocol = 1;
constexpr std::size_t kLongestLine = 1 << 20;
constexpr auto kFirstWord = 3s;  // until something is said about who is missing
constexpr auto kNextWord = 30s;
constexpr auto kRetry = 250ms;
constexpr auto kConnectTime = 5s;
constexpr auto kStatesTime = 22s;  // longer than debuggers may take
constexpr auto kLastCall = 1s;     // for the others to hear the end
constexpr double kSkewWorthSaying = 2;

long long WallNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string Line(const json& message) {
  return message.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

template <class T>
T Field(const json& message, const char* name, T fallback) {
  const auto it = message.find(name);
  if (it == message.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return it->is_string() ? it->template get<T>() : fallback;
  } else if constexpr (std::is_same_v<T, bool>) {
    return it->is_boolean() ? it->template get<T>() : fallback;
  } else {
    return it->is_number_integer() ? it->template get<T>() : fallback;
  }
}

json ReportMessage(const char* what, const NodeReport& report) {
  return {{"what", what},        {"code", report.exit_code}, {"failed", report.failed},
          {"text", report.text}, {"cause", report.cause},    {"at", report.failed_at_ns}};
}

NodeReport ReadReport(const json& message) {
  NodeReport report;
  report.exit_code = Field(message, "code", 1);
  report.failed = Field(message, "failed", false);
  report.text = Field<std::string>(message, "text", "");
  report.cause = Field<std::string>(message, "cause", "");
  report.failed_at_ns = Field(message, "at", 0LL);
  return report;
}

}  // namespace

Nodes::Nodes(const LaunchPlan& plan, Fd listener, const std::optional<Address>& local,
             int master_port)
    : plan_(plan),
      nodes_(plan.nodes),
      listener_(std::move(listener)),
      local_(local),
      master_port_(master_port),
      leading_(plan.nodes.nodes == 1 || static_cast<bool>(listener_)) {}

void Nodes::Say(std::string text) {
  NodeEvent event;
  event.text = std::move(text);
  events_.push_back(std::move(event));
}

void Nodes::Begin(Clock::time_point now) {
  began_ = now;
  next_word_ = now + kFirstWord;
  spoke_ = now;
  beat_ = nodes_.lost_after / 5;
  // Signs of the ranks' life go with the beats.
  if (plan_.hang_timeout.count() > 0) {
    beat_ =
        std::min<Clock::duration>(beat_, std::max<Clock::duration>(plan_.hang_timeout / 5, 50ms));
  }
  next_beat_ = now + beat_;
  place_.master_addr = plan_.master_addr;
  place_.master_port = master_port_;
  if (nodes_.nodes == 1) {
    StartAll();
    return;
  }
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!leading()) {
    Connect(now);
    return;
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = listener_.get();
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener_.get(), &event);
}

std::string Nodes::Name(const Peer& peer) const {
  const std::string where = peer.host.empty() || peer.host == peer.address
                                ? peer.address
                                : fmt::format("{}, {}", peer.host, peer.address);
  return peer.node_rank < 0 ? fmt::format("a node ({})", where)
                            : fmt::format("node {} ({})", peer.node_rank, where);
}

std::string Nodes::MissingNodes() const {
  std::vector<bool> there(static_cast<std::size_t>(nodes_.nodes));
  there[0] = true;
  int came = 1;
  int unnumbered = 0;
  for (const auto& [fd, peer] : peers_) {
    if (!peer.greeted) continue;
    ++came;
    if (peer.node_rank < 0) {
      ++unnumbered;
    } else {
      there[static_cast<std::size_t>(peer.node_rank)] = true;
    }
  }
  if (unnumbered > 0 || !nodes_.rank) {
    return fmt::format("{} of {} nodes", nodes_.nodes - came, nodes_.nodes);
  }
  std::vector<int> missing;
  for (int node = 0; node < nodes_.nodes; ++node) {
    if (!there[static_cast<std::size_t>(node)]) missing.push_back(node);
  }
  const std::string list = RankList(missing);  // "ranks 1, 2"
  return (missing.size() == 1 ? "node" : "nodes") + list.substr(list.find(' '));
}

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

void Nodes::Connect(Clock::time_point now) {
  next_connect_ = now + kRetry;
  peers_.clear();
  const auto addresses = Resolve(nodes_.host, nodes_.port);
  if (!addresses) {
    connect_error_ = addresses.error().what;
    return;
  }
  for (const Address& address : *addresses) {
    int error = 0;
    Fd fd = StartConnect(address, local_ ? &*local_ : nullptr, error);
    if (!fd) {
      connect_error_ = std::strerror(error);
      continue;
    }
    const int number = fd.get();
    Peer& peer = peers_[number];
    peer.fd = std::move(fd);
    peer.connecting = true;
    peer.host = nodes_.host;
    peer.address = address.Text();
    peer.heard = now;
    peer.node_rank = 0;
    next_connect_ = now + kConnectTime;
    epoll_event event{};
    event.events = EPOLLOUT;
    event.data.fd = number;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, number, &event);
    return;
  }
}

void Nodes::Send(Peer& peer, const std::string& line) {
  peer.out += line;
  Flush(peer);
}

void Nodes::Flush(Peer& peer) {
  while (!peer.out.empty() && peer.fd) {
    const ssize_t sent = send(peer.fd.get(), peer.out.data(), peer.out.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      peer.out.erase(0, static_cast<std::size_t>(sent));
    } else if (errno != EINTR) {
      break;  // EAGAIN: at the next beat; anything else is seen when reading
    }
  }
}

void Nodes::OnReady(Clock::time_point now) {
  if (!epoll_) return;
  epoll_event events[64];
  const int count = epoll_wait(epoll_.get(), events, 64, 0);
  for (int i = 0; i < count; ++i) {
    const int fd = events[i].data.fd;
    if (listener_ && fd == listener_.get()) {
      Accept(now);
      continue;
    }
    const auto it = peers_.find(fd);
    if (it == peers_.end()) continue;
    Peer& peer = it->second;
    if (peer.connecting) {
      const int error = ConnectError(fd);
      if (error != 0) {
        connect_error_ = std::strerror(error);
        peers_.erase(it);
        next_connect_ = now + kRetry;
        continue;
      }
      peer.connecting = false;
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.fd = fd;
      epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
      Send(peer, Line({{"what", "hello"},
                       {"protocol", kProtocol},
                       {"run_id", nodes_.run_id},
                       {"nodes", nodes_.nodes},
                       {"node_rank", nodes_.rank.value_or(-1)},
                       {"processes", plan_.ranks.size()},
                       {"host", HostName()},
                       {"time", WallNanoseconds()}}));
      continue;
    }
    Read(peer, now);
  }
}

void Nodes::Read(Peer& peer, Clock::time_point now) {
  char buffer[16 << 10];
  ssize_t got = 0;
  while ((got = read(peer.fd.get(), buffer, sizeof buffer)) > 0) {
    peer.heard = now;
    peer.in.append(buffer, static_cast<std::size_t>(got));
  }
  const int error = got == 0 ? 0 : errno;
  std::size_t end = 0;
  const int fd = peer.fd.get();
  while ((end = peer.in.find('\n')) != std::string::npos) {
    const std::string line = peer.in.substr(0, end);
    peer.in.erase(0, end + 1);
    if (leading() && !peer.greeted) {
      Greet(peer, line, now);
    } else {
      Heed(peer, line, now);
    }
    if (!peers_.contains(fd)) return;
  }
  if (got == 0 || (error != EAGAIN && error != EINTR) || peer.in.size() > kLongestLine) {
    Lose(peer, got == 0 ? "its launcher ended" : std::strerror(error));
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
  if (Field(message, "protocol", 0) != kProtocol) {
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

void Nodes::Heed(Peer& peer, const std::string& line, Clock::time_point now) {
  const json message = json::parse(line, nullptr, false);
  if (!message.is_object()) return;
  const std::string what = Field<std::string>(message, "what", "");
  NodeEvent event;
  if (what == "signal") {
    event.kind = NodeEvent::Kind::kSignal;
    event.number = Field(message, "number", 0);
    signalled_ = true;
    if (leading()) {  // on to the others
      for (auto& [fd, other] : peers_) {
        if (&other != &peer && other.greeted) Send(other, line + "\n");
      }
    }
    events_.push_back(std::move(event));
  } else if (what == "hang") {
    event.kind = NodeEvent::Kind::kHang;
    events_.push_back(std::move(event));
  } else if (leading()) {
    if (what == "beat") {
      peer.spoke = now - std::chrono::milliseconds(Field(message, "quiet", 0LL));
    } else if (what == "states") {
      peer.states = Field<std::string>(message, "states", "[]");
    } else if (what == "failed") {
      StopOthers(peer.node_rank, fmt::format("a rank of {} has failed", Name(peer)));
    } else if (what == "over") {
      peer.over = true;
      peer.report = ReadReport(message);
      Decide();
    }
  } else if (what == "start") {
    started_ = true;
    over_ = stopping_ = false;
    place_.attempt = Field(message, "attempt", 0);
    place_.node_rank = Field(message, "node_rank", 0);
    place_.first_rank = Field(message, "first_rank", 0);
    place_.world_size = Field(message, "world_size", 1);
    place_.master_port = Field(message, "master_port", 0);
    event.kind = NodeEvent::Kind::kStart;
    event.place = place_;
    events_.push_back(std::move(event));
  } else if (what == "stop") {
    stopping_ = true;
    event.kind = NodeEvent::Kind::kStop;
    event.text = Field<std::string>(message, "why", "");
    events_.push_back(std::move(event));
  } else if (what == "end") {
    End(ReadReport(message));
    peers_.clear();
  } else if (what == "refused") {
    const Error error{ExitCode::kUsage,
                      fmt::format("node 0 at {}:{} turned this launcher away: {}", nodes_.host,
                                  nodes_.port, Field<std::string>(message, "why", "")),
                      Field<std::string>(message, "next", ""),
                      {},
                      false};
    NodeReport report;
    report.exit_code = static_cast<int>(ExitCode::kUsage);
    report.failed = true;
    report.text = error.Text();
    End(report);
  }
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

void Nodes::LoseLeader(const std::string& why) {
  peers_.clear();
  if (ended_) return;
  leader_lost_ = fmt::format("node 0 ({}:{}) was lost: {}", nodes_.host, nodes_.port, why);
  NodeReport report;
  report.failed = true;
  report.exit_code = 1;
  report.text = leader_lost_ + "\n  next    its own report says why\nexit code 1\n";
  report.cause = json{{"node", 0}, {"text", leader_lost_}}.dump();
  if (!started_ || over_) {
    End(own_.failed ? own_ : report);
    return;
  }
  end_ = report;
  NodeEvent event;
  event.kind = NodeEvent::Kind::kStop;
  event.text = leader_lost_;
  events_.push_back(std::move(event));
}

void Nodes::Failed() {
  if (leading()) {
    StopOthers(place_.node_rank, "a rank of node 0 has failed");
  } else if (!peers_.empty() && !stopping_) {
    stopping_ = true;
    Send(peers_.begin()->second, Line({{"what", "failed"}}));
  }
}

Nodes::Clock::time_point Nodes::LastSpoke() const {
  Clock::time_point last = spoke_;
  for (const auto& [fd, peer] : peers_) {
    if (leading() && peer.greeted) last = std::max(last, peer.spoke);
  }
  return last;
}

void Nodes::Hangs() {
  for (auto& [fd, peer] : peers_) {
    if (peer.greeted) Send(peer, Line({{"what", "hang"}}));
  }
}

void Nodes::TellStates(const std::string& states, Clock::time_point now) {
  states_due_ = now + kStatesTime;
  if (leading() || peers_.empty()) return;
  Send(peers_.begin()->second, Line({{"what", "states"}, {"states", states}}));
}

bool Nodes::AllStatesToldBy(Clock::time_point now) const {
  return now >= states_due_ || std::all_of(peers_.begin(), peers_.end(), [](const auto& each) {
           return !each.second.greeted || !each.second.states.empty();
         });
}

std::vector<std::string> Nodes::TakeStates() const {
  std::vector<std::string> states;
  for (const auto& [fd, peer] : peers_) {
    if (!peer.states.empty()) states.push_back(peer.states);
  }
  return states;
}

void Nodes::Signalled(int signal) {
  signalled_ = true;
  for (auto& [fd, peer] : peers_) {
    if (peer.greeted || !leading()) {
      Send(peer, Line({{"what", "signal"}, {"number", signal}}));
    }
  }
  if (!started_ && !ended_) {
    NodeReport report;
    report.exit_code = 128 + signal;
    End(report);
  }
}

void Nodes::Over(NodeReport report) {
  over_ = true;
  own_ = std::move(report);
  if (leading()) {
    Decide();
  } else if (!peers_.empty()) {
    Send(peers_.begin()->second, Line(ReportMessage("over", own_)));
  } else if (!ended_) {
    End(own_.failed || !end_ ? own_ : *end_);
  }
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

void Nodes::End(NodeReport report) {
  if (ended_) return;
  ended_ = true;
  NodeEvent event;
  event.kind = NodeEvent::Kind::kEnd;
  event.report = std::move(report);
  events_.push_back(std::move(event));
}

void Nodes::Tick(Clock::time_point now) {
  if (nodes_.nodes == 1 || ended_) return;
  if (leading() && end_) {
    if (now >= last_call_ || peers_.empty()) End(*end_);
    return;
  }
  const bool joined = leading() ? started_ : !peers_.empty() && !peers_.begin()->second.connecting;
  if (!leading() && peers_.empty() && !started_ && now >= next_connect_) Connect(now);
  if (!leading() && !peers_.empty() && peers_.begin()->second.connecting && now >= next_connect_) {
    connect_error_ = "no answer";
    Connect(now);
  }
  if (!started_ && now - began_ > nodes_.join_timeout) {
    Error error;
    error.code = ExitCode::kMissing;
    const auto waited = DurationText(nodes_.join_timeout);
    if (leading()) {
      error.what = fmt::format("{} did not come to {}:{} in {}", MissingNodes(), nodes_.host,
                               nodes_.port, waited);
      error.next = fmt::format(
          "Start envkit launch there, or see whether they reach this machine "
          "({}).\nMore time: --rdzv-conf join_timeout=SECONDS",
          InterfacesText(Interfaces()));
    } else if (joined) {
      error.what = fmt::format("node 0 at {}:{} waited in vain for other nodes ({})", nodes_.host,
                               nodes_.port, waited);
      error.next = "Its own report says for which.";
    } else {
      error.what = fmt::format("node 0 cannot be reached at {}:{}: {} (tried for {})", nodes_.host,
                               nodes_.port, connect_error_, waited);
      error.next = fmt::format(
          "This machine has {}{}.\nName the interface that leads to node 0: "
          "--interface NAME",
          InterfacesText(Interfaces()),
          local_ ? fmt::format("; {} was to be used", nodes_.local) : "");
    }
    NodeReport report;
    report.failed = true;
    report.exit_code = static_cast<int>(ExitCode::kMissing);
    report.text = error.Text();
    for (auto& [fd, peer] : peers_) {
      if (leading() && peer.greeted) {
        Send(peer, Line({{"what", "refused"}, {"why", error.what}, {"next", ""}}));
      }
    }
    return End(report);
  }
  if (!started_ && now >= next_word_) {
    next_word_ = now + kNextWord;
    if (leading()) {
      Say(fmt::format("waiting for {} at {}:{}\n", MissingNodes(), nodes_.host, nodes_.port));
    } else {
      Say(fmt::format("waiting for {} at {}:{}{}\n", joined ? "the other nodes" : "node 0",
                      nodes_.host, nodes_.port,
                      joined || connect_error_.empty() ? "" : " (" + connect_error_ + ")"));
    }
  }
  if (now < next_beat_) return;
  next_beat_ = now + beat_;
  const auto quiet = std::chrono::duration_cast<std::chrono::milliseconds>(now - spoke_).count();
  std::vector<int> silent;
  for (auto& [fd, peer] : peers_) {
    if (peer.connecting || (leading() && !peer.greeted)) continue;
    Send(peer, Line({{"what", "beat"}, {"quiet", quiet}}));
    if (now - peer.heard > nodes_.lost_after) silent.push_back(fd);
  }
  for (const int fd : silent) {
    if (const auto it = peers_.find(fd); it != peers_.end()) {
      Lose(it->second, fmt::format("no sign of it for {}", DurationText(nodes_.lost_after)));
    }
  }
}

std::optional<Nodes::Clock::time_point> Nodes::NextTick() const {
  if (nodes_.nodes == 1 || ended_) return std::nullopt;
  if (leading() && end_) return last_call_;
  Clock::time_point next = next_beat_;
  if (!started_) {
    next = std::min({next, next_word_, began_ + nodes_.join_timeout + 1ms});
    if (!leading() && (peers_.empty() || peers_.begin()->second.connecting)) {
      next = std::min(next, next_connect_);
    }
  }
  return next;
}

}  // namespace envkit

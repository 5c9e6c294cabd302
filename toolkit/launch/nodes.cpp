#include "launch/nodes.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "launch/node_messages.h"
#include "launch/report.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr std::size_t kLongestLine = 1 << 20;
constexpr auto kFirstWord = 3s;  // until something is said about who is missing
constexpr auto kNextWord = 30s;
constexpr auto kRetry = 250ms;
constexpr auto kConnectTime = 5s;
constexpr auto kStatesTime = 22s;  // longer than debuggers may take

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
                       {"protocol", kNodeProtocol},
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

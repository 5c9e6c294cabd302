// The launchers of a job, one on each node, as one: they start, restart and end together.
//
// Node 0 listens at the rendezvous endpoint, and every other launcher connects to it. Lines of JSON
// go over the connections: who has come, where everybody's ranks stand, the first failure, signals,
// signs of life, the end. A launcher that ends is noticed at once (its connection closes), a node
// that is cut off after `lost_after` without a sign. The ranks themselves never speak here: they
// meet at MASTER_ADDR:MASTER_PORT, which rank 0 opens.
//
// The run id keeps launchers of different jobs apart that meet by accident. It is no secret and no
// protection: who reaches the port can disturb the job, as with torchrun. `--interface` binds the
// port to one network.
//
// A job on one node goes through here as well, without any connection.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/net.h"
#include "launch/plan.h"
#include "launch/process.h"

namespace envkit {

// How a node's part of an attempt ended.
struct NodeReport {
  int exit_code = 0;
  bool failed = false;         // and not: ended well, was told to end
  std::string text;            // for people; of the root cause
  std::string cause;           // the root cause as JSON, for outcome.json
  long long failed_at_ns = 0;  // on this node's clock
};

struct NodeEvent {
  enum class Kind {
    kStart,   // start the ranks at PLACE
    kStop,    // end them: another node's have failed (TEXT)
    kSignal,  // another node got signal NUMBER
    kEnd,     // all is over; REPORT is the job's, whose ever it is
    kSay,     // TEXT is for the user
    kHang,    // node 0 says that the job hangs: look at our ranks
  };
  Kind kind = Kind::kSay;
  Placement place;
  int number = 0;
  std::string text;
  NodeReport report;
};

class Nodes {
 public:
  using Clock = std::chrono::steady_clock;
  // LISTENER: node 0's, bound already. MASTER_PORT: the one that node 0 holds for the ranks.
  Nodes(const LaunchPlan& plan, Fd listener, const std::optional<Address>& local, int master_port);

  void Begin(Clock::time_point now);
  int poll_fd() const { return epoll_.get(); }  // -1: there is nothing to wait for
  void OnReady(Clock::time_point now);
  void Tick(Clock::time_point now);
  std::optional<Clock::time_point> NextTick() const;
  std::vector<NodeEvent> Take() { return std::exchange(events_, {}); }

  void Failed();  // one of our ranks has failed, and ours are being ended
  void Signalled(int signal);
  void Over(NodeReport report);  // no process of this attempt is left here
  // When a rank of ours last printed, and when one of any node did (node 0 alone knows).
  void Spoke(Clock::time_point last) { spoke_ = last; }
  Clock::time_point LastSpoke() const;
  // Node 0: the job hangs; and what the other nodes say of their ranks, in JSON, once all have or
  // their time is up. Others: what ours do.
  void Hangs();
  void TellStates(const std::string& states, Clock::time_point now);
  bool AllStatesToldBy(Clock::time_point now) const;
  std::vector<std::string> TakeStates() const;

  bool may_restart() const { return place_.attempt < plan_.max_restarts; }

 private:
  struct Peer {
    Fd fd;
    std::string in, out;
    bool connecting = false;
    bool greeted = false;
    int node_rank = -1;
    int processes = 0;
    std::string host;
    std::string address;
    long long skew_ns = 0;  // its clock less ours
    Clock::time_point heard;
    Clock::time_point spoke;  // its ranks
    std::string states;
    bool over = false;
    NodeReport report;
  };
  bool leading() const { return leading_; }
  void Accept(Clock::time_point now);
  void Connect(Clock::time_point now);
  void Read(Peer& peer, Clock::time_point now);
  void Heed(Peer& peer, const std::string& line, Clock::time_point now);
  void Greet(Peer& peer, const std::string& line, Clock::time_point now);
  void Send(Peer& peer, const std::string& line);
  void Flush(Peer& peer);
  void Lose(Peer& peer, const std::string& why);
  void LoseLeader(const std::string& why);
  void StartAll();
  void StopOthers(int origin, const std::string& why);
  void Decide();
  void EndAll();
  void End(NodeReport report);
  void Say(std::string text);
  std::string Name(const Peer& peer) const;
  std::string MissingNodes() const;

  const LaunchPlan& plan_;
  const NodePlan& nodes_;
  Fd listener_;
  std::optional<Address> local_;
  int master_port_;
  bool leading_;
  Fd epoll_;
  std::map<int, Peer> peers_;  // by descriptor; node 0's others, or node 0 alone
  std::vector<Peer> lost_;     // that had been greeted
  std::vector<NodeEvent> events_;
  Placement place_;
  bool started_ = false;
  bool ended_ = false;
  bool over_ = false;       // our own part
  bool stopping_ = false;   // this attempt has failed somewhere
  bool signalled_ = false;  // the job was told to end
  NodeReport own_;
  std::optional<NodeReport> end_;  // told to the others, who have yet to go
  std::string leader_lost_;
  std::string connect_error_;
  Clock::time_point began_, next_beat_, next_word_, next_connect_, last_call_, spoke_;
  Clock::time_point states_due_;
  Clock::duration beat_{};
};

}  // namespace envkit

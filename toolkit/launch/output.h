// What the ranks print, on its way to the user. Rank 0 passes through byte for byte (it may redraw
// a progress bar with \r); the other ranks come as whole lines after "[1] ". Nothing here blocks:
// a slow reader makes `Congested` true, and the supervisor stops reading from the ranks meanwhile.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "launch/process.h"

namespace envkit {

// One of our own output descriptors. It is shared with whoever started us, so it is never made
// non-blocking itself: pipes and terminals are opened anew, sockets get MSG_DONTWAIT.
class Sink {
 public:
  explicit Sink(int fd);
  void Write(std::string_view text);
  void Flush();  // as much as goes without waiting
  int poll_fd() const { return own_ ? own_.get() : fd_; }
  std::size_t queued() const { return queue_.size() - sent_; }
  bool gone() const { return gone_; }  // the reader went away: what comes is dropped
  bool terminal() const { return terminal_; }
  // Beyond this much, what cannot be written is dropped (while ranks are being ended).
  void Limit(std::size_t bytes) { limit_ = bytes; }

 private:
  enum class Kind { kFile, kOwn, kSocket, kPolled };
  long TryWrite(std::string_view text);
  int fd_;
  Fd own_;
  Kind kind_ = Kind::kFile;
  bool terminal_ = false;
  bool gone_ = false;
  std::size_t limit_ = ~std::size_t{0};
  std::string queue_;
  std::size_t sent_ = 0;
};

enum RankStream { kOut = 0, kErr = 1 };

class Console {
 public:
  using Clock = std::chrono::steady_clock;
  Console(int out_fd, int err_fd);

  void Raw(RankStream stream, std::string_view bytes);    // rank 0
  void Lines(RankStream stream, std::string_view lines);  // whole lines of the others, prefixed
  void Message(std::string_view lines);                   // our own, to stderr, at a line's start
  void Tick(Clock::time_point now);  // lets out lines that have waited long enough
  bool Waiting() const { return !held_[0].empty() || !held_[1].empty(); }

  Sink& sink(RankStream stream) { return sinks_[stream]; }
  bool Congested(RankStream stream) const { return sinks_[stream].queued() > kHighWater; }
  bool Relaxed(RankStream stream) const { return sinks_[stream].queued() < kHighWater / 4; }

 private:
  static constexpr std::size_t kHighWater = 1 << 20;
  bool& MidLine(RankStream stream) { return mid_line_[same_ ? 0 : stream]; }
  void LetOut(RankStream stream);
  Sink sinks_[2];
  bool same_;              // both go to one terminal, pipe or file
  bool mid_line_[2] = {};  // rank 0 has written part of a line
  std::string held_[2];    // lines of others, waiting for rank 0 to finish its line
  Clock::time_point held_since_;
};

// Cuts a stream of bytes into prefixed whole lines. Where a line was redrawn with \r, its last
// state.
class LineCutter {
 public:
  explicit LineCutter(std::string prefix) : prefix_(std::move(prefix)) {}
  void Add(std::string_view bytes, std::string& lines);
  void Finish(std::string& lines);  // a last line without its end

 private:
  void Emit(std::string_view line, std::string& lines) const;
  std::string prefix_;
  std::string partial_;
};

}  // namespace envkit

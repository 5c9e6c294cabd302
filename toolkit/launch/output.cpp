#include "launch/output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace envkit {
namespace {

using namespace std::chrono_literals;

constexpr auto kHoldTime = 200ms;
constexpr std::size_t kHeldLimit = 1 << 20;
constexpr std::size_t kPartialLimit = 64 << 10;

bool SameFile(int a, int b) {
  struct stat first {
  }, second{};
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

}  // namespace

Sink::Sink(int fd) : fd_(fd), terminal_(isatty(fd) == 1) {
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    gone_ = true;
  } else if (S_ISSOCK(info.st_mode)) {
    kind_ = Kind::kSocket;
  } else if (S_ISFIFO(info.st_mode) || terminal_) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    own_ = Fd(open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    kind_ = own_ ? Kind::kOwn : Kind::kPolled;
  }
}

long Sink::TryWrite(std::string_view text) {
  switch (kind_) {
    case Kind::kFile:
      return write(fd_, text.data(), text.size());
    case Kind::kOwn:
      return write(own_.get(), text.data(), text.size());
    case Kind::kSocket:
      return send(fd_, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    case Kind::kPolled: {
      // A pipe that is ready takes PIPE_BUF bytes without waiting.
      pollfd ready{fd_, POLLOUT, 0};
      if (poll(&ready, 1, 0) != 1) {
        errno = EAGAIN;
        return -1;
      }
      return write(fd_, text.data(), std::min<std::size_t>(text.size(), terminal_ ? 256 : 4096));
    }
  }
  return -1;
}

void Sink::Flush() {
  while (!gone_ && sent_ < queue_.size()) {
    const long wrote = TryWrite(std::string_view(queue_).substr(sent_));
    if (wrote >= 0) {
      sent_ += static_cast<std::size_t>(wrote);
    } else if (errno == EAGAIN || errno == ENOBUFS) {
      if (sent_ > queue_.size() / 2) {
        queue_.erase(0, sent_);
        sent_ = 0;
      }
      return;
    } else if (errno != EINTR) {
      gone_ = true;  // EPIPE: the reader ended; EIO: the terminal went away; ENOSPC
    }
  }
  queue_.clear();
  sent_ = 0;
}

void Sink::Write(std::string_view text) {
  if (gone_ || text.empty()) return;
  if (queue_.empty()) {  // the usual case: nothing waits, and nothing is copied
    while (!text.empty()) {
      const long wrote = TryWrite(text);
      if (wrote < 0) break;
      text.remove_prefix(static_cast<std::size_t>(wrote));
    }
    if (text.empty()) return;
  }
  if (queued() + text.size() > limit_) return;
  queue_ += text;
  Flush();
}

Console::Console(int out_fd, int err_fd)
    : sinks_{Sink(out_fd), Sink(err_fd)}, same_(SameFile(out_fd, err_fd)) {}

void Console::Raw(RankStream stream, std::string_view bytes) {
  if (bytes.empty()) return;
  const bool others_wait = Waiting();
  if (others_wait && !MidLine(stream)) LetOut(stream);
  if (others_wait && MidLine(stream)) {
    // Rank 0's line ends somewhere in here: the others' lines go right behind it.
    if (const std::size_t end = bytes.find('\n'); end != std::string_view::npos) {
      sinks_[stream].Write(bytes.substr(0, end + 1));
      MidLine(stream) = false;
      bytes.remove_prefix(end + 1);
      LetOut(stream);
    }
  }
  if (bytes.empty()) return;
  sinks_[stream].Write(bytes);
  MidLine(stream) = bytes.back() != '\n';
}

void Console::LetOut(RankStream stream) {
  for (const RankStream each : {kOut, kErr}) {
    if (&MidLine(each) != &MidLine(stream)) continue;
    sinks_[each].Write(held_[each]);
    held_[each].clear();
  }
}

void Console::Lines(RankStream stream, std::string_view lines) {
  if (lines.empty()) return;
  bool& mid_line = MidLine(stream);
  if (mid_line && sinks_[stream].terminal()) {
    // Over rank 0's progress bar, which draws itself again at its next step.
    sinks_[stream].Write("\r\x1b[K");
    mid_line = false;
  }
  if (!mid_line) {
    sinks_[stream].Write(lines);
    return;
  }
  if (!Waiting()) held_since_ = Clock::now();
  held_[stream] += lines;
  if (held_[stream].size() > kHeldLimit) Tick(Clock::time_point::max());
}

void Console::Message(std::string_view lines) {
  Tick(Clock::time_point::max());
  if (MidLine(kErr)) sinks_[kErr].Write("\n");
  MidLine(kErr) = false;
  sinks_[kErr].Write(lines);
}

void Console::Tick(Clock::time_point now) {
  if (!Waiting() || now - held_since_ < kHoldTime) return;
  for (const RankStream stream : {kOut, kErr}) {
    if (held_[stream].empty()) continue;
    if (MidLine(stream)) sinks_[stream].Write("\n");
    MidLine(stream) = false;
    sinks_[stream].Write(held_[stream]);
    held_[stream].clear();
  }
}

void LineCutter::Emit(std::string_view line, std::string& lines) const {
  while (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  if (const std::size_t at = line.rfind('\r'); at != std::string_view::npos) {
    line.remove_prefix(at + 1);
  }
  lines += prefix_;
  lines += line;
  lines += '\n';
}

void LineCutter::Add(std::string_view bytes, std::string& lines) {
  std::size_t end = 0;
  while ((end = bytes.find('\n')) != std::string_view::npos) {
    if (partial_.empty()) {
      Emit(bytes.substr(0, end), lines);
    } else {
      partial_ += bytes.substr(0, end);
      Emit(partial_, lines);
      partial_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
  partial_ += bytes;
  if (partial_.size() > kPartialLimit) {
    const std::size_t redrawn = partial_.rfind('\r', partial_.size() - 2);
    if (redrawn != std::string::npos) {
      partial_.erase(0, redrawn + 1);
    } else {
      Finish(lines);
    }
  }
}

void LineCutter::Finish(std::string& lines) {
  if (!partial_.empty()) Emit(partial_, lines);
  partial_.clear();
}

}  // namespace envkit

// The one object that writes for people. Progress bars and colour only on a TTY; the same facts as
// plain lines otherwise. Human output goes to stderr; stdout carries the answer alone (JSON, or a
// job's own output), so that `envkit … --json | jq` always works.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace envkit {

enum class Verbosity { kQuiet, kNormal, kVerbose };

class Terminal;

// One progress line: bytes or items. Thread-safe. Ends with its destructor.
class Progress {
 public:
  ~Progress();
  void Add(std::uint64_t amount);  // may be called from several threads
  void Set(std::uint64_t amount);
  void SetTotal(std::uint64_t total);     // 0: unknown
  void SetLabel(std::string_view label);  // what is being worked on now
  void Done(
      std::string_view summary = "");  // replaces the bar by one plain line; empty: by nothing

 private:
  friend class Terminal;
  struct State;
  explicit Progress(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

class Terminal {
 public:
  struct Options {
    Verbosity verbosity = Verbosity::kNormal;
    bool json = false;  // stdout is for JSON
    int error_fd = 2;   // where people read
    int output_fd = 1;  // where the answer goes
    bool tty = false;   // error_fd is a terminal (detected by Detect)
    bool colour = false;
    int columns = 80;
  };
  static Options Detect();  // isatty, NO_COLOR, TERM=dumb, CI, window size
  explicit Terminal(Options options);
  ~Terminal() = default;
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // "build    4 layers: …": verb in a column of 9, as in the transcripts. Silent with --quiet.
  void Step(std::string_view verb, std::string_view text);
  void Note(std::string_view text);    // a continuation under a Step, indented by 9
  void Detail(std::string_view text);  // only with --verbose
  void Warn(std::string_view text);    // "warning: …", also with --quiet
  void Error(std::string_view text);   // as given (Error::Text), always
  void Answer(std::string_view text);  // to stdout, as given plus a newline where it has none

  // unit: "B" prints HumanBytes and a rate; anything else counts items ("files").
  // On a pipe: a line at the start, one at most every 10 s, one at the end.
  std::unique_ptr<Progress> StartProgress(std::string_view verb, std::string_view label,
                                          std::uint64_t total, std::string_view unit = "B");

  const Options& options() const { return options_; }
  bool verbose() const { return options_.verbosity == Verbosity::kVerbose; }

 private:
  friend class Progress;
  void PrintLine(std::string_view style, std::string_view head, std::string_view text);
  void Write(int fd, std::string_view text);
  void Redraw();
  Options options_;
  std::mutex mutex_;
  Progress::State* active_ = nullptr;
};

}  // namespace envkit

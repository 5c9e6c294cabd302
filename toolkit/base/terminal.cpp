#include "base/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <deque>
#include <utility>

#include "base/files.h"

namespace envkit {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kVerbWidth = 9;
constexpr int kBarCells = 20;
constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr auto kPlainEvery = std::chrono::seconds(10);
constexpr double kRateWindow = 5;  // seconds

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Texts hold file names and other programs' words: they must not steer the terminal.
std::string Clean(std::string_view text) {
  std::string clean(text);
  for (char& c : clean) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) c = '?';
  }
  return clean;
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Columns, with one per code point: close enough for file names.
std::size_t Width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !IsContinuation(c); }));
}

std::string_view FirstColumns(std::string_view text, std::size_t columns) {
  std::size_t at = 0;
  while (at < text.size() && (columns > 0 || IsContinuation(text[at]))) {
    if (!IsContinuation(text[at])) --columns;
    ++at;
    while (at < text.size() && IsContinuation(text[at])) ++at;
  }
  return text.substr(0, at);
}

// Keeps the start and the end, which name the package and the kind of file.
std::string Shorten(std::string_view text, std::size_t columns) {
  const std::size_t width = Width(text);
  if (width <= columns) return std::string(text);
  if (columns < 2) return std::string(FirstColumns(text, columns));
  const std::size_t tail = std::min<std::size_t>(4, (columns - 1) / 2);
  const std::size_t head = columns - 1 - tail;
  const std::size_t skipped = FirstColumns(text, width - tail).size();
  return std::string(FirstColumns(text, head)) + "…" + std::string(text.substr(skipped));
}

std::string Padded(std::string_view verb) {
  std::string text(verb);
  const std::size_t width = Width(text);
  // At least one space, also after a verb that is too long for its column.
  text.append(width < kVerbWidth ? kVerbWidth - width : 1, ' ');
  return text;
}

// What is left is a dim line where there is colour, else empty.
std::string Bar(double share, bool colour) {
  const double filled = std::clamp(share, 0.0, 1.0) * kBarCells;
  const int whole = static_cast<int>(filled);
  std::string bar;
  int cells = 0;
  for (; cells < whole; ++cells) bar += "━";
  if (cells < kBarCells && filled - whole >= 0.5) {
    bar += "╸";
    ++cells;
  }
  if (colour) bar += "\033[2m";
  for (; cells < kBarCells; ++cells) bar += colour ? "━" : " ";
  if (colour) bar += "\033[0m";
  return bar;
}

bool EnvSet(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

}  // namespace

struct Progress::State {
  Terminal* terminal = nullptr;
  State* below = nullptr;  // the progress that this one covers
  std::string verb;
  std::string label;
  std::string unit;
  std::uint64_t total = 0;
  std::uint64_t done = 0;
  bool moved = false;  // a first Set is where a resumed job starts, not work done now
  bool ended = false;
  Clock::time_point started = Clock::now();
  Clock::time_point drawn;
  std::deque<std::pair<Clock::time_point, std::uint64_t>> samples;

  void Sample(Clock::time_point now) {
    if (!samples.empty() && now - samples.back().first < kRedrawEvery) return;
    samples.emplace_back(now, done);
    // A network's speed now is what counts; files take as long as they take, so all of them do.
    while (unit == "B" && samples.size() > 2 &&
           Seconds(now - samples.front().first) > kRateWindow) {
      samples.pop_front();
    }
  }
  double Rate(Clock::time_point now) const {
    if (samples.empty() || done <= samples.front().second) return 0;
    const double seconds = Seconds(now - samples.front().first);
    return seconds < 0.2 ? 0 : static_cast<double>(done - samples.front().second) / seconds;
  }
  std::string Amount() const {
    if (unit == "B") return total == 0 ? HumanBytes(done) : HumanBytes(total);
    return total == 0 ? fmt::format("{} {}", done, unit)
                      : fmt::format("{}/{} {}", done, total, unit);
  }
  double Share() const {
    return total == 0 ? 0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  }
  // "62 MB/s  3 s"
  std::string Speed(Clock::time_point now) const {
    const double rate = Rate(now);
    if (rate <= 0) return "";
    std::string text;
    if (unit == "B") text = "  " + HumanBytes(static_cast<std::uint64_t>(rate)) + "/s";
    if (total > done && samples.size() > 1) {
      text += "  " + HumanSeconds(std::ceil(static_cast<double>(total - done) / rate));
    }
    return text;
  }
  std::string Line(std::size_t columns, Clock::time_point now, bool colour) const {
    const std::string percent = fmt::format("  {:3.0f}%", std::floor(Share() * 100));
    std::string before = "  " + Amount();
    std::string after = total > 0 ? percent : "";
    after += Speed(now);
    bool with_bar = total > 0;
    const auto fixed = [&] {
      // One column stays free: a full last column would wrap on some terminals.
      return kVerbWidth + Width(before) + (with_bar ? kBarCells + 2 : 0) + Width(after) + 1;
    };
    if (fixed() + 8 > columns) {
      with_bar = false;
      if (total > 0) before.clear();
      after = total > 0 ? percent : "";
    }
    const std::size_t room = columns > fixed() ? columns - fixed() : 0;
    return Padded(verb) + Shorten(label, room) + before +
           (with_bar ? "  " + Bar(Share(), colour) : "") + after;
  }
  std::string PlainLine(Clock::time_point now) const {
    if (total == 0) return fmt::format("{}{}  {}{}\n", Padded(verb), label, Amount(), Speed(now));
    const std::string amount =
        unit == "B" ? fmt::format("{} of {}", HumanBytes(done), HumanBytes(total)) : Amount();
    return fmt::format("{}{}  {}  {:.0f}%{}\n", Padded(verb), label, amount,
                       std::floor(Share() * 100), Speed(now));
  }
};

Progress::Progress(std::unique_ptr<State> state) : state_(std::move(state)) {}
Progress::~Progress() { Done(); }

void Progress::Add(std::uint64_t amount) {
  const std::lock_guard lock(state_->terminal->mutex_);
  if (!state_->moved) {
    state_->moved = true;
    state_->Sample(Clock::now());
  }
  state_->done += amount;
  state_->terminal->Redraw();
}

void Progress::Set(std::uint64_t amount) {
  const std::lock_guard lock(state_->terminal->mutex_);
  state_->done = amount;
  const bool back = !state_->samples.empty() && amount < state_->samples.back().second;
  if (!state_->moved || back) state_->samples.clear();
  state_->moved = true;
  state_->Sample(Clock::now());
  state_->terminal->Redraw();
}

void Progress::SetTotal(std::uint64_t total) {
  const std::lock_guard lock(state_->terminal->mutex_);
  state_->total = total;
  state_->terminal->Redraw();
}

void Progress::SetLabel(std::string_view label) {
  const std::lock_guard lock(state_->terminal->mutex_);
  state_->label = Clean(label);
  state_->terminal->Redraw();
}

void Progress::Done(std::string_view summary) {
  Terminal& terminal = *state_->terminal;
  const std::lock_guard lock(terminal.mutex_);
  if (state_->ended) return;
  state_->ended = true;
  for (State** at = &terminal.active_; *at != nullptr; at = &(*at)->below) {
    if (*at == state_.get()) {
      *at = state_->below;
      break;
    }
  }
  if (terminal.options_.verbosity == Verbosity::kQuiet) return;
  std::string text = terminal.options_.tty ? "\r\033[K" : "";
  if (!summary.empty()) text += Padded(state_->verb) + Clean(summary) + "\n";
  terminal.Write(terminal.options_.error_fd, text);
  terminal.Redraw();
}

Terminal::Options Terminal::Detect() {
  Options options;
  const char* term = std::getenv("TERM");
  const bool dumb = term == nullptr || *term == '\0' || std::string_view(term) == "dumb";
  options.tty = isatty(options.error_fd) == 1 && !dumb && !EnvSet("CI");
  options.colour = options.tty && !EnvSet("NO_COLOR");
  winsize size{};
  if (ioctl(options.error_fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    options.columns = size.ws_col;
  }
  return options;
}

Terminal::Terminal(Options options) : options_(options) {}

// Called with the mutex held, as Redraw is.
void Terminal::Write(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = write(fd, text.data(), text.size());
    if (put > 0) {
      text.remove_prefix(static_cast<std::size_t>(put));
    } else if (errno == EAGAIN) {
      usleep(1000);  // somebody made our terminal non-blocking
    } else if (errno != EINTR) {
      return;  // nobody reads any more; the work itself goes on
    }
  }
}

void Terminal::Redraw() {
  if (active_ == nullptr || options_.verbosity == Verbosity::kQuiet) return;
  Progress::State& state = *active_;
  const auto now = Clock::now();
  if (!options_.tty) {
    if (now - state.drawn < kPlainEvery || now - state.started < kPlainEvery) return;
    state.Sample(now);
    Write(options_.error_fd, state.PlainLine(now));
    state.drawn = now;
    return;
  }
  if (now - state.drawn < kRedrawEvery) return;
  state.Sample(now);
  winsize size{};
  if (ioctl(options_.error_fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    options_.columns = size.ws_col;
  }
  const auto columns = static_cast<std::size_t>(std::max(options_.columns, 20));
  Write(options_.error_fd, "\r\033[K" + state.Line(columns, now, options_.colour));
  state.drawn = now;
}

void Terminal::Step(std::string_view verb, std::string_view text) {
  if (options_.verbosity == Verbosity::kQuiet) return;
  PrintLine(options_.colour ? "\033[1m" : "", Padded(verb), Clean(text));
}

void Terminal::Note(std::string_view text) {
  if (options_.verbosity == Verbosity::kQuiet) return;
  PrintLine("", std::string(kVerbWidth, ' '), Clean(text));
}

void Terminal::Detail(std::string_view text) {
  if (!verbose()) return;
  PrintLine(options_.colour ? "\033[2m" : "", "", Clean(text));
}

void Terminal::Warn(std::string_view text) {
  PrintLine(options_.colour ? "\033[33m" : "", "warning: ", Clean(text));
}

void Terminal::Error(std::string_view text) {
  const std::string clean = Clean(text);
  const std::string_view prefix = clean.starts_with("error: ") ? "error: " : "";
  PrintLine(options_.colour ? "\033[31m" : "", prefix,
            std::string_view(clean).substr(prefix.size()));
}

void Terminal::Answer(std::string_view text) {
  const std::lock_guard lock(mutex_);
  std::string out(text);
  if (out.empty() || out.back() != '\n') out += '\n';
  if (active_ != nullptr && options_.tty) Write(options_.error_fd, "\r\033[K");
  Write(options_.output_fd, out);
  Redraw();
}

void Terminal::PrintLine(std::string_view style, std::string_view head, std::string_view text) {
  const std::lock_guard lock(mutex_);
  std::string line;
  if (active_ != nullptr && options_.tty) {
    line = "\r\033[K";
    active_->drawn = {};
  }
  line += style;
  line += head;
  if (!style.empty()) line += "\033[0m";
  line += text;
  if (line.empty() || line.back() != '\n') line += '\n';
  Write(options_.error_fd, line);
  if (options_.tty) Redraw();
}

std::unique_ptr<Progress> Terminal::StartProgress(std::string_view verb, std::string_view label,
                                                  std::uint64_t total, std::string_view unit) {
  auto state = std::make_unique<Progress::State>();
  state->terminal = this;
  state->verb = verb;
  state->label = Clean(label);
  state->unit = unit;
  state->total = total;
  const std::lock_guard lock(mutex_);
  state->below = active_;
  active_ = state.get();
  if (!options_.tty && options_.verbosity != Verbosity::kQuiet) {
    const std::string amount = total == 0 ? "" : "  " + state->Amount();
    const std::string start =
        unit == "B" || total == 0 ? amount : fmt::format("  {} {}", total, unit);
    Write(options_.error_fd, Padded(verb) + state->label + start + "\n");
  }
  Redraw();
  return std::unique_ptr<Progress>(new Progress(std::move(state)));
}

}  // namespace envkit

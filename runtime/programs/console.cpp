#include "console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <string_view>

namespace envkit {
namespace {

void Print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = write(STDOUT_FILENO, text.data(), text.size());
    if (wrote < 0 && errno != EINTR) return;  // nobody reads: training goes on
    if (wrote > 0) text.remove_prefix(static_cast<std::size_t>(wrote));
  }
}

}  // namespace

std::string Thousands(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3 && text[at - 4] != '-'; at -= 3)
    text.insert(at - 3, ",");
  return text;
}

std::string Duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string ProgressText(const Progress& progress, int cells) {
  std::string bar;
  if (cells > 0) {
    const double halves = progress.done * cells * 2;
    for (int cell = 0; cell < cells; ++cell)
      bar += halves >= 2 * cell + 2 ? "━" : halves >= 2 * cell + 1 ? "╸" : " ";
    bar += " ";
  }
  return fmt::format("epoch {}/{} {}{:3.0f}%  loss {:.3f}  {} {}/s  ETA {}", progress.epoch,
                     progress.epochs, bar, std::floor(progress.done * 100), progress.loss,
                     Thousands(std::llround(progress.samples_per_second)), progress.unit,
                     Duration(progress.seconds_left));
}

Console::Console(bool quiet) : quiet_(quiet) {
  const char* watched = std::getenv("ENVKIT_TTY");
  terminal_ = watched != nullptr ? std::string_view(watched) == "1" : isatty(STDOUT_FILENO) == 1;
  if (const char* columns = std::getenv("COLUMNS"))
    cells_ = std::clamp(std::atoi(columns) - 66, 0, 20);
}

void Console::Erase() {
  if (drawn_) Print("\r\x1b[K");
  drawn_ = false;
}

void Console::Line(const std::string& text) {
  if (quiet_) return;
  Erase();
  Print("         " + text + "\n");
}

void Console::Show(const Progress& progress) {
  using std::chrono::milliseconds;
  const auto now = std::chrono::steady_clock::now();
  if (quiet_ || now - last_ < (terminal_ ? milliseconds(100) : milliseconds(5000))) return;
  last_ = now;
  if (!terminal_) {
    Print("         " + ProgressText(progress, 0) + "\n");
    return;
  }
  Print("\r         " + ProgressText(progress, cells_) + "\x1b[K");
  drawn_ = true;
}

void Console::Finish(const Progress& progress, const std::string& more) {
  if (quiet_) return;
  last_ = std::chrono::steady_clock::now();
  Erase();
  Print("         " + ProgressText(progress, terminal_ ? cells_ : 0) + "  " + more + "\n");
}

}  // namespace envkit

// What a person sees of a training run: a bar that is redrawn where somebody watches a terminal,
// plain lines every few seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace envkit {

struct Progress {
  std::int64_t epoch = 1, epochs = 1;  // from 1
  double done = 0;                     // of this epoch, 0 to 1
  double loss = 0;
  const char* unit = "images";
  double samples_per_second = 0;
  double seconds_left = 0;  // of the whole training
};

// "epoch 3/3 ━━━━━━━━━━━━━━━━━━━━ 100%  loss 0.021  12,480 images/s  ETA 0 s", with CELLS bar
// cells.
std::string ProgressText(const Progress& progress, int cells);
std::string Thousands(std::int64_t number);  // 12,480
std::string Duration(double seconds);        // "42 s", "3 min 5 s", "2 h 10 min"

class Console {
 public:
  // QUIET: prints nothing (all ranks but 0).
  explicit Console(bool quiet);
  void Line(const std::string& text);   // a line that stays
  void Show(const Progress& progress);  // drawn at most ten times a second, or a line every 5 s
  void Finish(const Progress& progress, const std::string& more);  // the epoch's line, which stays

 private:
  void Erase();
  bool quiet_, drawn_ = false, terminal_ = false;
  int cells_ = 20;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace envkit

// Lines of many ranks that say the same become one: "[1-63] epoch 3". They wait for each other a
// moment; a line that comes again from one rank counts up: "[4] retrying (×120)". The order of one
// rank's lines is kept.
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace envkit {

class Folder {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Folder(bool colour) : colour_(colour) {}

  // LINE without its end. PREFIX replaces "[RANK] " where the user gave a template of his own; such
  // lines are not merged between ranks.
  void Add(int rank, std::string_view prefix, std::string_view line, Clock::time_point now);
  // What has waited long enough, or all of it.
  std::string Take(Clock::time_point now);
  std::string TakeAll() { return Take(Clock::time_point::max()); }
  std::optional<Clock::time_point> Due() const;

 private:
  struct Entry {
    std::string text, prefix;
    std::vector<int> ranks;  // in the order of their coming
    unsigned count = 0;
    unsigned long number = 0;
    Clock::time_point since;
  };
  std::string Shown(const Entry& entry) const;
  bool colour_;
  std::deque<Entry> entries_;
  std::size_t bytes_ = 0;
  unsigned long next_ = 0;
  std::unordered_map<std::string, unsigned long> by_text_;  // the last entry with this text
  std::unordered_map<int, unsigned long> last_of_;          // a rank's last entry
};

}  // namespace envkit

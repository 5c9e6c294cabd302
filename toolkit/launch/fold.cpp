#include "launch/fold.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/report.h"

namespace envkit {
namespace {

using namespace std::chrono_literals;

constexpr auto kWait = 100ms;
constexpr std::size_t kMost = 256 << 10;  // bytes that wait; beyond, the oldest go out
constexpr const char* kColours[] = {"36", "33", "35", "32", "34", "31"};

}  // namespace

void Folder::Add(int rank, std::string_view prefix, std::string_view line, Clock::time_point now) {
  const unsigned long oldest = next_ - entries_.size();
  const auto last = last_of_.find(rank);
  const bool waits = last != last_of_.end() && last->second >= oldest;
  std::string key(prefix);
  key += '\n';
  key += line;
  const auto same = by_text_.find(key);
  if (same != by_text_.end() && same->second >= oldest) {
    Entry& entry = entries_[same->second - oldest];
    // Not behind a later line of the same rank: that would turn their order round.
    if (!waits || last->second <= entry.number) {
      if (!waits || last->second != entry.number) entry.ranks.push_back(rank);
      ++entry.count;
      last_of_[rank] = entry.number;
      return;
    }
  }
  bytes_ += line.size() + 64;
  by_text_[key] = next_;
  last_of_[rank] = next_;
  entries_.push_back({std::string(line), std::string(prefix), {rank}, 1, next_, now});
  ++next_;
}

std::string Folder::Shown(const Entry& entry) const {
  std::string prefix = entry.prefix;
  if (prefix.empty()) {
    std::vector<int> ranks = entry.ranks;
    std::sort(ranks.begin(), ranks.end());
    const std::string list = RankList(ranks);
    prefix = "[" + list.substr(list.find(' ') + 1) + "]";
    if (colour_) {
      const auto colour = static_cast<std::size_t>(ranks.front()) % std::size(kColours);
      prefix = fmt::format("\x1b[{}m{}\x1b[0m", kColours[colour], prefix);
    }
    prefix += ' ';
  }
  // Each rank once is the plain case; more often says how often in all.
  const std::string times =
      entry.count > entry.ranks.size() ? fmt::format(" (×{})", entry.count) : std::string();
  return prefix + entry.text + times + "\n";
}

std::string Folder::Take(Clock::time_point now) {
  std::string lines;
  while (!entries_.empty() && (now == Clock::time_point::max() || bytes_ > kMost ||
                               now - entries_.front().since >= kWait)) {
    const Entry& entry = entries_.front();
    lines += Shown(entry);
    bytes_ -= entry.text.size() + 64;
    std::string key = entry.prefix + '\n' + entry.text;
    if (const auto it = by_text_.find(key); it != by_text_.end() && it->second == entry.number) {
      by_text_.erase(it);
    }
    entries_.pop_front();
  }
  return lines;
}

std::optional<Folder::Clock::time_point> Folder::Due() const {
  if (entries_.empty()) return std::nullopt;
  return entries_.front().since + kWait;
}

}  // namespace envkit

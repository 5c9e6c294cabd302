#include <bit>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

#include "launch/hang.h"

namespace envkit {
namespace {

using nlohmann::json;

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  std::optional<json> Read() {
    while (good_ && !rest_.empty()) {
      const auto code = static_cast<unsigned char>(Take(1)[0]);
      if (code == '.') return stack_.size() == 1 ? std::optional(stack_.back()) : std::nullopt;
      Step(code);
    }
    return std::nullopt;
  }

 private:
  std::string_view Take(std::size_t count) {
    if (count > rest_.size()) {
      good_ = false;
      return std::string_view("\0\0\0\0\0\0\0\0", 8);
    }
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  std::uint64_t Number(std::size_t bytes) {  // little-endian
    const std::string_view text = Take(bytes);
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < bytes; ++i) {
      number |= std::uint64_t{static_cast<unsigned char>(text[i])} << (8 * i);
    }
    return number;
  }
  void Push(json value) { stack_.push_back(std::move(value)); }
  void PushText(std::size_t length) {
    const std::string_view text = Take(length);
    if (good_) Push(std::string(text));
  }
  json Pop() {
    if (stack_.empty()) {
      good_ = false;
      return nullptr;
    }
    json value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }
  std::vector<json> PopToMark() {
    std::vector<json> values;
    if (marks_.empty() || marks_.back() > stack_.size()) {
      good_ = false;
      return values;
    }
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    marks_.pop_back();
    values.assign(std::make_move_iterator(from), std::make_move_iterator(stack_.end()));
    stack_.erase(from, stack_.end());
    return values;
  }
  void Extend(const std::vector<json>& values) {
    if (stack_.empty() || !stack_.back().is_array()) {
      good_ = false;
      return;
    }
    for (const json& value : values) stack_.back().push_back(value);
  }
  void SetItems(const std::vector<json>& values) {
    if (stack_.empty() || !stack_.back().is_object() || values.size() % 2 != 0) {
      good_ = false;
      return;
    }
    for (std::size_t i = 0; i < values.size(); i += 2) {
      const json& key = values[i];
      stack_.back()[key.is_string() ? key.get<std::string>() : key.dump()] = values[i + 1];
    }
  }
  void Tuple(std::size_t count) {
    json tuple = json::array();
    for (std::size_t i = 0; i < count; ++i) tuple.insert(tuple.begin(), Pop());
    Push(std::move(tuple));
  }
  // A copy of what it is now. A container that is filled later stays empty in the memo, but torch
  // puts strings there alone.
  void Remember(std::uint64_t at) {
    if (stack_.empty() || at > rest_.size() + memo_.size() + (1U << 20)) {
      good_ = false;
    } else {
      memo_[at] = stack_.back();
    }
  }
  void Recall(std::uint64_t at) {
    const auto found = memo_.find(at);
    good_ &= found != memo_.end();
    if (good_) Push(found->second);
  }
  void Step(unsigned char code) {
    switch (code) {
      case 0x80:
        Take(1);
        break;  // the protocol
      case 0x95:
        Take(8);
        break;  // a frame
      case '(':
        marks_.push_back(stack_.size());
        break;
      case '0':
        Pop();
        break;
      case 'N':
        Push(nullptr);
        break;
      case 0x88:
        Push(true);
        break;
      case 0x89:
        Push(false);
        break;
      case 'K':
        Push(Number(1));
        break;
      case 'M':
        Push(Number(2));
        break;
      case 'J':
        Push(static_cast<std::int32_t>(Number(4)));
        break;
      case 0x8a: {  // up to 8 bytes, with a sign
        const std::size_t count = Number(1);
        if (count > 8) {
          good_ = false;
          break;
        }
        std::uint64_t number = Number(count);
        if (count > 0 && count < 8 && (number >> (8 * count - 1)) != 0)
          number |= ~0ULL << (8 * count);
        Push(static_cast<std::int64_t>(number));
        break;
      }
      case 'G': {  // big-endian
        std::uint64_t bits = 0;
        for (const char c : Take(8)) bits = bits << 8 | static_cast<unsigned char>(c);
        Push(std::bit_cast<double>(bits));
        break;
      }
      case 'X':
        PushText(Number(4));
        break;
      case 0x8c:
        PushText(Number(1));
        break;
      case 0x8d:
        PushText(Number(8));
        break;
      case 'U':
        PushText(Number(1));
        break;
      case '}':
        Push(json::object());
        break;
      case ']':
      case ')':
        Push(json::array());
        break;
      case 't':
        Push(json(PopToMark()));
        break;
      case 0x85:
        Tuple(1);
        break;
      case 0x86:
        Tuple(2);
        break;
      case 0x87:
        Tuple(3);
        break;
      case 'a': {
        std::vector<json> one;
        one.push_back(Pop());
        Extend(one);
        break;
      }
      case 'e':
        Extend(PopToMark());
        break;
      case 's': {
        json value = Pop();
        json key = Pop();
        SetItems({std::move(key), std::move(value)});
        break;
      }
      case 'u':
        SetItems(PopToMark());
        break;
      case 'q':
        Remember(Number(1));
        break;
      case 'r':
        Remember(Number(4));
        break;
      case 0x94:
        Remember(memo_.size());
        break;
      case 'h':
        Recall(Number(1));
        break;
      case 'j':
        Recall(Number(4));
        break;
      case 'c': {  // a function by name: torch's build_intlist and the like, which hand on their
                   // list
        for (int line = 0; line < 2 && good_; ++line) {
          const std::size_t end = rest_.find('\n');
          good_ &= end != std::string_view::npos;
          if (good_) Take(end + 1);
        }
        Push("function");
        break;
      }
      case 'R': {
        json arguments = Pop();
        Pop();
        good_ &= arguments.is_array() && arguments.size() == 1;
        if (good_) Push(std::move(arguments[0]));
        break;
      }
      default:
        good_ = false;
    }
  }

  std::string_view rest_;
  bool good_ = true;
  std::vector<json> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint64_t, json> memo_;
};

}  // namespace

std::optional<json> ReadPickle(std::string_view bytes) { return Reader(bytes).Read(); }

}  // namespace envkit

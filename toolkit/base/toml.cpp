#include "base/toml.h"

#define TOML_EXCEPTIONS 0
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>

#include "base/text.h"

namespace envkit {
namespace {

// How many bytes the UTF-8 character at the start of TEXT has; 0 where there is none.
std::size_t CharacterSize(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const std::size_t size = lead < 0x80   ? 1
                           : lead < 0xC2 ? 0
                           : lead < 0xE0 ? 2
                           : lead < 0xF0 ? 3
                           : lead < 0xF5 ? 4
                                         : 0;
  if (size > text.size()) return 0;
  for (std::size_t i = 1; i < size; ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) return 0;
  return size;
}

// The characters of a line, as strings; what is none, or would move a terminal's cursor, is '?'.
std::vector<std::string> Characters(std::string_view line) {
  std::vector<std::string> characters;
  while (!line.empty()) {
    const std::size_t size = CharacterSize(line);
    const auto lead = static_cast<unsigned char>(line[0]);
    const bool control = (lead < 0x20 && lead != '\t') || lead == 0x7F ||
                         (lead == 0xC2 && size == 2 && static_cast<unsigned char>(line[1]) < 0xA0);
    characters.emplace_back(size == 0 || control ? "?" : line.substr(0, size));
    line.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return characters;
}

// A file's name or a key in a message, on one line.
std::string OneLine(std::string_view text) {
  std::string line;
  for (const std::string& character : Characters(text)) {
    if (line.size() > 100) return line + "…";
    line += character;
  }
  return line;
}

std::string_view TypeName(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number with a point";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::date:
      return "a date";
    case toml::node_type::time:
      return "a time";
    case toml::node_type::date_time:
      return "a date and time";
    case toml::node_type::none:
      break;
  }
  return "nothing";
}

std::string Join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + "." + std::string(key);
}

}  // namespace

struct TomlDocument::State {
  std::string file;
  std::vector<std::string> lines;
  toml::table root;
  std::vector<Diagnostic> diagnostics;
  bool broken = false;

  TomlSpan Span(const toml::source_region& region) const {
    TomlSpan span{static_cast<int>(region.begin.line), static_cast<int>(region.begin.column), 1};
    if (region.end.line == region.begin.line && region.end.column > region.begin.column) {
      span.length = static_cast<int>(region.end.column - region.begin.column);
    } else if (region.end.line > region.begin.line && region.begin.line <= lines.size()) {
      const auto width = static_cast<int>(Characters(lines[region.begin.line - 1]).size());
      span.length = std::max(1, width - span.column + 1);  // several lines: to the first one's end
    }
    return span;
  }

  std::string Render(const Diagnostic& diagnostic) const {
    std::string text = OneLine(diagnostic.file);
    if (diagnostic.line > 0) text += fmt::format(":{}:{}", diagnostic.line, diagnostic.column);
    text += ": error: " + diagnostic.message + "\n";
    if (diagnostic.line > 0 && static_cast<std::size_t>(diagnostic.line) <= lines.size())
      text += Excerpt(diagnostic);
    for (std::size_t at = 0; at < diagnostic.hint.size();) {
      const std::size_t end = std::min(diagnostic.hint.find('\n', at), diagnostic.hint.size());
      text += "  " + diagnostic.hint.substr(at, end - at) + "\n";
      at = end + 1;
    }
    return text;
  }

  std::string Excerpt(const Diagnostic& diagnostic) const {
    const std::vector<std::string> line = Characters(lines[diagnostic.line - 1]);
    // Of a very long line only the part around the problem.
    constexpr std::size_t kWindow = 100, kBefore = 40;
    const std::size_t column = std::min<std::size_t>(diagnostic.column - 1, line.size());
    const std::size_t from = column > kWindow - 20 ? column - kBefore : 0;
    const std::size_t to = std::min(line.size(), from + kWindow);
    std::string shown = from > 0 ? "…" : "", padding = from > 0 ? " " : "";
    for (std::size_t i = from; i < to; ++i) {
      shown += line[i];
      if (i < column) padding += line[i] == "\t" ? '\t' : ' ';
    }
    if (to < line.size()) shown += "…";
    const std::size_t room = to > column ? to - column : 1;
    const std::size_t carets = std::clamp<std::size_t>(diagnostic.length, 1, room);
    return fmt::format("{:5} | {}\n      | {}{}\n", diagnostic.line, shown, padding,
                       std::string(carets, '^'));
  }
};

TomlDocument::TomlDocument(std::string_view text, std::string file)
    : state_(std::make_unique<State>()) {
  state_->file = std::move(file);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    state_->lines.emplace_back(line);
    at = end + 1;
  }
  toml::parse_result parsed = toml::parse(text);
  if (parsed) {
    state_->root = std::move(parsed).table();
    return;
  }
  std::string message(parsed.error().description());
  if (constexpr std::string_view kStart = "Error while parsing "; message.starts_with(kStart))
    message = "in " + message.substr(kStart.size());
  const bool unquoted = message.find("could not determine value type") != std::string::npos;
  Report(state_->Span(parsed.error().source()), "not valid TOML: " + OneLine(message),
         unquoted ? "a string needs quotes" : "");
  state_->broken = true;
}

TomlDocument::~TomlDocument() = default;

TomlTable TomlDocument::Root() { return {this, &state_->root, "", {}}; }

const std::string& TomlDocument::file() const { return state_->file; }

std::string TomlDocument::Place(TomlSpan at) const {
  return at.line > 0 ? fmt::format("{}:{}", state_->file, at.line) : state_->file;
}

void TomlDocument::Report(TomlSpan at, std::string message, std::string hint) {
  if (state_->broken) return;
  state_->diagnostics.push_back({state_->file, at.line, std::max(at.column, at.line > 0 ? 1 : 0),
                                 at.length, std::move(message), std::move(hint)});
}

std::vector<Diagnostic> TomlDocument::Diagnostics() const {
  std::vector<Diagnostic> sorted = state_->diagnostics;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  return sorted;
}

Result<void> TomlDocument::Check(std::string next) const {
  if (state_->diagnostics.empty()) return {};
  constexpr std::size_t kMost = 20;  // a file of another kind altogether: nobody reads a thousand
  std::string text;
  std::size_t shown = 0;
  for (const Diagnostic& diagnostic : Diagnostics()) {
    if (++shown > kMost) {
      text += fmt::format("{}: {} more errors\n", OneLine(state_->file),
                          state_->diagnostics.size() - kMost);
      break;
    }
    text += state_->Render(diagnostic);
  }
  text.pop_back();
  return Unexpected(Error{ExitCode::kUsage, std::move(text), std::move(next), {}, true});
}

TomlTable::TomlTable(TomlDocument* document, const void* node, std::string path, TomlSpan at)
    : document_(document), node_(node), path_(std::move(path)), at_(at) {}

std::string TomlTable::Where() const { return path_.empty() ? "" : " in [" + path_ + "]"; }

bool TomlTable::Has(std::string_view key) const {
  return node_ != nullptr && static_cast<const toml::table*>(node_)->contains(key);
}

const void* TomlTable::Find(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  return node_ == nullptr ? nullptr : static_cast<const toml::table*>(node_)->get(key);
}

void TomlTable::Expected(std::string_view type, const void* node, std::string_view key) {
  const toml::node& found = *static_cast<const toml::node*>(node);
  const TomlSpan at = document_->state_->Span(found.source());
  std::string hint;
  // torch = 2.15: the commonest slip, and the source text is what was meant.
  if (type == "a string" && found.is_number() &&
      static_cast<std::size_t>(at.line) <= document_->state_->lines.size()) {
    const auto line = Characters(document_->state_->lines[at.line - 1]);
    std::string source;
    for (int i = at.column - 1; i < at.column - 1 + at.length && i < static_cast<int>(line.size());
         ++i)
      source += line[i];
    hint = fmt::format("write {} = \"{}\"", key, source);
  }
  // command = "train.py --epochs 3"
  if (const auto* text = found.as_string();
      text != nullptr && type == "a list of strings" &&
      text->get().find_first_of("\"'\\\n") == std::string::npos) {
    std::string words;
    for (std::size_t i = 0; i < text->get().size();) {
      const std::size_t end = std::min(text->get().find(' ', i), text->get().size());
      if (end > i) words += (words.empty() ? "\"" : ", \"") + text->get().substr(i, end - i) + "\"";
      i = end + 1;
    }
    hint = fmt::format("write {} = [{}]", key, OneLine(words));
  }
  document_->Report(at, fmt::format("{}: expected {}, got {}", OneLine(key), type, TypeName(found)),
                    hint);
}

void TomlTable::Missing(std::string_view key) {
  if (node_ == nullptr) return;  // that the table is missing is reported once, by RequiredTable
  document_->Report(at_, path_.empty() ? fmt::format("\"{}\" is missing", key)
                                       : fmt::format("[{}] has no \"{}\"", OneLine(path_), key));
}

std::optional<TomlString> TomlTable::String(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return std::nullopt;
  if (const auto* text = node->as_string())
    return TomlString{text->get(), document_->state_->Span(node->source())};
  Expected("a string", node, key);
  return std::nullopt;
}

std::optional<TomlString> TomlTable::RequiredString(std::string_view key) {
  if (!Has(key)) Missing(key);
  return String(key);
}

std::optional<TomlString> TomlTable::StringOrInteger(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return std::nullopt;
  const TomlSpan at = document_->state_->Span(node->source());
  if (const auto* text = node->as_string()) return TomlString{text->get(), at};
  if (const auto* number = node->as_integer()) return TomlString{std::to_string(number->get()), at};
  Expected("a string or an integer", node, key);
  return std::nullopt;
}

std::optional<TomlString> TomlTable::Choice(std::string_view key,
                                            const std::vector<std::string>& choices) {
  auto text = String(key);
  if (!text || std::find(choices.begin(), choices.end(), text->value) != choices.end()) return text;
  const auto near = ClosestMatch(text->value, choices);
  document_->Report(text->at,
                    fmt::format("{} is {}, not \"{}\"", key, JoinOr(choices), OneLine(text->value)),
                    near ? fmt::format("did you mean \"{}\"?", *near) : "");
  return std::nullopt;
}

std::optional<Located<std::int64_t>> TomlTable::Integer(std::string_view key, std::int64_t least,
                                                        std::int64_t most) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return std::nullopt;
  const auto* number = node->as_integer();
  if (number == nullptr) {
    Expected("an integer", node, key);
    return std::nullopt;
  }
  const TomlSpan at = document_->state_->Span(node->source());
  const std::int64_t value = number->get();
  if (value < least || value > most) {
    document_->Report(
        at,
        most == INT64_MAX
            ? fmt::format("{}: {} is too small; it is at least {}", key, value, least)
            : fmt::format("{}: {} is out of range; it is from {} to {}", key, value, least, most));
    return std::nullopt;
  }
  return Located<std::int64_t>{value, at};
}

std::optional<Located<std::int64_t>> TomlTable::RequiredInteger(std::string_view key,
                                                                std::int64_t least,
                                                                std::int64_t most) {
  if (!Has(key)) Missing(key);
  return Integer(key, least, most);
}

std::optional<Located<double>> TomlTable::Number(std::string_view key, double least, double most) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return std::nullopt;
  const auto number = node->value<double>();
  if (!node->is_number() || !number) {
    Expected("a number", node, key);
    return std::nullopt;
  }
  const TomlSpan at = document_->state_->Span(node->source());
  if (!(*number >= least && *number <= most)) {
    document_->Report(
        at, fmt::format("{}: {} is out of range; it is from {} to {}", key, *number, least, most));
    return std::nullopt;
  }
  return Located<double>{*number, at};
}

std::optional<Located<bool>> TomlTable::Bool(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return std::nullopt;
  if (const auto* flag = node->as_boolean())
    return Located<bool>{flag->get(), document_->state_->Span(node->source())};
  Expected("true or false", node, key);
  return std::nullopt;
}

std::optional<Located<std::vector<TomlString>>> TomlTable::Strings(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return std::nullopt;
  const auto* array = node->as_array();
  if (array == nullptr) {
    Expected("a list of strings", node, key);
    return std::nullopt;
  }
  Located<std::vector<TomlString>> strings{{}, document_->state_->Span(node->source())};
  bool good = true;
  for (std::size_t i = 0; i < array->size(); ++i) {
    const toml::node& element = (*array)[i];
    if (const auto* text = element.as_string()) {
      strings.value.push_back({text->get(), document_->state_->Span(element.source())});
    } else {
      document_->Report(
          document_->state_->Span(element.source()),
          fmt::format("{}: expected a list of strings, got {} in it", key, TypeName(element)));
      good = false;
    }
  }
  if (!good) return std::nullopt;
  return strings;
}

TomlTable TomlTable::Table(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(Find(key));
  TomlSpan at = at_;
  if (node != nullptr) {
    at = document_->state_->Span(node->source());
    if (node->as_table() != nullptr) return {document_, node->as_table(), Join(path_, key), at};
    Expected("a table", node, key);
  }
  return {document_, nullptr, Join(path_, key), at};
}

TomlTable TomlTable::RequiredTable(std::string_view key) {
  if (node_ != nullptr && !Has(key))
    document_->Report(path_.empty() ? TomlSpan{} : at_,
                      fmt::format("[{}] is missing", Join(path_, key)));
  return Table(key);
}

std::vector<TomlTable> TomlTable::Tables(std::string_view key) {
  std::vector<TomlTable> tables;
  const auto* node = static_cast<const toml::node*>(Find(key));
  if (node == nullptr) return tables;
  const auto* array = node->as_array();
  if (array == nullptr) {
    Expected("a list of tables", node, key);
    return tables;
  }
  for (std::size_t i = 0; i < array->size(); ++i) {
    const toml::node& element = (*array)[i];
    const TomlSpan at = document_->state_->Span(element.source());
    if (const auto* table = element.as_table()) {
      tables.push_back({document_, table, fmt::format("{}[{}]", Join(path_, key), i), at});
    } else {
      document_->Report(
          at, fmt::format("{}: expected a list of tables, got {} in it", key, TypeName(element)));
    }
  }
  return tables;
}

std::vector<TomlString> TomlTable::Keys() const {
  std::vector<TomlString> keys;
  if (node_ == nullptr) return keys;
  for (const auto& [key, value] : *static_cast<const toml::table*>(node_))
    keys.push_back({std::string(key.str()), document_->state_->Span(key.source())});
  std::stable_sort(keys.begin(), keys.end(), [](const TomlString& a, const TomlString& b) {
    return std::pair(a.at.line, a.at.column) < std::pair(b.at.line, b.at.column);
  });
  return keys;
}

void TomlTable::RejectUnknownKeys() {
  for (const TomlString& key : Keys()) {
    if (std::find(asked_.begin(), asked_.end(), key.value) != asked_.end()) continue;
    const auto near = ClosestMatch(key.value, asked_);
    document_->Report(
        key.at, fmt::format("unknown key \"{}\"{}", OneLine(key.value), Where()),
        near ? fmt::format("did you mean \"{}\"?", *near) : "known here: " + JoinOr(asked_, "and"));
  }
}

}  // namespace envkit

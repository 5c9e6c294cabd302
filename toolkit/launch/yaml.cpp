#include "launch/yaml.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/text.h"

namespace envkit {
namespace {

Unexpected At(const std::string& name, int line, const std::string& what) {
  return Usage(
      fmt::format("{}:{}: {}", name, line, what),
      "envkit reads `key: value`, one level of sections, quotes and lists of such values.");
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Takes a comment off the end: "#" at the start or after a space, outside quotes.
std::string_view WithoutComment(std::string_view line) {
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == '\\' && quote == '"') ++i;
      if (c == quote) quote = 0;
    } else if ((c == '"' || c == '\'') &&
               (i == 0 || line[i - 1] == ' ' || line[i - 1] == '[' || line[i - 1] == ',')) {
      quote = c;
    } else if (c == '#' && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t')) {
      return line.substr(0, i);
    }
  }
  return line;
}

struct Scalar {
  std::string text;
  bool null = false;
};

Scalar Plain(std::string_view text) {
  const std::string lower = Lower(text);
  if (text.empty() || lower == "null" || text == "~") return {"", true};
  for (const char* yes : {"true", "yes", "on"}) {
    if (lower == yes) return {"True", false};
  }
  for (const char* no : {"false", "no", "off"}) {
    if (lower == no) return {"False", false};
  }
  return {std::string(text), false};
}

// nullopt: not a scalar that is understood.
std::optional<Scalar> ReadScalar(std::string_view text) {
  text = Trimmed(text);
  if (text.empty()) return Scalar{"", true};
  const char first = text.front();
  if (first == '\'' || first == '"') {
    if (text.size() < 2 || text.back() != first) return std::nullopt;
    const std::string_view inside = text.substr(1, text.size() - 2);
    std::string value;
    for (std::size_t i = 0; i < inside.size(); ++i) {
      if (first == '\'' && inside[i] == '\'') {
        if (i + 1 == inside.size() || inside[++i] != '\'') return std::nullopt;
        value += '\'';
      } else if (first == '"' && inside[i] == '"') {
        return std::nullopt;
      } else if (first == '"' && inside[i] == '\\') {
        if (++i == inside.size()) return std::nullopt;
        static constexpr std::array<std::pair<char, char>, 5> kEscapes{
            {{'n', '\n'}, {'t', '\t'}, {'"', '"'}, {'\\', '\\'}, {'/', '/'}}};
        const auto* it = std::find_if(kEscapes.begin(), kEscapes.end(),
                                      [&](const auto& e) { return e.first == inside[i]; });
        if (it == kEscapes.end()) return std::nullopt;
        value += it->second;
      } else {
        value += inside[i];
      }
    }
    return Scalar{value, false};
  }
  if (std::string_view("&*!|>%@`{}[]").find(first) != std::string_view::npos) return std::nullopt;
  if (text.find(": ") != std::string_view::npos) return std::nullopt;
  return Plain(text);
}

// "[a, 'b']", also "[]" and "{}".
std::optional<Scalar> ReadValue(std::string_view text) {
  text = Trimmed(text);
  if (text == "{}" || text == "[]") return Scalar{"", true};
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') return ReadScalar(text);
  Scalar list;
  std::string_view rest = text.substr(1, text.size() - 2);
  while (true) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const auto one = ReadScalar(rest.substr(0, comma));
    if (!one) return std::nullopt;
    list.text += (list.text.empty() ? "" : ",") + one->text;
    if (comma == rest.size()) return list;
    rest.remove_prefix(comma + 1);
  }
}

struct KeyAndRest {
  std::string key;
  std::string_view rest;
};

std::optional<KeyAndRest> SplitKey(std::string_view text) {
  std::size_t colon = text.find(':');
  while (colon != std::string_view::npos && colon + 1 < text.size() && text[colon + 1] != ' ') {
    colon = text.find(':', colon + 1);
  }
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  const auto key = ReadScalar(text.substr(0, colon));
  if (!key || key->null) return std::nullopt;
  return KeyAndRest{key->text, text.substr(colon + 1)};
}

std::string PythonText(const nlohmann::json& value) {
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string list;
  for (const auto& one : value) list += (list.empty() ? "" : ",") + PythonText(one);
  return list;
}

}  // namespace

Result<std::vector<ConfigEntry>> ParseFlatYaml(std::string_view text, const std::string& name) {
  std::vector<ConfigEntry> entries;
  std::string section;             // that the indented lines belong to
  std::size_t section_indent = 0;  // of its first line; 0: none seen yet
  int number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    line = WithoutComment(line);
    const std::string_view content = Trimmed(line);
    if (content.empty() || content == "---" || content == "...") continue;
    const std::size_t indent = line.find_first_not_of(' ');
    if (line[indent] == '\t') return At(name, number, "a tab indents this line; YAML wants spaces");
    if (content.starts_with("- ") || content == "-") {
      // A list below the key of the line before, at whatever indent.
      const auto value = ReadScalar(content.substr(1));
      if (!value) return At(name, number, fmt::format("cannot read the value `{}`", content));
      if (entries.empty()) return At(name, number, "a list without a key");
      ConfigEntry& last = entries.back();
      last.value += (last.value.empty() ? "" : ",") + value->text;
      last.null = false;
      section.clear();
      continue;
    }
    const auto split = SplitKey(content);
    if (!split) return At(name, number, fmt::format("`{}` is not `key: value`", content));
    ConfigEntry entry;
    entry.key = split->key;
    entry.line = number;
    if (indent == 0) {
      section.clear();
      section_indent = 0;
    } else {
      if (section.empty() &&
          (entries.empty() || !entries.back().null || !entries.back().section.empty())) {
        return At(name, number, fmt::format("unexpected indent before `{}`", entry.key));
      }
      if (section.empty()) {
        section = entries.back().key;
        section_indent = indent;
        entries.pop_back();  // it was the section's own line
      }
      if (indent != section_indent) {
        return At(name, number, fmt::format("unexpected indent before `{}`", entry.key));
      }
      entry.section = section;
    }
    const auto value = ReadValue(split->rest);
    if (!value) {
      return At(name, number, fmt::format("cannot read the value of `{}`", entry.key));
    }
    entry.value = value->text;
    entry.null = value->null;
    const auto twice = std::find_if(entries.begin(), entries.end(), [&](const ConfigEntry& e) {
      return e.key == entry.key && e.section == entry.section;
    });
    if (twice != entries.end()) {
      return At(name, number,
                fmt::format("`{}` is set twice (first on line {})", entry.key, twice->line));
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<std::vector<ConfigEntry>> ParseFlatJson(std::string_view text, const std::string& name) {
  const auto document = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!document.is_object()) return At(name, 1, "this is not a JSON object");
  std::vector<ConfigEntry> entries;
  for (const auto& [key, value] : document.items()) {
    if (value.is_object()) {
      for (const auto& [inner, below] : value.items()) {
        entries.push_back({key, inner, PythonText(below), below.is_null(), 1});
      }
      continue;
    }
    entries.push_back({"", key, PythonText(value), value.is_null() || value.empty(), 1});
  }
  return entries;
}

}  // namespace envkit

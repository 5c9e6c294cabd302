#include "doctor/facts_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>
#include <type_traits>

#include "doctor/fields.h"

namespace envkit::doctor {
namespace {

using nlohmann::json;

template <class T>
json Write(const T& value);

struct Writer {
  json& out;
  template <class T>
  void operator()(const char* name, const T& value) {
    out[name] = Write(value);
  }
};

template <class T>
json WriteOne(const T& value) {
  json out = json::object();
  Writer writer{out};
  Fields(writer, const_cast<T&>(value));
  return out;
}
template <class T>
json WriteOne(const std::vector<T>& values) {
  json out = json::array();
  for (const T& value : values) out.push_back(Write(value));
  return out;
}
template <class T>
json WriteOne(const std::optional<T>& value) {
  return value ? Write(*value) : json(nullptr);
}
template <class T>
json WriteOne(const Fact<T>& fact) {
  json out = {{"value", fact.value ? Write(*fact.value) : json(nullptr)}};
  if (!fact.from.empty()) out["from"] = fact.from;
  if (!fact.unknown.empty()) out["unknown"] = fact.unknown;
  return out;
}
json WriteOne(const std::map<std::string, std::string>& values) { return values; }

template <class T>
json Write(const T& value) {
  if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    return value;
  } else {
    return WriteOne(value);
  }
}

// Reads what fits and notes the rest; a missing key leaves the default.
class Reader {
 public:
  Reader(const json& in, std::string path, std::vector<std::string>& problems)
      : in_(in), path_(std::move(path)), problems_(problems) {}

  template <class T>
  void operator()(const char* name, T& value) {
    const auto found = in_.find(name);
    if (found != in_.end()) Read(*found, path_ + "." + name, value);
  }

  template <class T>
  bool Read(const json& in, const std::string& path, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      return in.is_boolean() ? (value = in.get<bool>(), true) : Wrong(path, "true or false");
    } else if constexpr (std::is_integral_v<T>) {
      if (!in.is_number_integer()) return Wrong(path, "an integer");
      const auto wide = in.get<std::int64_t>();
      value = static_cast<T>(wide);
      return static_cast<std::int64_t>(value) == wide || Wrong(path, "an integer of that size");
    } else if constexpr (std::is_same_v<T, std::string>) {
      return in.is_string() ? (value = in.get<std::string>(), true) : Wrong(path, "a string");
    } else {
      return ReadOne(in, path, value);
    }
  }

 private:
  bool Wrong(const std::string& path, const char* wanted) {
    constexpr std::size_t kMost = 20;
    if (problems_.size() < kMost) problems_.push_back(fmt::format("{} is not {}", path, wanted));
    return false;
  }

  template <class T>
  bool ReadOne(const json& in, const std::string& path, T& value) {
    if (!in.is_object()) return Wrong(path, "an object");
    Reader reader(in, path, problems_);
    Fields(reader, value);
    return true;
  }
  template <class T>
  bool ReadOne(const json& in, const std::string& path, std::vector<T>& values) {
    if (!in.is_array()) return Wrong(path, "a list");
    values.clear();
    for (const json& one : in) {
      T value{};
      if (Read(one, fmt::format("{}[{}]", path, values.size()), value))
        values.push_back(std::move(value));
    }
    return true;
  }
  template <class T>
  bool ReadOne(const json& in, const std::string& path, std::optional<T>& value) {
    value.reset();
    if (in.is_null()) return true;
    T inner{};
    if (!Read(in, path, inner)) return false;
    value = std::move(inner);
    return true;
  }
  template <class T>
  bool ReadOne(const json& in, const std::string& path, Fact<T>& fact) {
    fact = {};
    const std::string kMeaningless = "the facts file has no such value here";
    if (!in.is_object()) {
      fact.unknown = kMeaningless;
      return Wrong(path, "an object");
    }
    Reader reader(in, path, problems_);
    reader("from", fact.from);
    reader("unknown", fact.unknown);
    if (in.contains("value") && !ReadOne(in["value"], path + ".value", fact.value))
      fact.unknown = kMeaningless;
    return true;
  }
  bool ReadOne(const json& in, const std::string& path,
               std::map<std::string, std::string>& values) {
    if (!in.is_object()) return Wrong(path, "an object");
    values.clear();
    for (const auto& [name, value] : in.items()) Read(value, path + "." + name, values[name]);
    return true;
  }

  const json& in_;
  std::string path_;
  std::vector<std::string>& problems_;
};

// Calls DO(section) for the section NAME.
template <class F, class Do>
void WithSection(std::string_view name, F& facts, const Do& act) {
  if (name == "system") act(facts.system);
  if (name == "storage") act(facts.storage);
  if (name == "pci") act(facts.pci);
  if (name == "driver") act(facts.driver);
  if (name == "nvml") act(facts.nvml);
  if (name == "kernel_log") act(facts.kernel_log);
  if (name == "engines") act(facts.engines);
  if (name == "network") act(facts.network);
  if (name == "python") act(facts.python);
  if (name == "project") act(facts.project);
}

void ReplaceAll(std::string& text, const std::string& old, std::string_view with) {
  if (old.size() < 2) return;
  const auto word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  for (std::size_t at = 0; (at = text.find(old, at)) != std::string::npos;) {
    const std::size_t end = at + old.size();
    if ((at > 0 && word(text[at - 1])) || (end < text.size() && word(text[end]))) {
      at = end;
      continue;
    }
    text.replace(at, old.size(), with);
    at += with.size();
  }
}

// No std::regex on whole logs: it recurses a frame a character.
std::string ScrubAddresses(std::string text, bool version) {
  constexpr std::size_t kLongest = 400;
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  static const std::regex kUserInfo(R"(([a-z]+://)[^/@\s]*@)");
  static const std::regex kHost(R"((ssh|tcp|https?)://[A-Za-z0-9.\-]+)");
  // Not the versions of four numbers, such as NVML's 13.595.45.04.
  static const std::regex kIpv4(
      R"(\b((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)\b)");
  static const std::regex kHome(R"(/home/[^/\s:]+)");
  static const std::regex kSecret(
      R"(((token|secret|password|passwd|api_?key)[^=:\s]*\s*[=:]\s*)[^\s,;]+)", std::regex::icase);
  text = std::regex_replace(text, kUserInfo, "$1");
  text = std::regex_replace(text, kHost, "$1://host");
  if (!version) text = std::regex_replace(text, kIpv4, "192.0.2.1");
  text = std::regex_replace(text, kHome, "/home/user");
  return std::regex_replace(text, kSecret, "$1removed");
}

template <class Change>
void ForEachString(json& node, const std::string& key, const Change& change) {
  if (node.is_string()) {
    change(key, node.get_ref<std::string&>());
  } else if (node.is_structured()) {
    for (auto it = node.begin(); it != node.end(); ++it)
      ForEachString(*it, node.is_object() ? it.key() : key, change);
  }
}

std::string StringAt(const json& document, const char* pointer) {
  const json::json_pointer at(pointer);
  return document.contains(at) && document[at].is_string() ? document[at].get<std::string>() : "";
}

}  // namespace

json ToJson(const Facts& facts) { return Write(facts); }

Result<Facts> FactsFromJson(std::string_view text) {
  const json document = json::parse(text, nullptr, false);
  if (!document.is_object())
    return Usage("this is not a facts file: no JSON object",
                 "Make one on the machine in question:  envkit doctor --save FILE");
  const json schema = document.value("schema", json(nullptr));
  if (schema != kFactsSchema)
    return Usage(fmt::format("facts of schema {}; this envkit reads schema {}",
                             Dump(schema, -1).substr(0, 20), kFactsSchema),
                 "Read them with the envkit that wrote them, or save them anew.");
  Facts facts;
  Reader reader(document, "facts", facts.problems);
  Fields(reader, facts);
  // Sections that the file does not have are not known, rather than empty.
  for (const std::string& name : SectionNames())
    if (!document.contains(name) || !document[name].is_object())
      MarkUnknown(name, "the facts file does not have it", facts);
  return facts;
}

void ReadSection(std::string_view name, const json& section, Facts& facts) {
  if (!section.is_object()) return MarkUnknown(name, "the probe's answer was damaged", facts);
  Reader reader(section, std::string(name), facts.problems);
  WithSection(name, facts, [&](auto& part) { Fields(reader, part); });
}

json SectionToJson(std::string_view name, const Facts& facts) {
  json out;
  WithSection(name, facts, [&](const auto& part) { out = Write(part); });
  return out;
}

std::vector<std::string> SectionNames() {
  return {"system",     "storage", "pci",     "driver", "nvml",
          "kernel_log", "engines", "network", "python", "project"};
}

void MarkUnknown(std::string_view name, const std::string& why, Facts& facts) {
  WithSection(name, facts, [&](auto& part) { part.unknown = why; });
}

json Scrub(json facts) {
  const std::string host = StringAt(facts, "/system/hostname/value");
  const std::string user = StringAt(facts, "/system/user");
  const std::string home = StringAt(facts, "/system/home");
  const std::string short_host = host.substr(0, host.find('.'));
  ForEachString(facts, "", [&](const std::string& key, std::string& text) {
    ReplaceAll(text, home, "/home/user");
    text = ScrubAddresses(text, key == "version");
    ReplaceAll(text, host, "host");
    if (short_host != "localhost") ReplaceAll(text, short_host, "host");
    if (user != "root") ReplaceAll(text, user, "user");
    // What a variable of the user's own choosing names may be anything.
    if (key == "MASTER_ADDR") text = "host";
  });
  if (facts.contains("/system/groups"_json_pointer)) facts["system"].erase("groups");
  return facts;
}

std::string Dump(const json& document, int indent) {
  return document.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace envkit::doctor

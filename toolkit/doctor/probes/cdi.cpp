// CDI specifications as JSON or YAML. The only place that knows yaml-cpp.
#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>
#include <set>

#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

using nlohmann::json;

constexpr int kDeepest = 12;
constexpr std::size_t kMostYamlNodes = 100000;

// An alias may stand for a whole tree: the number of nodes is bounded, so that nine lines of YAML
// do not become a billion.
json FromYaml(const YAML::Node& node, int depth, std::size_t& nodes) {
  if (depth > kDeepest || ++nodes > kMostYamlNodes)
    throw std::runtime_error("it is nested too deeply");
  if (node.IsScalar()) return node.Scalar();
  if (node.IsSequence()) {
    json out = json::array();
    for (const YAML::Node& one : node) out.push_back(FromYaml(one, depth + 1, nodes));
    return out;
  }
  json out = json::object();
  if (node.IsMap())
    for (const auto& pair : node)
      out[pair.first.IsScalar() ? pair.first.Scalar() : std::string()] =
          FromYaml(pair.second, depth + 1, nodes);
  return out;
}

json Load(std::string_view text, const std::string& file) {
  if (file.ends_with(".json")) return json::parse(text);
  // yaml-cpp recurses a level a bracket: what is plainly no specification does not reach it.
  std::size_t open = 0;
  for (const char c : text) open += c == '[' || c == '{';
  constexpr std::size_t kMostBrackets = 200;
  if (open > kMostBrackets) throw std::runtime_error("too many brackets for a specification");
  std::size_t nodes = 0;
  return FromYaml(YAML::Load(std::string(text)), 0, nodes);
}

std::string TextOf(const json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() && found->is_string()
             ? found->get<std::string>()
             : "";
}

json ListOf(const json& object, const char* name) {
  if (!object.is_object() || !object.contains(name) || !object[name].is_array())
    return json::array();
  return object[name];
}

void AddPaths(const json& holder, std::set<std::string>& paths) {
  if (!holder.is_object() || !holder.contains("containerEdits")) return;
  const json& edits = holder["containerEdits"];
  for (const json& node : ListOf(edits, "deviceNodes")) {
    const std::string host = TextOf(node, "hostPath");
    paths.insert(host.empty() ? TextOf(node, "path") : host);
  }
  for (const json& mount : ListOf(edits, "mounts")) paths.insert(TextOf(mount, "hostPath"));
  for (const json& hook : ListOf(edits, "hooks")) paths.insert(TextOf(hook, "path"));
}

}  // namespace

CdiSpec ParseCdi(std::string_view text, const std::string& file) {
  CdiSpec spec;
  spec.file = file;
  try {
    const json document = Load(text, file);
    spec.version = TextOf(document, "cdiVersion");
    spec.kind = TextOf(document, "kind");
    for (const json& device : ListOf(document, "devices"))
      spec.devices.push_back(TextOf(device, "name"));
    if (spec.kind.empty()) spec.error = "it names no kind";
  } catch (const json::parse_error& error) {
    // "[json.exception.parse_error.101] parse error at line 2, column 1: …"
    const std::string what = error.what();
    const std::size_t at = what.find("at line");
    spec.error =
        "it is no valid JSON" +
        (at == std::string::npos ? "" : " (" + what.substr(at, what.find(':', at) - at) + ")");
  } catch (const std::exception& error) {
    spec.error = error.what();
    if (spec.error.size() > 200) spec.error.resize(200);
  }
  return spec;
}

std::vector<std::string> CdiHostPaths(std::string_view text, const std::string& file) {
  std::set<std::string> paths;
  try {
    const json document = Load(text, file);
    AddPaths(document, paths);
    for (const json& device : ListOf(document, "devices")) AddPaths(device, paths);
  } catch (const std::exception&) {
    return {};
  }
  paths.erase("");
  return {paths.begin(), paths.end()};
}

}  // namespace envkit::doctor

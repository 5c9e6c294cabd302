#include "doctor/fleet.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "base/text.h"

namespace envkit::doctor {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kMostNodes = 4096;
constexpr const char* kFleetIndent = "           ";

bool Digits(std::string_view text) {
  constexpr std::size_t kMost = 9;  // fits an int
  return !text.empty() && text.size() <= kMost && text.find_first_not_of("0123456789") == text.npos;
}

// HEAD and each of LIST ("01-03,07") and each of what the rest expands to.
Result<void> Expand(const std::string& head, std::string_view rest,
                    std::vector<std::string>& names) {
  const auto wrong = [&](const char* what) {
    return Usage(fmt::format("--hosts: \"{}{}\" {}", head, rest, what),
                 "Hosts are written as a,b,c or, as Slurm does, gpu[01-03,07].");
  };
  const std::size_t open = rest.find_first_of("[]");
  if (open == rest.npos) {
    if (names.size() == kMostNodes)
      return wrong(fmt::format("names more than {} hosts", kMostNodes).c_str());
    names.push_back(head + std::string(rest));
    return {};
  }
  const std::size_t close = rest.find(']');
  if (rest[open] == ']' || close == rest.npos) return wrong("has a bracket without its pair");
  std::string_view list = rest.substr(open + 1, close - open - 1);
  const std::string start = head + std::string(rest.substr(0, open));
  const std::string_view further = rest.substr(close + 1);
  while (true) {
    const std::string_view range = list.substr(0, list.find(','));
    const std::size_t dash = range.find('-');
    const std::string_view first = range.substr(0, dash);
    const std::string_view last = dash == range.npos ? first : range.substr(dash + 1);
    if (!Digits(first) || !Digits(last)) return wrong("has no numbers between its brackets");
    const int from = std::atoi(std::string(first).c_str());
    const int to = std::atoi(std::string(last).c_str());
    if (to < from) return wrong("has a range that ends before it begins");
    for (int number = from; number <= to; ++number)
      ENVKIT_CHECK(Expand(start + fmt::format("{:0{}}", number, first.size()), further, names));
    if (range.size() == list.size()) return {};
    list.remove_prefix(range.size() + 1);
  }
}

// "gpu07" → {"gpu", "07"}; without a number at the end the second is empty.
std::pair<std::string, std::string> Numbered(const std::string& name) {
  const std::size_t last = name.find_last_not_of("0123456789");
  const std::size_t at = last == std::string::npos ? 0 : last + 1;
  if (!Digits(name.substr(at))) return {name, ""};
  return {name.substr(0, at), name.substr(at)};
}

template <class T>
std::string Shown(const Fact<T>& fact) {
  if (!fact.Known()) return "not known";
  if (!fact) return "none";
  if constexpr (std::is_same_v<T, std::string>) {
    return *fact;
  } else if constexpr (std::is_same_v<T, bool>) {
    return *fact ? "yes" : "no";
  } else {
    return fmt::to_string(*fact);
  }
}
std::string Limit(const Number& fact) { return fact && *fact < 0 ? "unlimited" : Shown(fact); }
std::string Bytes(const Number& fact) {
  if (!fact) return Shown(fact);
  return *fact < 0 ? "unlimited" : GiB(*fact);
}

// "8 × NVIDIA H100, 1 × …"
std::string Counted(const std::vector<std::string>& names) {
  std::map<std::string, int> counts;
  for (const std::string& name : names) ++counts[name];
  std::string text;
  for (const auto& [name, count] : counts)
    text += fmt::format("{}{} × {}", text.empty() ? "" : ", ", count, name);
  return text.empty() ? "none" : text;
}

std::string Gpus(const Facts& facts) {
  if (!HasGpu(facts)) return facts.pci.unknown.empty() ? "none" : "not known";
  std::vector<std::string> names;
  for (const Gpu& gpu : facts.nvml.gpus)
    names.push_back(gpu.name.empty() ? "GPU that does not answer" : gpu.name);
  return names.empty() ? "not known" : Counted(names);
}

// What SAY says of each GPU: one value where they agree.
std::string OfGpus(const Facts& facts, std::string (*say)(const Gpu&)) {
  std::vector<std::string> values;
  for (const Gpu& gpu : facts.nvml.gpus)
    if (std::string value = say(gpu); !value.empty()) values.push_back(value);
  if (values.empty()) return HasGpu(facts) ? "not known" : "none";
  return std::set(values.begin(), values.end()).size() == 1 ? values.front() : Counted(values);
}

std::string Library(const Facts& facts, std::string_view name) {
  for (const LibraryCopy& copy : facts.driver.libraries)
    if (copy.name == name && copy.first) return copy.version.empty() ? copy.path : copy.version;
  return facts.driver.unknown.empty() ? "none" : "not known";
}

std::string Torch(const Facts& facts) {
  for (const PythonPackage& package : facts.python.packages)
    if (package.name == "torch") return package.version;
  return facts.python.unknown.empty() ? "none" : "not known";
}

struct Compared {
  const char* name = nullptr;
  std::string (*value)(const Facts&) = nullptr;
};
// What should be the same on machines that run one job. What never is (uuids, free space) is not
// here.
const Compared kCompared[] = {
    {"operating system", [](const Facts& f) { return Shown(f.system.os_name); }},
    {"kernel", [](const Facts& f) { return Shown(f.system.kernel); }},
    {"architecture", [](const Facts& f) { return Shown(f.system.architecture); }},
    {"glibc", [](const Facts& f) { return Shown(f.system.glibc); }},
    {"machine", [](const Facts& f) { return Shown(f.system.machine); }},
    {"virtual machine", [](const Facts& f) { return Shown(f.system.virtualisation); }},
    {"container", [](const Facts& f) { return Shown(f.system.container); }},
    {"CPUs", [](const Facts& f) { return Shown(f.system.cpus); }},
    {"NUMA nodes", [](const Facts& f) { return Shown(f.system.numa_nodes); }},
    {"memory", [](const Facts& f) { return Bytes(f.system.memory_total); }},
    {"memory limit", [](const Facts& f) { return Bytes(f.system.memory_limit); }},
    {"/dev/shm", [](const Facts& f) { return Bytes(f.system.shm_size); }},
    {"locked memory", [](const Facts& f) { return Bytes(f.system.memlock_soft); }},
    {"open files", [](const Facts& f) { return Limit(f.system.nofile_soft); }},
    {"stack", [](const Facts& f) { return Bytes(f.system.stack_soft); }},
    {"cgroups", [](const Facts& f) { return f.system.cgroups; }},
    {"SELinux", [](const Facts& f) { return Shown(f.system.selinux); }},
    {"Secure Boot", [](const Facts& f) { return Shown(f.system.secure_boot); }},
    {"GPUs on PCI", [](const Facts& f) { return fmt::to_string(f.pci.gpus.size()); }},
    {"GPUs", Gpus},
    {"driver", [](const Facts& f) { return Shown(f.driver.module_version); }},
    {"open modules", [](const Facts& f) { return Shown(f.driver.open_module); }},
    {"libcuda", [](const Facts& f) { return Library(f, "libcuda.so.1"); }},
    {"libnvidia-ml", [](const Facts& f) { return Library(f, "libnvidia-ml.so.1"); }},
    {"fabric manager", [](const Facts& f) { return Shown(f.driver.fabric_manager_version); }},
    {"nvidia_peermem", [](const Facts& f) { return std::string(f.driver.peermem ? "yes" : "no"); }},
    {"GPU memory",
     [](const Facts& f) {
       return OfGpus(f, [](const Gpu& g) { return g.memory_total ? GiB(*g.memory_total) : ""; });
     }},
    {"MIG",
     [](const Facts& f) {
       return OfGpus(f, [](const Gpu& g) {
         return std::string(!g.mig ? "" : *g.mig ? "on" : "off");
       });
     }},
    {"persistence",
     [](const Facts& f) {
       return OfGpus(f, [](const Gpu& g) {
         return std::string(!g.persistence ? "" : *g.persistence ? "on" : "off");
       });
     }},
    {"power limit",
     [](const Facts& f) {
       return OfGpus(f, [](const Gpu& g) {
         return g.power_limit ? fmt::format("{} W", *g.power_limit / 1000) : "";
       });
     }},
    {"PCIe width",
     [](const Facts& f) {
       return OfGpus(
           f, [](const Gpu& g) { return g.link_width ? fmt::format("x{}", *g.link_width) : ""; });
     }},
    {"IOMMU", [](const Facts& f) { return Shown(f.pci.iommu_type); }},
    {"RDMA devices",
     [](const Facts& f) {
       std::vector<std::string> all;
       for (const RdmaDevice& one : f.network.rdma) all.push_back(one.link + " " + one.state);
       return Counted(all);
     }},
    {"network interfaces",
     [](const Facts& f) {
       std::vector<std::string> all;
       for (const Interface& one : f.network.interfaces)
         if (one.physical && one.up)
           all.push_back(one.speed > 0 ? fmt::format("{} Mbit/s", one.speed) : "of unknown speed");
       return Counted(all);
     }},
    {"firewall", [](const Facts& f) { return Shown(f.network.firewall); }},
    {"docker", [](const Facts& f) { return Shown(f.engines.docker.server); }},
    {"oci engine",
     [](const Facts& f) { return f.engines.oci ? *f.engines.oci : std::string("does not work"); }},
    {"container toolkit", [](const Facts& f) { return Shown(f.engines.toolkit); }},
    {"CDI specifications", [](const Facts& f) { return fmt::to_string(f.engines.cdi.size()); }},
    {"torch", Torch},
};

// What is not known differs from nothing.
void Add(Difference& difference, std::string value, const std::string& node) {
  if (value == "not known") return;
  for (Difference::Value& one : difference.values)
    if (one.value == value) return one.nodes.push_back(node);
  difference.values.push_back({std::move(value), {node}});
}

int Rank(const std::string& verdict) { return verdict == "ok" ? 0 : verdict == "warn" ? 1 : 2; }

std::string OneLine(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  return text;
}

// Columns of equal width, each line after HEAD and then blanks of that width.
std::string Table(const std::string& head, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], TextWidth(row[i]));
  }
  std::string text, start = head;
  for (const auto& row : rows) {
    std::string line = start;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line += std::string(widths[i] - TextWidth(row[i]) + 3, ' ');
    }
    text += line + "\n";
    start = std::string(TextWidth(head), ' ');
  }
  return text;
}

// Findings that several nodes share, worst first, as the table of rules has them.
std::string FindingsText(const std::vector<Node>& nodes, std::size_t answered, bool notes) {
  struct Shared {
    Severity severity;
    const Rule* rule;
    std::string title;
    std::vector<std::string> nodes;
  };
  std::vector<Shared> all;
  for (const Node& node : nodes) {
    for (const Finding& finding : node.diagnosis.findings) {
      const Outcome& outcome = finding.outcome;
      if (outcome.severity == Severity::kInfo && !notes) continue;
      const auto same = std::find_if(all.begin(), all.end(), [&](const Shared& one) {
        return one.rule == finding.rule && one.title == outcome.title &&
               one.severity == outcome.severity;
      });
      if (same != all.end()) {
        same->nodes.push_back(node.name);
      } else {
        all.push_back({outcome.severity, finding.rule, outcome.title, {node.name}});
      }
    }
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Shared& a, const Shared& b) { return a.severity < b.severity; });
  std::string text;
  for (const Shared& one : all) {
    const char* label = one.severity == Severity::kFail   ? "FAIL"
                        : one.severity == Severity::kWarn ? "WARN"
                                                          : "NOTE";
    const bool everywhere = one.nodes.size() == answered && answered > 1;
    text +=
        fmt::format("{}  {:4} {}\n{}on {}{}\n", label, one.rule->id, OneLine(one.title),
                    kFleetIndent, FoldNodes(one.nodes), everywhere ? ": all that answered" : "");
  }
  return text;
}

}  // namespace

Result<std::vector<std::string>> ParseNodes(std::string_view text) {
  std::vector<std::string> names;
  std::size_t begin = 0;
  int depth = 0;
  for (std::size_t at = 0; at <= text.size(); ++at) {
    if (at < text.size() && text[at] == '[') ++depth;
    if (at < text.size() && text[at] == ']') --depth;
    if (at < text.size() && (text[at] != ',' || depth > 0)) continue;
    const std::string_view one = text.substr(begin, at - begin);
    begin = at + 1;
    if (one.empty()) continue;
    ENVKIT_CHECK(Expand("", one, names));
  }
  std::vector<std::string> unique;
  std::set<std::string> seen;
  for (std::string& name : names) {
    // One that begins with a dash would be an option of ssh.
    if (name.front() == '-' ||
        name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "._-@:") != std::string::npos)
      return Usage(fmt::format("--hosts: \"{}\" is no host's name", OneLine(name)),
                   "Hosts are written as a,b,c or, as Slurm does, gpu[01-03,07].");
    if (seen.insert(name).second) unique.push_back(std::move(name));
  }
  if (unique.empty()) return Usage("--hosts names no host", "envkit doctor --hosts gpu01,gpu02");
  return unique;
}

std::string FoldNodes(std::vector<std::string> nodes) {
  std::string text;
  for (std::size_t i = 0; i < nodes.size();) {
    const auto [head, first] = Numbered(nodes[i]);
    // The run of names that differ in a number of the same width.
    std::vector<int> numbers;
    std::size_t end = i;
    for (; end < nodes.size(); ++end) {
      const auto [other, number] = Numbered(nodes[end]);
      if (first.empty() || other != head || number.size() != first.size()) break;
      numbers.push_back(std::atoi(number.c_str()));
    }
    if (!text.empty()) text += ", ";
    if (numbers.size() < 2) {
      text += nodes[i++];
      continue;
    }
    std::sort(numbers.begin(), numbers.end());
    std::string list;
    for (std::size_t at = 0; at < numbers.size();) {
      std::size_t last = at;
      while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
      list += fmt::format("{}{:0{}}", list.empty() ? "" : ",", numbers[at], first.size());
      if (last > at) list += fmt::format("-{:0{}}", numbers[last], first.size());
      at = last + 1;
    }
    text += fmt::format("{}[{}]", head, list);
    i = end;
  }
  return text;
}

std::vector<Difference> Differences(const std::vector<Node>& nodes) {
  std::vector<Difference> all;
  const auto compare = [&](const std::string& name, const auto& value) {
    Difference difference;
    difference.fact = name;
    for (const Node& node : nodes)
      if (node.facts) Add(difference, OneLine(value(*node.facts)), node.name);
    std::stable_sort(difference.values.begin(), difference.values.end(),
                     [](const auto& a, const auto& b) { return a.nodes.size() > b.nodes.size(); });
    if (difference.values.size() > 1) all.push_back(std::move(difference));
  };
  for (const Compared& one : kCompared) compare(one.name, one.value);
  std::set<std::string> variables;
  for (const Node& node : nodes)
    if (node.facts)
      for (const auto& [name, value] : node.facts->system.environment) variables.insert(name);
  for (const std::string& name : variables)
    compare("$" + name, [&](const Facts& facts) {
      const auto found = facts.system.environment.find(name);
      return found == facts.system.environment.end() ? "not set" : found->second;
    });
  return all;
}

std::string FleetVerdict(const std::vector<Node>& nodes) {
  std::string worst = "ok";
  for (const Node& node : nodes) {
    const std::string verdict = node.facts ? node.diagnosis.Verdict() : "fail";
    if (Rank(verdict) > Rank(worst)) worst = verdict;
  }
  return worst;
}

std::string FleetText(const std::vector<Node>& nodes, const ReportStyle& style) {
  std::vector<std::string> answered, fine, silent;
  for (const Node& node : nodes) {
    (node.facts ? answered : silent).push_back(node.name);
    if (node.facts && node.diagnosis.Verdict() != "fail") fine.push_back(node.name);
  }
  std::string text;
  // The same reason of many nodes is one line.
  std::vector<std::pair<std::pair<std::string, std::string>, std::vector<std::string>>> reasons;
  for (const Node& node : nodes) {
    if (node.facts) continue;
    const std::pair key{OneLine(node.because), node.next};
    const auto same = std::find_if(reasons.begin(), reasons.end(),
                                   [&](const auto& one) { return one.first == key; });
    if (same != reasons.end()) same->second.push_back(node.name);
    if (same == reasons.end()) reasons.push_back({key, {node.name}});
  }
  for (const auto& [reason, names] : reasons) {
    text += fmt::format("FAIL  no answer from {}\n{}{}\n", FoldNodes(names), kFleetIndent,
                        reason.first);
    if (!reason.second.empty()) text += fmt::format("      fix  {}\n", reason.second);
  }
  text += FindingsText(nodes, answered.size(), style.verbose);
  text = fmt::format("nodes      {}: {} answered{}\n{}", nodes.size(), answered.size(),
                     silent.empty() ? "" : fmt::format(", {} did not", silent.size()),
                     text.empty() ? "" : "\n" + text);
  const std::vector<Difference> differences = Differences(nodes);
  std::vector<std::vector<std::string>> rows;
  for (const Difference& difference : differences)
    for (const Difference::Value& value : difference.values)
      rows.push_back({&value == difference.values.data() ? difference.fact : "", value.value,
                      FoldNodes(value.nodes)});
  if (answered.size() > 1) {
    text += "\n";
    text += rows.empty() ? "differs    nothing that matters\n" : Table("differs    ", rows);
  }
  if (style.verbose) {
    ReportStyle one = style;
    one.seconds = -1;
    for (const Node& node : nodes)
      if (node.facts)
        text += fmt::format("\nnode       {}\n", node.name) +
                ReportText(*node.facts, node.diagnosis, one);
  }
  text += fmt::format("\n{} of {} can run jobs", fine.size(), nodes.size());
  if (!style.verbose) text += " (each node's own report: -v)";
  if (style.seconds >= 0) text += fmt::format("   {:.2f} s", style.seconds);
  return text + "\n";
}

ordered_json FleetJson(const std::vector<Node>& nodes) {
  ordered_json out = {{"schema", 1}, {"verdict", FleetVerdict(nodes)}};
  out["nodes"] = ordered_json::array();
  for (const Node& node : nodes) {
    ordered_json one = {{"name", node.name}, {"answered", node.facts.has_value()}};
    one["because"] = node.facts ? ordered_json(nullptr) : ordered_json(node.because);
    one["report"] = node.facts ? ReportJson(*node.facts, node.diagnosis) : ordered_json(nullptr);
    out["nodes"].push_back(std::move(one));
  }
  out["differences"] = ordered_json::array();
  for (const Difference& difference : Differences(nodes)) {
    ordered_json one = {{"fact", difference.fact}, {"values", ordered_json::array()}};
    for (const Difference::Value& value : difference.values)
      one["values"].push_back({{"value", value.value}, {"nodes", value.nodes}});
    out["differences"].push_back(std::move(one));
  }
  return out;
}

}  // namespace envkit::doctor

#include "doctor/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/process.h"
#include "base/text.h"
#include "symptoms/symptoms.h"

namespace envkit::doctor {
namespace {

using nlohmann::ordered_json;

constexpr const char* kIndent = "           ";  // under a finding's title

const char* Label(Severity severity) {
  return severity == Severity::kFail ? "FAIL" : severity == Severity::kWarn ? "WARN" : "NOTE";
}
const char* Word(Severity severity) {
  return severity == Severity::kFail ? "fail" : severity == Severity::kWarn ? "warn" : "info";
}

std::string Painted(const std::string& text, const char* code, const ReportStyle& style) {
  return style.colour ? fmt::format("\033[{}m{}\033[0m", code, text) : text;
}

// No escape sequence of a machine's files reaches the terminal.
std::string Clean(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  return text;
}

std::string Padded(const std::string& text, std::size_t width) {
  constexpr std::size_t kGap = 3;  // at least, after what is wider than its column
  return text + std::string(width > TextWidth(text) + kGap ? width - TextWidth(text) : kGap, ' ');
}

// HEAD, then TEXT broken at blanks; further lines are indented to where it began.
std::string Wrapped(const std::string& head, std::string text, int columns) {
  const std::size_t indent = TextWidth(head);
  const std::size_t room = static_cast<std::size_t>(std::max(40, columns)) - indent;
  std::string out = head;
  text = Clean(std::move(text));
  while (TextWidth(text) > room) {
    std::size_t cut = text.rfind(' ', room);
    if (cut == std::string::npos || cut == 0) cut = text.find(' ', room);
    if (cut == std::string::npos) break;
    out += text.substr(0, cut) + "\n" + std::string(indent, ' ');
    text.erase(0, cut + 1);
  }
  return out + text + "\n";
}

std::string FindingText(const Finding& finding, const ReportStyle& style) {
  const Outcome& outcome = finding.outcome;
  static const std::map<Severity, const char*> kColours = {
      {Severity::kFail, "1;31"}, {Severity::kWarn, "1;33"}, {Severity::kInfo, "1;36"}};
  // Colours have no width: the text is laid out first.
  std::string text = Wrapped(fmt::format("{}  {:4} ", Label(outcome.severity), finding.rule->id),
                             outcome.title, style.columns);
  text.replace(0, 4, Painted(Label(outcome.severity), kColours.at(outcome.severity), style));
  std::size_t names = 0, values = 0;
  for (const Evidence& one : outcome.evidence) {
    names = std::max(names, TextWidth(one.what));
    constexpr std::size_t kWidest = 40;
    if (TextWidth(one.value) <= kWidest) values = std::max(values, TextWidth(one.value));
  }
  for (const Evidence& one : outcome.evidence)
    text += kIndent + Padded(Clean(one.what), names + 3) + Padded(Clean(one.value), values + 3) +
            Clean(one.source) + "\n";
  if (!outcome.cause.empty()) text += Wrapped("      why  ", outcome.cause, style.columns);
  const char* head = "      fix  ";
  for (const Remedy& remedy : outcome.remedies) {
    if (remedy.run.empty()) {
      text += Wrapped(head, remedy.say, style.columns);
    } else {
      // "then log in again" comes after the command, "for one container" before it.
      const bool after = remedy.say.starts_with("then ");
      text += head + (remedy.say.empty() || after ? "" : Clean(remedy.say) + ":  ") +
              Painted(Clean(remedy.run), "1", style) + (after ? "   " + Clean(remedy.say) : "") +
              "\n";
    }
    head = kIndent;
  }
  if (!finding.explains.empty()) {
    std::vector<std::string> others;
    others.reserve(finding.explains.size());
    for (const Finding& other : finding.explains)
      others.push_back(other.rule->id + " " + other.outcome.title);
    text +=
        Wrapped("      also explains: ", fmt::format("{}", fmt::join(others, "; ")), style.columns);
  }
  return text;
}

std::string MachineLine(const Facts& facts) {
  const SystemFacts& system = facts.system;
  std::vector<std::string> parts;
  if (system.os_name) parts.push_back(*system.os_name);
  if (system.kernel) parts.push_back("kernel " + *system.kernel);
  if (system.cpus)
    parts.push_back(fmt::format("{} {}", *system.cpus, *system.cpus == 1 ? "CPU" : "CPUs"));
  if (system.memory_total) parts.push_back(GiB(*system.memory_total));
  if (system.container) parts.push_back("in a container (" + *system.container + ")");
  if (system.virtualisation)
    parts.push_back(*system.virtualisation == "yes"
                        ? "virtual machine"
                        : "virtual machine (" + *system.virtualisation + ")");
  if (system.wsl) parts.emplace_back("WSL");
  if (system.slurm) parts.push_back("Slurm: " + *system.slurm);
  if (system.kubernetes) parts.emplace_back("Kubernetes");
  if (parts.empty()) parts.push_back("not known: " + system.unknown);
  return fmt::format("{}", fmt::join(parts, " · "));
}

std::string GpuLine(const Facts& facts) {
  if (!HasGpu(facts))
    return facts.pci.unknown.empty() ? "none of NVIDIA's" : "not known: " + facts.pci.unknown;
  std::map<std::string, int> kinds;
  for (const Gpu& gpu : facts.nvml.gpus) {
    const std::string memory = gpu.memory_total ? ", " + GiB(*gpu.memory_total) : "";
    ++kinds[gpu.name.empty() ? (gpu.error.empty() ? "GPU" : "GPU that does not answer")
                             : gpu.name + memory];
  }
  std::vector<std::string> parts;
  parts.reserve(kinds.size() + 3);
  for (const auto& [kind, count] : kinds)
    parts.push_back(count == 1 ? kind : fmt::format("{} × {}", count, kind));
  if (kinds.empty()) parts.push_back(fmt::format("{} on PCI", facts.pci.gpus.size()));
  if (const std::string driver = DriverVersion(facts); !driver.empty())
    parts.push_back("driver " + driver);
  if (facts.nvml.cuda_version)
    parts.push_back(fmt::format("CUDA up to {}.{}", *facts.nvml.cuda_version / 1000,
                                *facts.nvml.cuda_version % 1000 / 10));
  return fmt::format("{}", fmt::join(parts, " · "));
}

std::string EngineLine(const Facts& facts) {
  const EngineFacts& engines = facts.engines;
  if (!engines.unknown.empty()) return "not known: " + engines.unknown;
  if (facts.system.container && !engines.oci && !engines.docker.server)
    return "none here; inside a container jobs run directly: envkit launch";
  std::vector<std::string> parts;
  if (engines.oci) {
    parts.push_back("oci works (" + *engines.oci + ")");
  } else if (engines.oci.unknown == "it was not tried") {
    parts.emplace_back("oci not tried");
  } else {
    parts.push_back("oci does not work");
  }
  if (engines.docker.server) {
    parts.push_back("docker works (" + *engines.docker.server + ")");
  } else if (engines.docker.client || engines.docker.package) {
    parts.emplace_back("docker does not answer");
  } else {
    parts.emplace_back("docker is not installed");
  }
  if (engines.podman) parts.push_back("podman " + *engines.podman + " (with --engine podman)");
  return fmt::format("{}", fmt::join(parts, " · "));
}

std::string JobLine(const Facts& facts, const Diagnosis& diagnosis) {
  const bool engine =
      facts.engines.oci || facts.engines.docker.server || facts.system.container.value.has_value();
  const auto failed = [&](char first) {
    return std::any_of(
        diagnosis.findings.begin(), diagnosis.findings.end(), [&](const Finding& one) {
          return one.outcome.severity == Severity::kFail && one.rule->id.front() == first;
        });
  };
  if (!engine && facts.engines.oci.unknown != "it was not tried")
    return "none can run: no engine works";
  if (!HasGpu(facts))
    return facts.pci.unknown.empty() ? "run on the CPU (gloo)"
                                     : "run on the CPU (gloo); whether there is a GPU is not known";
  if (failed('H')) return "cannot use the GPUs as they are; on the CPU: envkit run --variant cpu";
  return failed('I') ? "the image does not fit the GPUs or their driver" : "run on the GPUs (NCCL)";
}

std::string Ending(const Diagnosis& diagnosis, const ReportStyle& style) {
  const auto count = [](std::size_t n, const char* one, const char* many) {
    return fmt::format("{} {}", n, n == 1 ? one : many);
  };
  std::string text = count(diagnosis.passed.size(), "check", "checks") + " passed";
  if (!diagnosis.unknown.empty())
    text += fmt::format(", {} not possible here", diagnosis.unknown.size());
  if (!diagnosis.not_applicable.empty())
    text += fmt::format(", {} not applicable", diagnosis.not_applicable.size());
  if (diagnosis.findings.empty())
    text = (diagnosis.unknown.empty() ? "all clear: " : "nothing wrong was found: ") + text;
  if (!style.verbose && !diagnosis.unknown.empty()) text += " (why: -v)";
  if (style.seconds >= 0) text += fmt::format("   {:.2f} s", style.seconds);
  return text + "\n";
}

std::string UnaskedText(const char* head, const std::vector<Unasked>& list) {
  std::string text;
  for (const Unasked& one : list)
    text +=
        fmt::format("{}  {:4} {}: {}\n", head, one.rule->id, one.rule->subject, Clean(one.because));
  return text;
}

}  // namespace

std::string ReportText(const Facts& facts, const Diagnosis& diagnosis, const ReportStyle& style) {
  std::string text;
  if (!style.quiet) {
    text += Wrapped("machine    ", MachineLine(facts), style.columns);
    text += Wrapped("gpus       ", GpuLine(facts), style.columns);
    text += Wrapped("engines    ", EngineLine(facts), style.columns);
    text += Wrapped("jobs       ", JobLine(facts, diagnosis), style.columns);
    text += "\n";
  }
  for (const Finding& finding : diagnosis.findings) {
    if (style.quiet && finding.outcome.severity == Severity::kInfo) continue;
    text += FindingText(finding, style);
  }
  for (const std::string& problem : facts.problems)
    text += "in the facts file: " + Clean(problem) + "\n";
  if (style.verbose) {
    for (const Rule* rule : diagnosis.passed)
      text += fmt::format("{}    {:4} {}\n", Painted("ok", "32", style), rule->id, rule->subject);
    text += UnaskedText("?   ", diagnosis.unknown);
    text += UnaskedText("-   ", diagnosis.not_applicable);
  }
  if (!style.quiet) text += Ending(diagnosis, style);
  return text;
}

ordered_json ReportJson(const Facts& facts, const Diagnosis& diagnosis) {
  ordered_json report = {{"schema", 1}, {"verdict", diagnosis.Verdict()}};
  report["summary"] = {{"machine", MachineLine(facts)},
                       {"gpus", GpuLine(facts)},
                       {"engines", EngineLine(facts)},
                       {"jobs", JobLine(facts, diagnosis)}};
  report["findings"] = ordered_json::array();
  for (const Finding& finding : diagnosis.findings) {
    const Outcome& outcome = finding.outcome;
    ordered_json one = {{"id", finding.rule->id},
                        {"severity", Word(outcome.severity)},
                        {"title", outcome.title},
                        {"cause", outcome.cause},
                        {"evidence", ordered_json::array()},
                        {"remedy", ordered_json::array()},
                        {"suppresses", ordered_json::array()}};
    for (const Evidence& evidence : outcome.evidence)
      one["evidence"].push_back(
          {{"what", evidence.what}, {"value", evidence.value}, {"source", evidence.source}});
    const auto text_or_null = [](const std::string& text) {
      return text.empty() ? ordered_json(nullptr) : ordered_json(text);
    };
    for (const Remedy& remedy : outcome.remedies)
      one["remedy"].push_back(
          {{"run", text_or_null(remedy.run)}, {"say", text_or_null(remedy.say)}});
    for (const Finding& other : finding.explains)
      one["suppresses"].push_back({{"id", other.rule->id}, {"title", other.outcome.title}});
    report["findings"].push_back(std::move(one));
  }
  const auto list = [](const std::vector<Unasked>& unasked) {
    ordered_json out = ordered_json::array();
    for (const Unasked& one : unasked)
      out.push_back({{"id", one.rule->id}, {"because", one.because}});
    return out;
  };
  report["passed"] = ordered_json::array();
  for (const Rule* rule : diagnosis.passed) report["passed"].push_back(rule->id);
  report["not_applicable"] = list(diagnosis.not_applicable);
  report["unknown"] = list(diagnosis.unknown);
  report["problems"] = facts.problems;
  return report;
}

std::string FixScript(const Diagnosis& diagnosis) {
  std::string text =
      "#!/bin/sh\n"
      "# What `envkit doctor` would have you do, worst first. Read it before you run it: each "
      "step\n"
      "# asks, and nothing happens without a y. Steps after \"or\" are other ways to the same "
      "end.\n"
      "set -u\n"
      "step() {\n"
      "  printf '\\n  %s\\nrun it? [y/N] ' \"$1\"\n"
      "  read -r answer || exit 1\n"
      "  case $answer in y|Y) sh -c \"$1\" || echo \"it failed: $?\" ;; esac\n"
      "}\n";
  bool any = false;
  for (const Finding& finding : diagnosis.findings) {
    const Outcome& outcome = finding.outcome;
    text += fmt::format("\n# {} {}: {}\n", Label(outcome.severity), finding.rule->id,
                        Clean(outcome.title));
    if (!outcome.cause.empty()) text += "#   " + Clean(outcome.cause) + "\n";
    for (const Remedy& remedy : outcome.remedies) {
      if (!remedy.say.empty())
        text += "#   " + Clean(remedy.say) + (remedy.run.empty() ? "" : ":") + "\n";
      // "…" stands for what only the user knows: such a command is for reading.
      if (remedy.run.find("…") != std::string::npos ||
          remedy.run.find("SUBNET") != std::string::npos ||
          remedy.run.find("/a/larger/disk") != std::string::npos) {
        text += "#   " + Clean(remedy.run) + "\n";
      } else if (!remedy.run.empty()) {
        text += "step " + ShellQuote({Clean(remedy.run)}) + "\n";
        any = true;
      }
    }
  }
  if (!any) text += "\necho 'nothing to run'\n";
  return text;
}

Result<std::string> ExplainText(const std::string& id_or_text) {
  constexpr int kColumns = 100;
  const auto story = [&](const Rule& rule) {
    std::string text = fmt::format("{}  {}\n", rule.id, rule.subject);
    text += Wrapped("     ", rule.story, kColumns);
    if (!rule.follows_from.empty())
      text += fmt::format("     Not reported where one of these explains it: {}\n",
                          fmt::join(rule.follows_from, " "));
    std::vector<std::string> messages;
    for (const Symptom& symptom : AllSymptoms())
      if (symptom.check == rule.id)
        for (const std::string& pattern : symptom.patterns)
          messages.push_back("\"" + pattern + "\"");
    if (!messages.empty())
      text += Wrapped("     Messages: ", fmt::format("{}", fmt::join(messages, ", ")), kColumns);
    return text + "     On this machine:  envkit doctor -v\n";
  };
  if (const Rule* rule = FindRule(Clean(id_or_text))) return story(*rule);
  if (const auto symptom = Explain(id_or_text)) {
    std::string text = Wrapped("means  ", symptom->meaning, kColumns);
    text += Wrapped("do     ", symptom->next, kColumns);
    if (const Rule* rule = FindRule(symptom->check)) text += "\n" + story(*rule);
    return text;
  }
  const bool id = id_or_text.size() <= 4;
  std::vector<std::string> ids;
  ids.reserve(AllRules().size());
  for (const Rule& rule : AllRules()) ids.push_back(rule.id);
  return Usage(
      id ? fmt::format("there is no check \"{}\"", id_or_text) : "no check knows this message",
      id ? fmt::format("The checks are {}", fmt::join(ids, " "))
         : "Paste the line that names the error, or look at the machine:  envkit doctor");
}

}  // namespace envkit::doctor

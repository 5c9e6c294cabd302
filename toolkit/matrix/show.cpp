#include "matrix/show.h"

#include <fmt/format.h>

#include <algorithm>

namespace envkit {
namespace {

using nlohmann::ordered_json;

std::string OrDash(const std::optional<std::string>& text) { return text.value_or("-"); }

std::string Joined(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

std::string GpuCode(const TorchBuild& build) {
  if (!build.sass) return "not known";
  std::string text;
  for (const Capability code : *build.sass) text += (text.empty() ? "" : " ") + code.Text();
  for (const Capability code : build.ptx.value_or(std::vector<Capability>{})) {
    text += " " + code.Text() + "+PTX";
  }
  return text;
}

std::string Table(const Matrix& matrix, const std::vector<const TorchBuild*>& builds) {
  std::vector<std::vector<std::string>> lines = {{"torch", "CUDA", "index", "driver", "Python",
                                                  "cuDNN", "NCCL", "torchvision",
                                                  "GPU code (compute capability)"}};
  for (const TorchBuild* build : builds) {
    lines.push_back(
        {build->torch + (build->confirmed ? "" : "*"), build->cuda,
         build->indexes.empty() ? "-" : Joined(build->indexes, " "),
         OrDash(DriverFloor(matrix, build->cuda)),
         build->python.empty() ? "-" : build->python.front() + "-" + build->python.back(),
         OrDash(build->cudnn), OrDash(build->nccl), OrDash(build->torchvision), GpuCode(*build)});
  }
  std::vector<std::size_t> widths(lines[0].size(), 0);
  for (const auto& line : lines) {
    for (std::size_t column = 0; column < line.size(); ++column) {
      widths[column] = std::max(widths[column], line[column].size());
    }
  }
  std::string text;
  for (const auto& line : lines) {
    for (std::size_t column = 0; column + 1 < line.size(); ++column) {
      text += fmt::format("{:{}}  ", line[column], widths[column]);
    }
    text += line.back() + "\n";
  }
  return text;
}

std::string MachineText(const Matrix& matrix, const MatrixAnswer& answer) {
  const Machine& machine = answer.question.machine;
  std::string text = machine.driver
                         ? fmt::format("driver   {} ({})", *machine.driver, answer.driver_from)
                         : "driver   none on this machine: rows for every driver; --driver 550 "
                           "asks for one";
  if (machine.gpu) {
    text += fmt::format("\nGPU      compute capability {}", machine.gpu->Text());
    for (const GpuGeneration& generation : matrix.generations) {
      const auto& all = generation.capabilities;
      if (std::find(all.begin(), all.end(), *machine.gpu) != all.end()) {
        text += fmt::format(" ({})", generation.name);
      }
    }
  }
  return text + "\n";
}

std::string Indented(const std::string& text) {
  std::string indented;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    indented += "         " + text.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return indented;
}

std::string Range(const KnownBad& bad) {
  if (bad.from && bad.below) return fmt::format(" from {} to before {}", *bad.from, *bad.below);
  if (bad.below) return fmt::format(" before {}", *bad.below);
  return bad.from ? fmt::format(" from {}", *bad.from) : "";
}

ordered_json Gpus(const std::optional<std::vector<Capability>>& capabilities) {
  if (!capabilities) return nullptr;
  ordered_json list = ordered_json::array();
  for (const Capability one : *capabilities) list.push_back(one.Text());
  return list;
}

template <class T>
ordered_json OrNull(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json();
}

ordered_json BuildToJson(const Matrix& matrix, const TorchBuild* build) {
  if (build == nullptr) return nullptr;
  return {{"torch", build->torch},
          {"cuda", build->cuda},
          {"indexes", build->indexes},
          {"driver", OrNull(DriverFloor(matrix, build->cuda))},
          {"released", OrNull(build->released)},
          {"python", build->python},
          {"glibc", OrNull(build->glibc)},
          {"cudnn", OrNull(build->cudnn)},
          {"nccl", OrNull(build->nccl)},
          {"triton", OrNull(build->triton)},
          {"torchvision", OrNull(build->torchvision)},
          {"torchaudio", OrNull(build->torchaudio)},
          {"sass", Gpus(build->sass)},
          {"ptx", Gpus(build->ptx)},
          {"confirmed", build->confirmed},
          {"unconfirmed", build->unconfirmed},
          {"source", build->from.source},
          {"date", build->from.date}};
}

ordered_json Asked(const std::string& text) {
  return text.empty() ? ordered_json() : ordered_json(text);
}

}  // namespace

MatrixAnswer AnswerMatrix(const Matrix& matrix, const Question& question, std::string driver_from) {
  MatrixAnswer answer{question, std::move(driver_from), Judge(matrix, question), {}};
  // Of a pair that does not exist: what there is of that torch.
  std::vector<std::string> attempts = {question.cuda};
  if (!question.torch.empty() && !question.cuda.empty()) attempts.emplace_back();
  for (const std::string& cuda : attempts) {
    for (const TorchBuild* build : BuildsThatRun(matrix, question.machine)) {
      if ((question.torch.empty() || InLine(build->torch, question.torch)) &&
          (cuda.empty() || build->cuda == MajorMinor(cuda)) && HasPython(*build, question.python)) {
        answer.rows.push_back(build);
      }
    }
    if (!answer.rows.empty()) break;
  }
  return answer;
}

std::string MatrixText(const Matrix& matrix, const MatrixAnswer& answer) {
  const Question& question = answer.question;
  const Judgement& verdict = answer.verdict;
  std::string text = MachineText(matrix, answer);
  const bool fits = verdict.fit == Fit::kFits;
  if (fits) {
    text += fmt::format("fits     PyTorch {} for CUDA {}{}\n", verdict.build->torch,
                        verdict.build->cuda,
                        question.torch.empty() && verdict.build->OnDefaultIndex()
                            ? ", the newest of the default index"
                            : "");
  } else {
    text += fmt::format("no       {}\n", verdict.what);
  }
  text += Indented(verdict.next);
  if (verdict.build != nullptr && fits && !question.torch.empty()) {
    for (const KnownBad* bad : KnownProblems(matrix, *verdict.build, question.machine)) {
      text += fmt::format("known    {}{}: {}{}\n         {} ({})\n",
                          bad->library == "nccl" ? "NCCL" : bad->library, Range(*bad), bad->what,
                          bad->when ? ", " + *bad->when : "", bad->remedy, bad->from_where.source);
    }
  }
  if (answer.rows.empty()) return text;
  text += "\n" + Table(matrix, answer.rows);
  if (std::any_of(answer.rows.begin(), answer.rows.end(),
                  [](const TorchBuild* build) { return !build->confirmed; })) {
    text += "* not read from a wheel: no index with it was asked; sources: --json\n";
  }
  return text;
}

ordered_json MatrixToJson(const Matrix& matrix, const MatrixAnswer& answer) {
  const Question& question = answer.question;
  const Judgement& verdict = answer.verdict;
  ordered_json json = {
      {"schema", 1},
      {"asked",
       {{"torch", Asked(question.torch)},
        {"cuda", Asked(question.cuda)},
        {"driver", OrNull(question.machine.driver)},
        {"driver_from", Asked(answer.driver_from)},
        {"gpu",
         question.machine.gpu ? ordered_json(question.machine.gpu->Text()) : ordered_json()}}},
      {"verdict",
       {{"fits", verdict.fit == Fit::kFits},
        {"reason", FitName(verdict.fit)},
        {"what", verdict.what},
        {"next", verdict.next},
        {"build", BuildToJson(matrix, verdict.build)},
        {"nearest", BuildToJson(matrix, verdict.nearest)},
        {"nearest_on_default_index", BuildToJson(matrix, verdict.nearest_served)}}}};
  ordered_json rows = ordered_json::array();
  for (const TorchBuild* build : answer.rows) rows.push_back(BuildToJson(matrix, build));
  json["rows"] = std::move(rows);
  ordered_json known = ordered_json::array();
  if (verdict.build != nullptr) {
    for (const KnownBad* bad : KnownProblems(matrix, *verdict.build, question.machine)) {
      known.push_back({{"id", bad->id},
                       {"library", bad->library},
                       {"from", OrNull(bad->from)},
                       {"below", OrNull(bad->below)},
                       {"when", OrNull(bad->when)},
                       {"what", bad->what},
                       {"remedy", bad->remedy},
                       {"source", bad->from_where.source},
                       {"date", bad->from_where.date}});
    }
  }
  json["known_bad"] = std::move(known);
  ordered_json drivers = ordered_json::array();
  for (const CudaRelease& release : matrix.releases) {
    drivers.push_back({{"cuda", release.cuda},
                       {"least", OrNull(DriverFloor(matrix, release.cuda))},
                       {"toolkit", release.driver},
                       {"source", release.from.source},
                       {"date", release.from.date}});
  }
  json["drivers"] = std::move(drivers);
  return json;
}

}  // namespace envkit

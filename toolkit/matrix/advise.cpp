#include "matrix/advise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "base/text.h"

namespace envkit {
namespace {

using Builds = std::vector<const TorchBuild*>;

// Newest first.
Builds Matching(const Matrix& matrix, const std::string& torch, const std::string& cuda) {
  Builds builds;
  for (const TorchBuild& build : matrix.builds) {
    if ((torch.empty() || InLine(build.torch, torch)) &&
        (cuda.empty() || build.cuda == MajorMinor(cuda))) {
      builds.insert(builds.begin(), &build);
    }
  }
  return builds;
}

int Number(const std::string& cuda) {
  const std::size_t dot = cuda.find('.');
  return MajorOf(cuda) * 1000 + (dot == std::string::npos ? 0 : MajorOf(cuda.substr(dot + 1)));
}

int CudaDistance(const std::string& a, const std::string& b) {
  return std::abs(Number(a) - Number(b));
}

// How many releases lie between two versions of torch.
int TorchDistance(const Matrix& matrix, const std::string& a, const std::string& b) {
  const auto& low = CompareVersions(a, b) < 0 ? a : b;
  const auto& high = &low == &a ? b : a;
  int distance = 0;
  const std::string* last = nullptr;
  for (const TorchBuild& build : matrix.builds) {
    if (last != nullptr && *last == build.torch) continue;
    last = &build.torch;
    distance += CompareVersions(build.torch, low) > 0 && CompareVersions(build.torch, high) <= 0;
  }
  return distance;
}

bool Suits(const Matrix& matrix, const TorchBuild& build, const Question& question) {
  return HasPython(build, question.python) && Runs(matrix, build, question.machine);
}

// FROM has the newest first, which wins where two are equally near.
template <class Distance>
const TorchBuild* Nearest(const Builds& from, Distance distance) {
  const auto found = std::min_element(from.begin(), from.end(), [&](auto* a, auto* b) {
    const int left = distance(*a), right = distance(*b);
    return left != right ? left < right : a->OnDefaultIndex() && !b->OnDefaultIndex();
  });
  return found == from.end() ? nullptr : *found;
}

Builds Served(Builds builds) {
  std::erase_if(builds, [](const TorchBuild* build) { return !build->OnDefaultIndex(); });
  return builds;
}

void FindNearest(const Matrix& matrix, const Question& question, Judgement& verdict) {
  Builds suitable = Matching(matrix, "", "");
  std::erase_if(suitable, [&](auto* build) { return !Suits(matrix, *build, question); });
  Builds same = question.torch.empty() ? Builds{} : suitable;
  std::erase_if(same, [&](auto* build) { return !InLine(build->torch, question.torch); });
  const auto by_cuda = [&](const TorchBuild& build) {
    return question.cuda.empty() ? 0 : CudaDistance(build.cuda, question.cuda);
  };
  const auto by_torch = [&](const TorchBuild& build) {
    return (question.torch.empty() ? 0 : TorchDistance(matrix, build.torch, question.torch)) *
               100'000 +
           by_cuda(build);
  };
  const Builds served = Served(suitable);
  verdict.nearest = Nearest(same, by_cuda);
  verdict.nearest_served = Nearest(Served(same), by_cuda);
  if (verdict.nearest_served == nullptr) verdict.nearest_served = Nearest(served, by_torch);
  if (verdict.nearest == nullptr) verdict.nearest = verdict.nearest_served;
  if (verdict.nearest == nullptr) verdict.nearest = Nearest(suitable, by_torch);
}

std::string Setting(const TorchBuild& build, const Question& question) {
  if (!question.torch.empty() && InLine(build.torch, question.torch)) {
    return fmt::format("cuda = \"{}\"", build.cuda);
  }
  return fmt::format("torch = \"{}\" with CUDA {}", MajorMinor(build.torch), build.cuda);
}

std::string NearestText(const Question& question, const Judgement& verdict) {
  if (verdict.nearest == nullptr) return "Nothing in the matrix fits.";
  std::string text =
      fmt::format("The nearest that {} is {}", verdict.fit == Fit::kNever ? "exists" : "fits",
                  Setting(*verdict.nearest, question));
  if (verdict.nearest->OnDefaultIndex()) return text + ".";
  text += "; the default index does not serve it: name one that does in [index].";
  if (verdict.nearest_served != nullptr) {
    text += fmt::format("\nOn the default index the nearest is {}.",
                        Setting(*verdict.nearest_served, question));
  }
  return text;
}

// "It was built for 12.6, 12.8 (default index) and 12.9."
std::string BuiltFor(const Builds& newest_first) {
  std::vector<std::string> words;
  for (auto it = newest_first.rbegin(); it != newest_first.rend(); ++it) {
    std::string word = (*it)->cuda + ((*it)->OnDefaultIndex() ? " (default index)" : "");
    if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
  }
  return fmt::format("It was built for CUDA {}.", JoinOr(words, "and"));
}

// Said where somebody could doubt it: the driver is older than that CUDA's own.
std::string MinorText(const Matrix& matrix, const Question& question, const TorchBuild* build) {
  if (build == nullptr || !question.machine.driver) return "";
  for (const CudaRelease& release : matrix.releases) {
    if (release.cuda != build->cuda) continue;
    if (CompareVersions(*question.machine.driver, release.driver) >= 0) return "";
    return fmt::format("Driver {} runs CUDA {}.x by minor-version compatibility.\n",
                       *question.machine.driver, MajorOf(build->cuda));
  }
  return "";
}

std::string Pythons(const TorchBuild& build) {
  return build.python.empty() ? "none that is known"
                              : fmt::format("{} to {}", build.python.front(), build.python.back());
}

// No build of that torch is in the matrix.
Judgement JudgeMissingTorch(const Matrix& matrix, const Question& question) {
  Judgement verdict;
  const std::string& first = matrix.builds.front().torch;
  const std::string& last = matrix.builds.back().torch;
  verdict.fit = Fit::kUnknown;
  if (CompareVersions(question.torch, last) > 0) {
    verdict.what =
        fmt::format("the matrix ends at PyTorch {} and knows nothing of {}", last, question.torch);
  } else if (CompareVersions(question.torch, first) < 0) {
    verdict.what = fmt::format("the matrix begins at PyTorch {} and knows nothing of {}", first,
                               question.torch);
  } else {
    // A patch release that came after the matrix was made is none of the known ones either.
    const Builds line = Matching(matrix, MajorMinor(question.torch), "");
    if (line.empty() || CompareVersions(question.torch, line.front()->torch) > 0) {
      verdict.what = fmt::format("the matrix knows no PyTorch {}", question.torch);
    } else {
      verdict.fit = Fit::kNever;
      verdict.what = fmt::format("there is no PyTorch {}", question.torch);
    }
  }
  FindNearest(matrix, question, verdict);
  verdict.next = NearestText(question, verdict);
  return verdict;
}

Judgement JudgeMissingCuda(const Matrix& matrix, const Question& question) {
  Judgement verdict;
  verdict.fit = Fit::kNever;
  FindNearest(matrix, question, verdict);
  if (question.torch.empty()) {
    verdict.what = fmt::format("no PyTorch from {} to {} was built for CUDA {}",
                               MajorMinor(matrix.builds.front().torch),
                               MajorMinor(matrix.builds.back().torch), question.cuda);
    verdict.next = NearestText(question, verdict);
    return verdict;
  }
  const Builds same = Matching(matrix, question.torch, "");
  const std::string line = MajorMinor(question.torch);
  if (std::find(matrix.incomplete.begin(), matrix.incomplete.end(), line) !=
      matrix.incomplete.end()) {
    verdict.fit = Fit::kUnknown;
    verdict.what = fmt::format("the matrix knows no build of PyTorch {} for CUDA {}",
                               question.torch, question.cuda);
    verdict.next =
        "Its list of that version is not complete: an index that is named in [index] "
        "may have one.\n";
  } else {
    verdict.what =
        fmt::format("PyTorch {} has no build for CUDA {}", question.torch, question.cuda);
  }
  verdict.next += BuiltFor(same) + "\n" + MinorText(matrix, question, verdict.nearest) +
                  NearestText(question, verdict);
  return verdict;
}

std::string Capital(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] -= 'a' - 'A';
  return text;
}

std::string ForwardText(const Matrix& matrix, const std::string& cuda, const Machine& machine) {
  const ForwardCompatibility* forward = ForwardFor(matrix, cuda, machine);
  if (forward == nullptr) return "";
  return fmt::format(
      "\nOn data-centre GPUs NVIDIA's cuda-compat of CUDA {} lets branch {} run it too; envkit's "
      "images do not hold it.",
      forward->cuda, MajorOf(*machine.driver));
}

// "Update the driver to 580 or newer, or take torch = "2.10" with CUDA 12.8, …"
std::string DriverRemedy(const Matrix& matrix, const std::string& cuda, const std::string& python,
                         const Machine& machine) {
  const std::string update = fmt::format("update the driver to {} or newer",
                                         DriverFloor(matrix, cuda).value_or("a newer"));
  const TorchBuild* newest = NewestServed(matrix, machine, "", python);
  if (newest == nullptr) {
    return Capital(update) +
           fmt::format(": driver {} runs no build of the default index.", *machine.driver) +
           ForwardText(matrix, cuda, machine);
  }
  return fmt::format(
             "Take torch = \"{}\" with CUDA {}, the newest of the default index that driver {} "
             "runs,\nor {}.",
             MajorMinor(newest->torch), newest->cuda, *machine.driver, update) +
         ForwardText(matrix, cuda, machine);
}

// BUILD exists: does it fit?
Judgement JudgeBuild(const Matrix& matrix, const TorchBuild& build, const Question& question) {
  Judgement verdict;
  verdict.build = &build;
  const std::string name = fmt::format("PyTorch {} for CUDA {}", build.torch, build.cuda);
  const Machine& machine = question.machine;
  if (!HasPython(build, question.python)) {
    verdict.fit = Fit::kPython;
    verdict.what =
        fmt::format("PyTorch {} has no wheel for Python {}", build.torch, question.python);
    verdict.next = fmt::format("It has wheels for Python {}.\n", Pythons(build));
  } else if (const auto clash = MachineProblem(matrix, machine)) {
    verdict.fit = Fit::kMachine;
    verdict.what = *clash;
    verdict.next = "No build can change that: install a driver that knows the GPU.";
    return verdict;
  } else if (const auto driver = DriverProblem(matrix, build.cuda, machine)) {
    verdict.fit = Fit::kDriver;
    verdict.what = *driver;
  } else if (const auto gpu = GpuProblem(matrix, build, machine)) {
    verdict.fit = Fit::kGpu;
    verdict.what = fmt::format("{}: {}", name, *gpu);
  } else {
    verdict.what = fmt::format("{} fits", name);
    if (!build.OnDefaultIndex()) {
      verdict.next = "The default index does not serve it: name one that does in [index].";
    }
    return verdict;
  }
  FindNearest(matrix, question, verdict);
  if (verdict.fit == Fit::kDriver) {
    verdict.next = DriverRemedy(matrix, build.cuda, question.python, machine);
    if (verdict.nearest != nullptr && !verdict.nearest->OnDefaultIndex()) {
      verdict.next += fmt::format(
          "\nOf PyTorch {} itself {} fits; the default index does not serve it: name one that does "
          "in [index].",
          question.torch, Setting(*verdict.nearest, question));
    }
  } else {
    verdict.next += NearestText(question, verdict);
  }
  return verdict;
}

}  // namespace

std::string FitName(Fit fit) {
  switch (fit) {
    case Fit::kFits:
      return "fits";
    case Fit::kNever:
      return "never-existed";
    case Fit::kUnknown:
      return "unknown";
    case Fit::kPython:
      return "python";
    case Fit::kMachine:
      return "machine";
    case Fit::kDriver:
      return "driver";
    case Fit::kGpu:
      return "gpu";
  }
  return "unknown";
}

Judgement Judge(const Matrix& matrix, const Question& question) {
  if (!question.torch.empty() && Matching(matrix, question.torch, "").empty()) {
    return JudgeMissingTorch(matrix, question);
  }
  const Builds asked = Matching(matrix, question.torch, question.cuda);
  if (asked.empty()) return JudgeMissingCuda(matrix, question);
  // Of several, what the default index serves is what people mean, then the newest.
  for (const bool served : {true, false}) {
    for (const TorchBuild* build : asked) {
      if (build->OnDefaultIndex() == served && Suits(matrix, *build, question)) {
        return JudgeBuild(matrix, *build, question);
      }
    }
  }
  const Builds of_default = Served(asked);
  return JudgeBuild(matrix, *(of_default.empty() ? asked : of_default).front(), question);
}

std::optional<EnvironmentProblem> CheckEnvironment(const Matrix& matrix,
                                                   const EnvironmentQuestion& question,
                                                   const Machine& machine) {
  const bool named = question.cuda != "auto" && question.cuda != "cpu";
  Question ask{question.torch, named ? question.cuda : "", question.python, {}};
  Judgement verdict = Judge(matrix, ask);
  const std::string details = fmt::format("\nDetails: envkit matrix --torch {}", question.torch);
  if (verdict.fit == Fit::kPython) {
    return EnvironmentProblem{"torch", verdict.what, verdict.next + details};
  }
  if (verdict.fit == Fit::kNever) {
    // Then what is named instead may as well run here.
    ask.machine = machine;
    if (const Judgement here = Judge(matrix, ask); here.nearest != nullptr) verdict = here;
    return EnvironmentProblem{
        verdict.build == nullptr && named && !Matching(matrix, question.torch, "").empty()
            ? "cuda"
            : "torch",
        verdict.what, verdict.next + details};
  }
  if (verdict.fit != Fit::kFits || question.other_indexes || question.cuda == "cpu") {
    return std::nullopt;
  }
  if (named) {
    if (verdict.build->OnDefaultIndex()) return std::nullopt;
    ask.cuda.clear();
    const Judgement served = Judge(matrix, ask);
    std::string next = "Name an index that has it in [index].";
    if (served.build != nullptr && served.build->OnDefaultIndex()) {
      next += fmt::format("\nThe default index serves cuda = \"{}\" for this version.",
                          served.build->cuda);
    }
    return EnvironmentProblem{"cuda",
                              fmt::format("PyTorch {} for CUDA {} is not on the default index",
                                          question.torch, question.cuda),
                              next + details};
  }
  if (NewestServed(matrix, machine, question.torch, question.python) != nullptr) {
    return std::nullopt;
  }
  const TorchBuild& newest = *verdict.build;
  if (!newest.OnDefaultIndex()) return std::nullopt;
  ask.machine = machine;
  const Judgement here = Judge(matrix, ask);
  return EnvironmentProblem{
      "torch", fmt::format("this machine cannot run PyTorch {}: {}", question.torch, here.what),
      fmt::format("{}\nTo lock for other machines, write cuda = \"{}\".", here.next, newest.cuda)};
}

std::optional<DriverAdvice> AdviseOnDriver(const Matrix& matrix, const std::string& cuda,
                                           const std::string& python, const Machine& machine) {
  if (cuda.empty() || !IsVersion(cuda)) return std::nullopt;
  const auto problem = DriverProblem(matrix, cuda, machine);
  if (!problem) return std::nullopt;
  return DriverAdvice{*problem, DriverRemedy(matrix, cuda, python, machine)};
}

}  // namespace envkit

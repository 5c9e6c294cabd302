// torch and what must fit it, where a Python of this machine or container has it: by the names of
// the installed packages' metadata, without starting Python.
#include <algorithm>

#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

std::vector<std::string> SiteDirectories(const Root& root) {
  const auto environment = ProbeEnvironment(root);
  std::vector<std::string> prefixes;
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const auto found = environment.find(name); found != environment.end())
      prefixes.push_back(found->second);
  for (const char* prefix : {"/usr/local", "/usr", "/opt/conda", "/opt/venv"})
    prefixes.emplace_back(prefix);
  std::vector<std::string> directories;
  for (const std::string& prefix : prefixes) {
    for (const std::string& name : root.List(prefix + "/lib")) {
      if (!name.starts_with("python3")) continue;
      for (const char* packages : {"/site-packages", "/dist-packages"}) {
        const std::string directory = prefix + "/lib/" + name + packages;
        if (root.Exists(directory)) directories.push_back(directory);
      }
    }
  }
  return directories;
}

bool Matters(const std::string& name) {
  for (const char* one : {"torch", "torchvision", "torchaudio", "triton"})
    if (name == one) return true;
  return name.starts_with("nvidia_") || name.starts_with("nvidia-");
}

// "torch-2.8.0+cu128.dist-info"
void AddPackage(const std::string& directory, const std::string& entry, PythonFacts& facts) {
  if (!entry.ends_with(".dist-info")) return;
  const std::size_t dash = entry.find('-');
  std::string name = entry.substr(0, dash);
  if (dash == std::string::npos || !Matters(name)) return;
  std::replace(name.begin(), name.end(), '_', '-');
  const std::size_t length = entry.size() - std::string(".dist-info").size();
  facts.packages.push_back({name, entry.substr(dash + 1, length - dash - 1), directory});
}

// torch/version.py: "cuda: Optional[str] = '12.8'", or None for a CPU build.
Text TorchCuda(const Root& root, const std::string& directory) {
  Text fact;
  fact.from = directory + "/torch/version.py";
  for (const std::string& line : Lines(root.Read(fact.from))) {
    if (!line.starts_with("cuda")) continue;
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    const std::string value = Trimmed(line.substr(equals + 1));
    fact.value = value.size() > 2 && value.front() == '\'' ? value.substr(1, value.size() - 2) : "";
  }
  if (!fact) fact.unknown = fact.from + " does not say";
  return fact;
}

// What the loader takes before the libraries that came with torch.
void AddForeign(const Root& root, PythonFacts& facts) {
  const auto environment = ProbeEnvironment(root);
  const auto path = environment.find("LD_LIBRARY_PATH");
  if (path == environment.end()) return;
  for (std::size_t at = 0; at <= path->second.size();) {
    const std::size_t end = std::min(path->second.find(':', at), path->second.size());
    const std::string directory = path->second.substr(at, end - at);
    at = end + 1;
    // Wheels' own directories on the path are torch's own copies.
    if (directory.empty() || directory.find("/nvidia/") != std::string::npos) continue;
    for (const char* name : {"libcudnn.so.9", "libcudnn.so.8", "libnccl.so.2"}) {
      const std::string file = directory + "/" + name;
      if (!root.Exists(file)) continue;
      const std::string real = root.Real(file).filename().string();
      facts.foreign.push_back(
          {name, file, FirstVersion(real.substr(real.find(".so.") + 4)), "LD_LIBRARY_PATH", true});
    }
  }
}

}  // namespace

void ProbePython(const Root& root, PythonFacts& facts) {
  for (const std::string& directory : SiteDirectories(root))
    for (const std::string& entry : root.List(directory)) AddPackage(directory, entry, facts);
  for (const PythonPackage& package : facts.packages) {
    if (package.name != "torch") continue;
    facts.torch_cuda = TorchCuda(root, package.directory);
    break;
  }
  AddForeign(root, facts);
  facts.nvcc.from = "/usr/local/cuda/version.json";
  const std::string json = root.Read("/usr/local/cuda/version.json");
  const std::size_t nvcc = json.find("\"cuda_nvcc\"");
  if (nvcc != std::string::npos) {
    const std::string version = FirstVersion(json.substr(nvcc, 200));
    if (!version.empty()) facts.nvcc.value = version;
  }
}

}  // namespace envkit::doctor

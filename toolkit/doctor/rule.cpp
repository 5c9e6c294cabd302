#include "doctor/rule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace envkit::doctor {
namespace {

bool SameLetters(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::toupper(static_cast<unsigned char>(a[i])) !=
        std::toupper(static_cast<unsigned char>(b[i])))
      return false;
  return true;
}

std::vector<Rule> MakeTable() {
  std::vector<Rule> table;
  for (const auto& part : {DriverRules(), GpuRules(), EngineRules(), ImageRules(), RunRules()})
    table.insert(table.end(), part.begin(), part.end());
  return table;
}

}  // namespace

Outcome Check::operator()(const Facts& facts, const Result<Matrix>& matrix) const {
  if (of_facts_ != nullptr) return of_facts_(facts);
  if (matrix) return of_matrix_(facts, *matrix);
  // What does not apply here does not for any matrix.
  Outcome outcome = of_matrix_(facts, Matrix());
  if (outcome.state == Outcome::State::kNotApplicable) return outcome;
  return Unknown("the version matrix could not be read: " + matrix.error().what);
}

const std::vector<Rule>& AllRules() {
  static const std::vector<Rule> table = MakeTable();
  return table;
}

const Rule* FindRule(std::string_view id) {
  for (const Rule& rule : AllRules())
    if (SameLetters(rule.id, id)) return &rule;
  return nullptr;
}

bool OnWsl(const Facts& facts) { return facts.system.wsl && facts.system.wsl_driver; }

bool IsGpuNode(std::string_view path) {
  constexpr std::string_view kStart = "/dev/nvidia";
  return path.size() > kStart.size() && path.starts_with(kStart) && path[kStart.size()] >= '0' &&
         path[kStart.size()] <= '9';
}

bool HasGpu(const Facts& facts) {
  const std::vector<DeviceNode>& nodes = facts.driver.nodes;
  return !facts.pci.gpus.empty() || OnWsl(facts) ||
         std::any_of(nodes.begin(), nodes.end(),
                     [](const DeviceNode& node) { return IsGpuNode(node.path); });
}

std::string WithoutNvml(const Facts& facts) {
  const NvmlFacts& nvml = facts.nvml;
  if (!nvml.unknown.empty()) return "NVML: " + nvml.unknown;
  if (!nvml.present) return "NVML could not be loaded";
  if (!nvml.init) return "NVML was not asked";
  if (*nvml.init != 0) return fmt::format("NVML does not work (code {})", *nvml.init);
  return "";
}

std::string GpuName(const Gpu& gpu) {
  return gpu.name.empty() ? fmt::format("GPU {}", gpu.index)
                          : fmt::format("GPU {} ({})", gpu.index, gpu.name);
}

std::string DriverVersion(const Facts& facts) {
  if (facts.driver.module_version) return *facts.driver.module_version;
  return facts.nvml.driver_version ? *facts.nvml.driver_version : "";
}

std::string GiB(std::int64_t bytes) {
  constexpr double kGiB = 1 << 30, kMiB = 1 << 20;
  const auto amount = static_cast<double>(bytes);
  return amount >= kGiB ? fmt::format("{:.3g} GiB", amount / kGiB)
                        : fmt::format("{:.3g} MiB", amount / kMiB);
}

Family FamilyOf(const SystemFacts& system) {
  const std::string all = " " + system.os_id + " " + system.os_like + " ";
  const auto has = [&](const char* name) {
    return all.find(std::string(" ") + name + " ") != std::string::npos;
  };
  if (has("ubuntu")) return Family::kUbuntu;
  if (has("debian")) return Family::kDebian;
  if (has("rhel") || has("fedora") || has("centos")) return Family::kRedHat;
  if (has("suse") || has("sles") || system.os_id.starts_with("opensuse")) return Family::kSuse;
  if (has("arch")) return Family::kArch;
  return Family::kOther;
}

std::string Install(const Facts& facts, const Packages& packages) {
  const auto with = [](const char* command, const std::string& names) {
    return names.empty() ? "" : command + names;
  };
  switch (FamilyOf(facts.system)) {
    case Family::kDebian:
    case Family::kUbuntu:
      return with("sudo apt-get install ", packages.apt);
    case Family::kRedHat:
      return with("sudo dnf install ", packages.dnf);
    case Family::kSuse:
      return with("sudo zypper install ", packages.zypper);
    case Family::kArch:
      return with("sudo pacman -S ", packages.pacman);
    case Family::kOther:
      break;
  }
  return "";
}

std::string InstallDriver(const Facts& facts, bool open) {
  switch (FamilyOf(facts.system)) {
    case Family::kUbuntu:
      return open ? "sudo apt-get install nvidia-open" : "sudo ubuntu-drivers install";
    case Family::kDebian:
      return open ? "sudo apt-get install nvidia-open-kernel-dkms nvidia-driver"
                  : "sudo apt-get install nvidia-driver";
    default:
      break;
  }
  return open ? Install(facts, {"", "nvidia-open", "nvidia-open", "nvidia-open nvidia-utils"})
              : Install(facts, {"", "cuda-drivers", "cuda-drivers", "nvidia nvidia-utils"});
}

const std::string* FindVariable(const Facts& facts, const char* name) {
  const auto found = facts.system.environment.find(name);
  return found == facts.system.environment.end() ? nullptr : &found->second;
}

std::string InstallToolkit(const Facts& facts) {
  const std::string name = "nvidia-container-toolkit";
  return Install(facts, {name, name, name, name});
}

std::string InstallHeaders(const Facts& facts) {
  const std::string kernel = facts.system.kernel ? *facts.system.kernel : "$(uname -r)";
  return Install(facts, {"linux-headers-" + kernel, "kernel-devel-" + kernel,
                         "kernel-default-devel", "linux-headers"});
}

std::string RebuildInitramfs(const Facts& facts) {
  switch (FamilyOf(facts.system)) {
    case Family::kDebian:
    case Family::kUbuntu:
      return "sudo update-initramfs -u";
    case Family::kArch:
      return "sudo mkinitcpio -P";
    default:
      return "sudo dracut --force";
  }
}

}  // namespace envkit::doctor

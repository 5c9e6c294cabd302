#include "engine/running.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

#include "base/files.h"
#include "base/process.h"
#include "engine/engines.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool IsBelow(std::string_view path, std::string_view directory) {
  return path == directory || (path.starts_with(directory) && path.size() > directory.size() &&
                               (path[directory.size()] == '/' || directory == "/"));
}

// For temporary files, or never the image's.
bool IsScratch(std::string_view path) {
  for (const char* place : {"/tmp", "/var/tmp", "/run", "/dev", "/proc", "/sys"})
    if (IsBelow(path, place)) return true;
  return false;
}

// Mounted over, or a directory that had to be made for a mount.
bool IsMounted(std::string_view path, const std::vector<std::string>& mounts) {
  return std::any_of(mounts.begin(), mounts.end(),
                     [&](const std::string& mount) { return IsBelow(path, mount); });
}

bool LeadsToMount(std::string_view path, const std::vector<std::string>& mounts) {
  return std::any_of(mounts.begin(), mounts.end(),
                     [&](const std::string& mount) { return IsBelow(mount, path); });
}

bool IsOpaque(const fs::path& directory) {
  for (const char* name : {"trusted.overlay.opaque", "user.overlay.opaque"}) {
    char value = 0;
    if (lgetxattr(directory.c_str(), name, &value, 1) == 1 && value == 'y') return true;
  }
  return false;
}

// A removed file: a device 0:0, or, where nobody may make one, an empty file with an attribute.
bool IsWhiteout(const fs::path& file, const struct stat& status) {
  if (S_ISCHR(status.st_mode) && status.st_rdev == 0) return true;
  char value = 0;
  return S_ISREG(status.st_mode) && status.st_size == 0 &&
         lgetxattr(file.c_str(), "user.overlay.whiteout", &value, 1) >= 0;
}

struct Process {
  long pid = 0, parent = 0;
  std::string mounts;  // its mount namespace
};

long ParentOf(const fs::path& process) {
  std::ifstream in(process / "status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("PPid:")) return std::strtol(line.c_str() + 5, nullptr, 10);
  return 0;
}

std::map<long, Process> Processes(const fs::path& proc) {
  std::map<long, Process> processes;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(proc, error)) {
    const std::string name = entry.path().filename().string();
    long pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad != std::errc() || end != name.data() + name.size()) continue;
    std::error_code hidden;  // other users' processes
    const fs::path space = fs::read_symlink(entry.path() / "ns/mnt", hidden);
    if (!hidden) processes[pid] = {pid, ParentOf(entry.path()), space.string()};
  }
  return processes;
}

// The container's first process is the child of one outside of it, and the oldest such: orphans
// may come to be like that.
void PutFirstFirst(std::vector<long>& pids, const std::map<long, Process>& processes) {
  const auto outside = [&](long pid) {
    return std::find(pids.begin(), pids.end(), processes.at(pid).parent) == pids.end();
  };
  const std::vector<long> all = pids;
  const auto first = std::find_if(all.begin(), all.end(), outside);
  if (first != all.end()) std::iter_swap(pids.begin(), pids.begin() + (first - all.begin()));
}

std::string VariableOf(const json& config, const std::string& name) {
  for (const json& entry : config.value("/process/env"_json_pointer, json::array())) {
    if (!entry.is_string()) continue;
    const std::string text = entry;
    if (text.starts_with(name + "=")) return text.substr(name.size() + 1);
  }
  return "";
}

// The oci engine mounts its layers as links that are called 0, 1, …, lowest first.
std::vector<fs::path> LayersIn(const fs::path& scratch) {
  std::vector<fs::path> layers;
  while (true) {
    std::error_code error;
    fs::path layer = fs::read_symlink(scratch / std::to_string(layers.size()), error);
    if (error) return layers;
    layers.push_back(std::move(layer));
  }
}

}  // namespace

std::vector<std::string> UpperChanges(const fs::path& upper, const std::vector<fs::path>& lower,
                                      const std::vector<std::string>& mounts) {
  std::vector<std::string> changes;
  std::error_code error;
  const std::size_t root = upper.string().size();
  for (fs::recursive_directory_iterator it(upper, error), end; !error && it != end;
       it.increment(error)) {
    const std::string path = it->path().string().substr(root);
    struct stat status {};
    if (lstat(it->path().c_str(), &status) != 0) continue;
    const bool directory = S_ISDIR(status.st_mode);
    if (IsScratch(path) || IsMounted(path, mounts)) {
      if (directory) it.disable_recursion_pending();
      continue;
    }
    const bool existed = std::any_of(lower.begin(), lower.end(), [&](const fs::path& tree) {
      std::error_code ignored;
      return fs::exists(fs::symlink_status(tree / path.substr(1), ignored));
    });
    if (IsWhiteout(it->path(), status)) {
      changes.push_back("removed " + path);
    } else if (directory) {
      // Directories are copied up whenever something below them is written.
      if (existed && IsOpaque(it->path())) changes.push_back("replaced " + path);
    } else {
      changes.push_back((existed ? "changed " : "added ") + path);
    }
  }
  std::sort(changes.begin(), changes.end());
  return changes;
}

std::vector<RunningContainer> FindOciContainers(const fs::path& proc) {
  const std::map<long, Process> processes = Processes(proc);
  // The namespaces in which the engine prepared a container: the scratch directory is there.
  std::map<std::string, std::pair<fs::path, json>> prepared;
  std::set<std::string> seen;
  for (const auto& [pid, process] : processes) {
    if (!seen.insert(process.mounts).second) continue;
    const fs::path scratch = proc / std::to_string(pid) / "root/sys/fs/cgroup";
    std::error_code error;
    if (!fs::is_directory(scratch / "upper", error)) continue;
    const auto text = ReadFile(scratch / "config.json");
    json config = text ? json::parse(*text, nullptr, false) : json();
    if (config.is_object() && config.contains("ociVersion")) {
      prepared[process.mounts] = {scratch, std::move(config)};
    }
  }
  std::map<std::string, RunningContainer> found;  // by the namespace in which it was prepared
  for (const auto& [pid, process] : processes) {
    for (auto at = processes.find(process.parent);
         at != processes.end() && !prepared.contains(process.mounts);
         at = processes.find(at->second.parent)) {
      if (!prepared.contains(at->second.mounts)) continue;
      found[at->second.mounts].pids.push_back(pid);
      break;
    }
  }
  std::vector<RunningContainer> containers;
  for (auto& [space, container] : found) {
    const auto& [scratch, config] = prepared.at(space);
    container.engine = "oci";
    container.job = VariableOf(config, "ENVKIT_JOB");
    container.session = VariableOf(config, "ENVKIT_SESSION");
    container.env = config.value("/process/env"_json_pointer, container.env);
    container.workdir = config.value("/process/cwd"_json_pointer, std::string("/"));
    container.uid = config.value("/process/user/uid"_json_pointer, 0u);
    container.gid = config.value("/process/user/gid"_json_pointer, 0u);
    PutFirstFirst(container.pids, processes);
    container.name =
        fmt::format("{}-{}", container.job.empty() ? "run" : container.job, container.pids.front());
    container.layer_trees = LayersIn(scratch);
    for (const json& mount : config.value("mounts", json::array())) {
      container.mounts.push_back(mount.value("destination", ""));
      if (container.mounts.back() == "/workspace") container.project = mount.value("source", "");
    }
    container.changes = UpperChanges(scratch / "upper", container.layer_trees, container.mounts);
    containers.push_back(std::move(container));
  }
  return containers;
}

Result<RunningContainer> DockerContainer(std::string_view inspected, std::string_view diff,
                                         const std::string& engine) {
  json document = json::parse(inspected, nullptr, false);
  if (document.is_array() && document.size() == 1) document = document.front();
  if (!document.is_object()) return Fail(engine + " inspect: unreadable words");
  RunningContainer container;
  container.engine = engine;
  auto text = [&](const char* pointer) {
    return document.value(json::json_pointer(pointer), std::string());
  };
  container.name = text("/Name");
  if (container.name.starts_with('/')) container.name.erase(0, 1);
  container.config_digest = text("/Image");
  if (container.config_digest.starts_with("sha256:")) container.config_digest.erase(0, 7);
  for (const json& variable : document.value("/Config/Env"_json_pointer, json::array())) {
    const std::string word = variable;
    if (word.starts_with("ENVKIT_JOB=")) container.job = word.substr(11);
    if (word.starts_with("ENVKIT_SESSION=")) container.session = word.substr(15);
  }
  for (const json& mount : document.value("Mounts", json::array())) {
    container.mounts.push_back(mount.value("Destination", ""));
    if (container.mounts.back() == "/workspace") container.project = mount.value("Source", "");
  }
  const json tmpfs = document.value("/HostConfig/Tmpfs"_json_pointer, json());
  for (const auto& [path, options] : tmpfs.items()) container.mounts.push_back(path);
  for (const char* own : {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}) {
    container.mounts.emplace_back(own);
  }
  if (const long pid = document.value("/State/Pid"_json_pointer, 0L); pid > 0) {
    container.pids.push_back(pid);
  }
  std::istringstream lines{std::string(diff)};
  struct Listed {
    char kind = 'C';  // added, changed, deleted
    std::string path;
  };
  std::vector<Listed> listed;
  for (std::string line; std::getline(lines, line);) {
    if (line.size() > 2) listed.push_back({line[0], line.substr(2)});
  }
  for (const Listed& one : listed) {
    if (IsScratch(one.path) || IsMounted(one.path, container.mounts) ||
        LeadsToMount(one.path, container.mounts)) {
      continue;
    }
    // A directory counts as changed when something in it was, and is not what matters then.
    const bool parent =
        one.kind == 'C' && std::any_of(listed.begin(), listed.end(), [&](const Listed& other) {
          return other.path != one.path && IsBelow(other.path, one.path);
        });
    if (parent) continue;
    const char* what = one.kind == 'A' ? "added " : one.kind == 'D' ? "removed " : "changed ";
    container.changes.push_back(what + one.path);
  }
  std::sort(container.changes.begin(), container.changes.end());
  return container;
}

std::vector<MappedFile> MappedFiles(long pid, const fs::path& proc) {
  std::map<std::string, MappedFile> files;
  const fs::path process = proc / std::to_string(pid);
  std::ifstream maps(process / "maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string range, permissions, offset, device, inode, path;
    words >> range >> permissions >> offset >> device >> inode >> std::ws;
    std::getline(words, path);
    if (!path.starts_with('/') || permissions.find('x') == std::string::npos) continue;
    constexpr std::string_view kDeleted = " (deleted)";
    MappedFile file;
    file.deleted = path.ends_with(kDeleted);
    if (file.deleted) path.resize(path.size() - kDeleted.size());
    // The very file that is mapped, where the kernel lets us have it.
    file.file = process / "map_files" / range;
    std::error_code error;
    if (!fs::exists(file.file, error)) file.file = process / "root" / path.substr(1);
    file.path = path;
    files.emplace(path, std::move(file));
  }
  std::vector<MappedFile> list;
  list.reserve(files.size());
  for (auto& [path, file] : files) list.push_back(std::move(file));
  return list;
}

namespace {

Result<void> AddContainers(const std::string& engine, std::vector<RunningContainer>& containers) {
  ENVKIT_TRY(const std::string ids,
             RunForOutput({.argv = {engine, "ps", "--quiet", "--no-trunc", "--filter",
                                    "label=dev.envkit.lock.digest"}}));
  std::istringstream lines(ids);
  for (std::string id; std::getline(lines, id);) {
    const auto inspected = RunForOutput({.argv = {engine, "container", "inspect", id}});
    const auto diff = RunForOutput({.argv = {engine, "container", "diff", id}});
    if (!inspected || !diff) continue;  // it ended meanwhile
    ENVKIT_TRY(RunningContainer container, DockerContainer(*inspected, *diff, engine));
    const std::map<long, Process> processes = Processes("/proc");
    if (!container.pids.empty()) {
      // A pid of a daemon on another machine means nothing here.
      const auto first = processes.find(container.pids.front());
      container.pids.clear();
      for (const auto& [pid, process] : processes) {
        if (first != processes.end() && process.mounts == first->second.mounts) {
          container.pids.push_back(pid);
        }
      }
    }
    containers.push_back(std::move(container));
  }
  return {};
}

}  // namespace

Result<std::vector<RunningContainer>> FindRunning(std::string_view engine) {
  const bool all = engine == "auto";
  std::vector<RunningContainer> containers;
  if (all || engine == "oci") containers = FindOciContainers("/proc");
  if (engine == "docker" || (all && DockerMayAnswer())) {
    if (auto docker = OpenDockerEngine()) {
      ENVKIT_CHECK(AddContainers("docker", containers));
    } else if (!all) {
      return Unexpected(std::move(docker).error());
    }
  }
  if (engine == "podman" || (all && FindExecutable("podman"))) {
    if (auto podman = OpenPodmanEngine()) {
      ENVKIT_CHECK(AddContainers("podman", containers));
    } else if (!all) {
      return Unexpected(std::move(podman).error());
    }
  }
  return containers;
}

}  // namespace envkit

// What was asked for, from wherever it was said: flags over the environment (PET_*, then what
// Slurm, Kubernetes and MPI set) over the project's .accelerate/config.yaml over accelerate's own
// config file over the defaults. Each value keeps where it came from, for --explain and for errors.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace envkit {

using Variables = std::vector<std::pair<std::string, std::string>>;

// Whose command line it is: the shims stand in for torchrun and accelerate, with their defaults.
enum class Personality { kEnvkit, kTorchrun, kAccelerate };

enum class SettingLayer { kDefault, kFile, kProject, kCluster, kEnvironment, kFlag };

struct Setting {
  std::string value;  // as Python's str() shows it; "True" for a switch
  SettingLayer layer = SettingLayer::kDefault;
  std::string source;  // "flag --nnodes", "environment PET_NNODES", "config.yaml:3"
};

class Settings {
 public:
  // A higher layer wins, and of one layer the later call. Settings that say the same thing in two
  // ways (ranks per node or in all; endpoint or address and port) replace each other.
  void Set(const std::string& name, std::string value, SettingLayer layer, std::string source);
  const Setting* Find(const std::string& name) const;
  std::string Get(const std::string& name, const std::string& fallback = "") const;
  bool On(const std::string& name) const;
  Result<int> Number(const std::string& name, int fallback, int least) const;
  Result<double> Seconds(const std::string& name, double fallback) const;
  const std::map<std::string, Setting>& all() const { return values_; }

 private:
  std::map<std::string, Setting> values_;
};

struct ConfigPlaces {             // empty: not read
  std::filesystem::path project;  // .accelerate/config.yaml
  std::filesystem::path user;     // accelerate's default_config.yaml
};
ConfigPlaces FindConfigs(Personality personality, const std::map<std::string, std::string>& env);

// FLAGS: setting → (value, flag as it was typed).
using FlagValues = std::map<std::string, std::pair<std::string, std::string>>;
Result<Settings> ReadSettings(const FlagValues& flags,
                              const std::map<std::string, std::string>& env,
                              const ConfigPlaces& places, std::vector<std::string>& notes);

// What `accelerate launch` would set for the ranks; empty where nothing of accelerate's was asked
// for and ALWAYS is false. ALONE: a single rank, which accelerate starts without torchrun.
Result<Variables> AccelerateVariables(const Settings& settings,
                                      const std::map<std::string, std::string>& env, bool alone,
                                      bool always);

// "a.b-[03-05,9]" → "a.b-03": the first of Slurm's compressed list of hosts.
std::string FirstSlurmHost(const std::string& list);

}  // namespace envkit

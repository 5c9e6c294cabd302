// What `accelerate config` asks, and the answers as both files: accelerate's own config.yaml, which
// we and `accelerate launch` read, and the lines of envkit.toml that `envkit run` needs.
//
// Not asked: what cannot be launched here (TPUs, other makers' devices, SageMaker), mpirun and
// DeepSpeed's launcher of several nodes, which envkit launch takes the place of.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "launch/settings.h"

namespace envkit {

// Gets the question and gives the line, nullopt at the end of input. Empty: nobody to ask.
using AskLine = std::function<std::optional<std::string>(const std::string& question)>;

struct SavedConfig {
  // Values as YAML has them, by key; by section and key.
  std::map<std::string, std::string> top;
  std::map<std::string, std::map<std::string, std::string>> sections;
  int processes = 1;         // on each node
  std::string gpus = "all";  // "all", or CUDA's numbers
};

// FLAGS answer their own question; without ASK the others have accelerate's defaults. GPUS: how
// many this machine has. kUsage: an answer that cannot be, or one that is needed and missing.
Result<SavedConfig> AskConfig(const FlagValues& flags, int gpus, const AskLine& ask);

// accelerate's file: its keys in its order.
std::string YamlText(const SavedConfig& config);

// TEXT, an envkit.toml, with what CONFIG says of [jobs.JOB] and [run]; nullopt: it has no such job.
std::optional<std::string> WithConfig(const std::string& text, const std::string& job,
                                      const SavedConfig& config);

// `launch --save-config`: asks, writes FILE (else .accelerate/config.yaml) and the envkit.toml of
// this directory, where there is one; what it says for people.
Result<std::string> SaveConfig(const FlagValues& flags, int gpus, const AskLine& ask);

// FILE, whole or not at all; its directory is made.
Result<void> WriteConfig(const std::filesystem::path& file, const std::string& text);

}  // namespace envkit

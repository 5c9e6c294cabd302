// Reads the part of YAML that accelerate's config files are made of: `key: value` and one level of
// sections below it, with comments, quotes and lists of scalars. Anything else (anchors, tags, text
// over several lines) is an error that names its line, never a guess.
//
// Why not yaml-cpp: envkit-launch is one file that links nothing, and is compiled in the images'
// builder root too, which would need another package for about 40 keys.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace envkit {

struct ConfigEntry {
  std::string section;  // "fsdp_config", or empty at the top
  std::string key;
  std::string
      value;  // as Python's str() shows it: "True", "1", "FULL_SHARD"; a list joined with ","
  bool null = false;  // also for an empty section or list
  int line = 0;
};

// NAME is for messages: "~/.accelerate/config.yaml".
Result<std::vector<ConfigEntry>> ParseFlatYaml(std::string_view text, const std::string& name);
// The same from accelerate's older default_config.json.
Result<std::vector<ConfigEntry>> ParseFlatJson(std::string_view text, const std::string& name);

}  // namespace envkit

// Every flag that `envkit launch` knows: its own, torchrun's and accelerate launch's. One row says
// what a flag sets, or why it is refused; options.cpp makes options of the rows, settings.cpp takes
// the environment's and the config files' names from them, and a test walks torchrun's and
// accelerate's own lists against it.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace envkit {

enum class Origin { kEnvkit, kTorchrun, kAccelerate, kBoth };

struct FlagRow {
  const char* name = nullptr;  // "nproc-per-node", as it is written behind "--"
  char letter = 0;             // 'm' for -m; 0: none
  bool switched = false;       // takes no value
  Origin origin = Origin::kEnvkit;
  const char* setting =
      nullptr;                 // what it sets: "nproc_per_node", as torchrun or accelerate spell it
  const char* help = nullptr;  // shown by --help; nullptr: known, but not shown
  const char* choices = nullptr;  // "no|fp16|bf16"
  const char* refused = nullptr;  // why it cannot be used
};

std::span<const FlagRow> FlagRows();
// By the setting or by the flag's name in either spelling; nullptr: there is none.
const FlagRow* FindFlag(std::string_view name);

// "fsdp_version" for "fsdp-version".
std::string Underscored(std::string_view name);

}  // namespace envkit

// `envkit image`: each file adds its subcommands; the one that was given sets CHOSEN.
#pragma once

#include <memory>
#include <string>

#include "commands/command.h"

namespace envkit {

using ChosenAction = std::shared_ptr<Action>;

// NAME with the options of every command; EXAMPLE ends its help.
CLI::App* AddSubcommand(CLI::App& group, const ChosenAction& chosen, const std::string& name,
                        const std::string& summary, const std::string& example, Action action);

void AddProving(CLI::App& image, const ChosenAction& chosen);  // sbom, provenance

}  // namespace envkit

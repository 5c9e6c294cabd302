// `envkit image`: each file adds its subcommands; the one that was given sets CHOSEN.
#pragma once

#include <memory>
#include <string>

#include "commands/command.h"
#include "image/oci_layout.h"
#include "session/select_image.h"

namespace envkit {

using ChosenAction = std::shared_ptr<Action>;

// NAME with the options of every command; EXAMPLE ends its help.
CLI::App* AddSubcommand(CLI::App& group, const ChosenAction& chosen, const std::string& name,
                        const std::string& summary, const std::string& example, Action action);
// [IMAGE], --profile and --variant.
void AddImageChoice(CLI::App& app, ImageChoice& choice);

void AddLooking(CLI::App& image, const ChosenAction& chosen);   // ls, inspect, history, diff
void AddMoving(CLI::App& image, const ChosenAction& chosen);    // save, load
void AddRegistry(CLI::App& image, const ChosenAction& chosen);  // push, pull
void AddPruning(CLI::App& image, const ChosenAction& chosen);   // prune

// What several of them have.
void AddCompression(CLI::App& app, std::string& compression);
Compression CompressionOf(const std::string& name);
void AddReuse(CLI::App& app, LoadOptions& options);
void ReportLoad(const LoadReport& report, const std::string& verb, Context& context);

void AddProving(CLI::App& image, const ChosenAction& chosen);  // sbom, provenance

}  // namespace envkit

// The launcher's options, the same for `envkit launch` and `envkit-launch`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "launch/plan.h"

namespace envkit {

// Adds them to APP, which then stops at the first positional: all that follows is the program's.
void AddLaunchOptions(CLI::App& app, LaunchOptions& options);

// Takes the program from what APP left over; an unknown option before it is an error.
Result<void> TakeProgram(const CLI::App& app, LaunchOptions& options);

extern const char* const kLaunchExample;

}  // namespace envkit

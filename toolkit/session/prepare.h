// What is found out, and made where it is missing, before a run is planned.
#pragma once

#include <filesystem>
#include <optional>

#include "base/files.h"
#include "base/result.h"
#include "base/terminal.h"
#include "host/facts.h"
#include "image/image.h"
#include "session/environment.h"
#include "session/plan_run.h"

namespace envkit {

struct Prepared {
  Environment environment;
  std::optional<Image> image;     // nullopt: not built, and only to be shown
  std::optional<FileLock> lease;  // on the image, for as long as it runs
  RunSetting setting;             // without engine and record
};

// Builds the image where it is not there, unless REQUEST only wants to see.
Result<Prepared> Prepare(const std::filesystem::path& directory, const RunRequest& request,
                         const HostFacts& facts, Terminal& terminal);

// docker only: makes the image known to the daemon.
Result<void> GiveToEngine(const RunSetting& setting, const Image& image, Terminal& terminal);

}  // namespace envkit

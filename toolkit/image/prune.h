// Freeing the store's space. What a known project's current image needs stays, and what is being
// built or run right now; nothing is half-removed when it is killed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/image.h"
#include "image/recipe.h"
#include "image/store.h"

namespace envkit {

// Held while parts of the store are being made or looked for: shared by builds, exclusively by
// prune, which waits for them.
Result<FileLock> HoldStore(const Store& store);
// Held while IMAGE runs, by whatever process that ends last: prune leaves it then.
Result<FileLock> HoldImage(const Store& store, const std::string& config_digest);

struct PruneRequest {
  bool dry_run = false;
  bool all = false;                        // the projects' images and all downloads too
  std::optional<std::int64_t> older_than;  // only images of this age in seconds, and downloads
};
struct Pruned {
  std::string kind;  // image | layer | builder | download | data | rest
  std::string what;
  std::uint64_t bytes = 0;
};
struct PruneReport {
  std::vector<Pruned> removed;  // with dry_run: what would be
  std::uint64_t bytes = 0;
  std::size_t running = 0;  // images that were left because they run
};
Result<PruneReport> PruneStore(const Store& store, const Recipes& recipes,
                               const PruneRequest& request, std::int64_t now, Terminal& terminal);

std::string PruneText(const PruneReport& report, bool dry_run);
nlohmann::json PruneToJson(const PruneReport& report, bool dry_run);

// "30d", "12h", "45min": seconds.
std::optional<std::int64_t> ParseAge(std::string_view text);

}  // namespace envkit

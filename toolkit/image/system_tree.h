// A Debian system from exactly the locked packages, made by mmdebstrap out of files that are in the
// store. Nothing of the host gets into it: not its apt settings, environment, name or resolver.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/store.h"
#include "project/lock.h"

namespace envkit {

// Fast; before anything is downloaded.
Result<void> CheckSystemTools();

// WORK is an empty directory for intermediate files; the system ends up below TREE, all of it owned
// by the caller. STATUS hears what is being done.
Result<void> MakeSystemTree(const std::vector<LockedDeb>& debs, const Store& store,
                            std::int64_t source_date_epoch, const std::filesystem::path& work,
                            const std::filesystem::path& tree,
                            const std::function<void(std::string_view)>& status);

// False for what differs between two installations of the same packages, or names this host.
bool BelongsInSystemTree(std::string_view path);

}  // namespace envkit

// Which of the locked wheels each profile needs: one resolution is for all of them, so that they
// agree on versions, and then each profile's own requirements are resolved among those.
#pragma once

#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/index.h"
#include "image/recipe.h"
#include "image/store.h"
#include "image/uv.h"

namespace envkit {

// RESOLVED is the request that gave WHEELS, torch first among its requirements. Sets their roots.
Result<void> MarkClosures(const Project& project, const Recipes& recipes,
                          const PythonRequest& resolved, const PythonIndexes& indexes,
                          const Store& store, Terminal& terminal, std::vector<LockedWheel>& wheels);

}  // namespace envkit

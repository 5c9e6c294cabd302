// What a wheel says of itself: RECORD (its files with their hashes) and METADATA. A layer keeps
// both beside its tree, since a profile may take a few of the wheel's files only, and downloads are
// safe to delete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/image.h"
#include "image/layer.h"
#include "image/store.h"
#include "project/lock.h"

namespace envkit {

// The licence as an SPDX expression (License-Expression), else empty: free text proves nothing.
std::string LicenceOf(std::string_view metadata);
// The first value of a field of METADATA or of a Debian control paragraph; empty where it has none.
std::string FieldOf(std::string_view text, std::string_view field);

struct WheelPapers {
  std::string record, metadata;
  bool kept = false;  // beside the layer; else from the wheel itself, whose hash was verified
};
// kMissing where the store has neither.
Result<WheelPapers> ReadWheelPapers(const Store& store, const Layer& layer,
                                    const LockedWheel& wheel);
// DIRECTORY becomes the layer.
Result<void> KeepWheelPapers(const LayerPlan& plan, const WheelContent& content,
                             const std::filesystem::path& directory);

}  // namespace envkit

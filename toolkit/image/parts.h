// Inside image/: what a plan is put together from. The files that the store lacks are fetched in
// one go; then each part is made as soon as those are there that it is made from.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"
#include "image/build.h"
#include "image/layer.h"
#include "image/plan.h"
#include "image/resolve.h"
#include "image/store.h"

namespace envkit {

struct MissingParts {
  std::vector<const LayerPlan*> layers;
  bool builder_root = false;
  bool builder_torch = false;
  bool AnyLocked() const;  // some are made from files that the lock names
};

enum class Wanted { kImage, kBuilder };
// kImage: what the image's layers need; kBuilder: what EnsureBuilderRoot promises.
MissingParts FindMissing(const ImagePlan& plan, const BuilderPlan& builder, const Store& store,
                         Wanted wanted);

// Says what is about to happen where it is more than 1 GB.
Result<FetchOutcome> FetchParts(const Project& project, const ImagePlan& plan,
                                const BuilderPlan& builder, const MissingParts& missing,
                                const Store& store, Terminal& terminal);

// RUN may be empty where Wanted was kBuilder: no script is run for that.
Result<void> MakeParts(const Project& project, const ImagePlan& plan, const BuilderPlan& builder,
                       const MissingParts& missing, const Store& store, const RunInRoot& run,
                       Terminal& terminal);

// A layer that MakeParts left in the store.
Result<Layer> MadeLayer(const LayerPlan& layer, const Store& store);

// "libc6 2.41-12, tzdata 2026b-1 and 3 more are no longer on …": what to do about it.
Error GoneError(const Project& project, const std::vector<LockedDeb>& gone);

// Lowest first.
std::vector<std::filesystem::path> BuilderTrees(const ImagePlan& plan, const BuilderPlan& builder,
                                                const Store& store);

// The runtime, compiled in the builder's trees, as a layer of the store.
Result<Layer> MakeRuntimeLayer(const ImagePlan& plan, const BuilderPlan& builder,
                               const Store& store, const std::filesystem::path& work,
                               const RunInRoot& run, Terminal& terminal);

std::filesystem::path BuilderRoot(const BuilderPlan& builder, const Store& store);

// The project's own files: commands, settings, examples.
Result<Layer> MakeRecipeLayer(const LayerPlan& layer, const Store& store,
                              const std::filesystem::path& work, Terminal& terminal);

// What the layers of wheels that are being made will hold, by their keys.
using WheelContents = std::map<std::string, WheelContent>;

// Layers that a script of images/scripts makes out of others: of those that are in the store or,
// for bytecode, among CONTENTS.

// The bytecode of LAYERS: compiled in one run, so that all processors are busy to its end, and
// written each when its modules are compiled.
Result<void> MakeBytecodeLayers(const ImagePlan& plan, std::vector<const LayerPlan*> layers,
                                const WheelContents& contents, const Store& store,
                                const std::filesystem::path& work, const RunInRoot& run,
                                Terminal& terminal);
Result<Layer> MakeNoCudaLayer(const ImagePlan& plan, const LayerPlan& layer,
                              const BuilderPlan& builder, const Store& store,
                              const std::filesystem::path& work, const RunInRoot& run,
                              Terminal& terminal);
// What they share: the tree of a layer of PLAN; a sandbox with the scripts and OUT at /out; running
// one, with its first errors where it fails.
Result<std::filesystem::path> MadeTree(const ImagePlan& plan, const std::string& key,
                                       const Store& store);
BuildSandbox ScriptSandbox(const std::filesystem::path& share, const std::filesystem::path& out);
Result<void> RunScript(const RunInRoot& run, const BuildSandbox& sandbox, const std::string& what);

// The part of a compiler's or CMake's log that says what is wrong: from its first error on.
std::string FirstErrors(std::string_view log);

}  // namespace envkit

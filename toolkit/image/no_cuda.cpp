#include <fmt/format.h>

#include "base/digest.h"
#include "base/files.h"
#include "image/installed_wheel.h"
#include "image/layer.h"
#include "image/parts.h"
#include "image/plan.h"
#include "image/record.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// pip check and importlib.metadata find what torch asks for.
Result<void> WriteMetadata(const LockedWheel& wheel, const std::string& site,
                           const fs::path& tree) {
  const std::string directory = fmt::format("{}/{}", site, LeftOutDistInfo(wheel.file));
  std::vector<RecordedFile> recorded;
  for (const auto& [name, text] : {std::pair<std::string, std::string>{"INSTALLER", "envkit\n"},
                                   std::pair<std::string, std::string>{
                                       "METADATA", LeftOutMetadata(wheel.name, wheel.version)}}) {
    const std::string path = fmt::format("{}/{}", directory, name);
    ENVKIT_CHECK(WriteNewFile(tree / path, text));
    recorded.push_back({path, Sha256Of(text), text.size()});
  }
  recorded.push_back({directory + "/RECORD", "", 0});
  return WriteNewFile(tree / directory / "RECORD", RecordText(recorded, site));
}

}  // namespace

Result<Layer> MakeNoCudaLayer(const ImagePlan& plan, const LayerPlan& layer,
                              const BuilderPlan& builder, const Store& store, const fs::path& work,
                              const RunInRoot& run, Terminal& terminal) {
  ENVKIT_TRY(const FileLock lock, LockKey(store, layer.key, layer.what, terminal));
  if (auto made = FindLayer(store, layer.key, layer.what)) return std::move(*made);
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  const fs::path directory = work / layer.key;
  const fs::path tree = directory / "fs";
  ENVKIT_CHECK(MakeDirectories(tree / layer.site));
  for (const LockedWheel& wheel : layer.left_out) {
    ENVKIT_CHECK(WriteMetadata(wheel, layer.site, tree));
  }
  BuildSandbox sandbox = ScriptSandbox(share, tree / layer.site);
  sandbox.lower = {BuilderRoot(builder, store)};
  for (const std::string& source : layer.sources) {
    ENVKIT_TRY(const fs::path below, MadeTree(plan, source, store));
    sandbox.lower.push_back(below);
  }
  sandbox.argv = {"/bin/sh", fmt::format("/scripts/{}", kNoCudaScript), "/" + layer.site, "/out",
                  CudnnOf(layer)};
  ENVKIT_CHECK(RunScript(run, sandbox, "making stand-ins for CUDA's libraries"));
  ENVKIT_TRY(Layer made, FinishTree(tree, layer.mtime, Modes::kPlain));
  return PublishLayer(store, layer, directory, std::move(made));
}

}  // namespace envkit

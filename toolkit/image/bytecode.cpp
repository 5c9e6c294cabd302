#include <fmt/format.h>

#include <system_error>

#include "base/files.h"
#include "image/layer.h"
#include "image/parts.h"
#include "image/plan.h"

namespace envkit {
namespace fs = std::filesystem;

Result<fs::path> MadeTree(const ImagePlan& plan, const std::string& key, const Store& store) {
  for (const LayerPlan& layer : plan.layers) {
    if (layer.key != key) continue;
    if (const auto made = FindLayer(store, layer.key, layer.what)) return made->tree;
    return Fail(fmt::format("the layer {} vanished from {} during the build", layer.what,
                            store.data.string()),
                "Build again.");
  }
  return Fail("a layer is made from one that is not in the plan");
}

BuildSandbox ScriptSandbox(const fs::path& share, const fs::path& out) {
  BuildSandbox sandbox;
  sandbox.binds = {{share / "images/scripts", "/scripts", true}, {out, "/out", false}};
  sandbox.env = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                 {"HOME", "/tmp"},
                 {"LC_ALL", "C.UTF-8"},
                 {"TZ", "UTC"},
                 {"PYTHONHASHSEED", "0"},
                 {"PYTHONDONTWRITEBYTECODE", "1"}};
  return sandbox;
}

Result<void> RunScript(const RunInRoot& run, const BuildSandbox& sandbox, const std::string& what) {
  auto result = run(sandbox);
  if (!result) return Wrap(std::move(result).error(), what);
  if (result->exit_code == 0) return {};
  return Wrap(Error{ExitCode::kFailed,
                    fmt::format("exit code {}{}", result->exit_code, FirstErrors(result->output)),
                    "",
                    {},
                    false},
              what);
}

Result<Layer> MakeBytecodeLayer(const ImagePlan& plan, const LayerPlan& layer, const Store& store,
                                const fs::path& work, const RunInRoot& run, Terminal& terminal) {
  ENVKIT_TRY(const FileLock lock, LockKey(store, layer.key, layer.what, terminal));
  if (auto made = FindLayer(store, layer.key, layer.what)) return std::move(*made);
  ENVKIT_TRY(const fs::path share, ShareDirectory());
  const fs::path directory = work / layer.key;
  ENVKIT_CHECK(MakeDirectories(directory / "fs"));
  BuildSandbox sandbox = ScriptSandbox(share, directory / "fs");
  // A compiler allocates and frees all the time: with large pages that are kept it takes a tenth
  // less.
  sandbox.env["GLIBC_TUNABLES"] =
      "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864:"
      "glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=134217728";
  ENVKIT_TRY(const fs::path os, MadeTree(plan, plan.layers.front().key, store));
  sandbox.lower = {os};
  sandbox.argv = {"/usr/bin/python3", "-I", "-S", fmt::format("/scripts/{}", kBytecodeScript),
                  "/out"};
  for (const std::string& source : layer.sources) {
    ENVKIT_TRY(const fs::path tree, MadeTree(plan, source, store));
    const std::string place = fmt::format("/src/{}", sandbox.binds.size());
    sandbox.binds.push_back({tree, place, true});
    sandbox.argv.push_back(place);
  }
  {
    const auto progress = terminal.StartProgress("build", layer.what, 0, "files");
    ENVKIT_CHECK(
        RunScript(run, sandbox, fmt::format("compiling Python's modules for {}", layer.what)));
  }
  ENVKIT_TRY(Layer made, FinishTree(directory / "fs", layer.mtime, Modes::kPlain));
  return PublishLayer(store, layer, directory, std::move(made));
}

}  // namespace envkit

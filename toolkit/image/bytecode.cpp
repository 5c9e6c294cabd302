#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "base/files.h"
#include "image/layer.h"
#include "image/parts.h"
#include "image/plan.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

// Note [Where bytecode is compiled from]
// A compiler needs processors and a wheel's layer needs the disk: together they take as long as the
// slower of both. Therefore modules are read from the wheels and not from the layers, which are
// still being written then. The same files come from a layer where the store has that already (its
// wheel may be gone).
struct Module {
  std::string path;  // in the image
  std::function<Result<std::string>()> read;
};

bool IsModule(std::string_view path) { return path.ends_with(".py"); }

Result<void> AddFromWheels(const LayerPlan& layer, const WheelContent& content, const Store& store,
                           std::vector<Module>& modules) {
  // Its own readers: the layer is read by another thread.
  std::map<std::size_t, std::shared_ptr<const ZipReader>> zips;
  for (const WheelContent::File& file : content.files) {
    if (!IsModule(file.path)) continue;
    if (file.text) {
      modules.push_back({file.path, [&file]() -> Result<std::string> { return *file.text; }});
      continue;
    }
    std::shared_ptr<const ZipReader>& zip = zips[file.wheel];
    if (!zip) {
      const LockedWheel& wheel = layer.wheels[file.wheel];
      ENVKIT_TRY(ZipReader opened, ZipReader::Open(store.DownloadPath(wheel.sha256, wheel.file)));
      zip = std::make_shared<const ZipReader>(std::move(opened));
    }
    modules.push_back({file.path, [zip, &file] { return zip->ReadAll(file.entry); }});
  }
  return {};
}

Result<void> AddFromTree(const fs::path& tree, std::vector<Module>& modules) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(tree, error), end; !error && it != end;
       it.increment(error)) {
    if (!IsModule(it->path().native()) || !it->is_regular_file(error)) continue;
    modules.push_back({it->path().lexically_relative(tree).string(),
                       [path = it->path()] { return ReadFile(path); }});
  }
  if (error) return Fail(fmt::format("reading {}: {}", tree.string(), error.message()));
  return {};
}

// All of them in one file, SOURCES, since thousands of files that are removed again cost more than
// what is in them; INDEX has a line "SIZE PATH" for each.
Result<void> WriteModules(std::vector<Module>& modules, const fs::path& directory) {
  std::sort(modules.begin(), modules.end(),
            [](const Module& a, const Module& b) { return a.path < b.path; });
  // Wheels may share a file, if it is the same in all (RejectCollisions).
  modules.erase(std::unique(modules.begin(), modules.end(),
                            [](const Module& a, const Module& b) { return a.path == b.path; }),
                modules.end());
  ENVKIT_CHECK(MakeDirectories(directory));
  const fs::path sources = directory / "sources";
  std::ofstream file(sources, std::ios::binary);
  std::string index;
  for (const Module& module : modules) {
    ENVKIT_TRY(const std::string text, module.read());
    file.write(text.data(), static_cast<std::streamsize>(text.size()));
    index += fmt::format("{} {}\n", text.size(), module.path);
  }
  file.close();
  if (!file) return FileFailure("writing", sources, errno);
  return WriteNewFile(directory / "index", index);
}

}  // namespace

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

Result<Layer> MakeBytecodeLayer(const ImagePlan& plan, const LayerPlan& layer,
                                const WheelContents& contents, const Store& store,
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
  std::vector<Module> modules;
  for (const std::string& source : layer.sources) {
    if (const auto content = contents.find(source); content != contents.end()) {
      const LayerPlan& wheels = *std::find_if(plan.layers.begin(), plan.layers.end(),
                                              [&](const auto& one) { return one.key == source; });
      ENVKIT_CHECK(AddFromWheels(wheels, content->second, store, modules));
    } else {
      ENVKIT_TRY(const fs::path tree, MadeTree(plan, source, store));
      ENVKIT_CHECK(AddFromTree(tree, modules));
    }
  }
  const fs::path sources = work / (layer.key + ".sources");
  ENVKIT_CHECK(WriteModules(modules, sources));
  ENVKIT_TRY(const fs::path os, MadeTree(plan, plan.layers.front().key, store));
  sandbox.lower = {os};
  sandbox.binds.push_back({sources, "/src", true});
  sandbox.argv = {
      "/usr/bin/python3", "-I", "-S", fmt::format("/scripts/{}", kBytecodeScript), "/out", "/src"};
  ENVKIT_CHECK(
      RunScript(run, sandbox, fmt::format("compiling Python's modules for {}", layer.what)));
  ENVKIT_TRY(Layer made, FinishTree(directory / "fs", layer.mtime, Modes::kPlain));
  return PublishLayer(store, layer, directory, std::move(made));
}

}  // namespace envkit

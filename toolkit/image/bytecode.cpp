#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/archive.h"
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

Result<std::vector<Module>> ModulesOf(const LayerPlan& layer, const ImagePlan& plan,
                                      const WheelContents& contents, const Store& store) {
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
  std::sort(modules.begin(), modules.end(),
            [](const Module& a, const Module& b) { return a.path < b.path; });
  // Wheels may share a file, if it is the same in all (RejectCollisions).
  modules.erase(std::unique(modules.begin(), modules.end(),
                            [](const Module& a, const Module& b) { return a.path == b.path; }),
                modules.end());
  return modules;
}

// What compile-bytecode.py left in SHARE, the content of FILE: paths in the image, and bytecode.
Result<void> AddShare(const fs::path& file, std::string_view share,
                      std::map<std::string, std::string_view>& bytecode) {
  const auto damaged = [&] { return Fail(fmt::format("{} is damaged", file.string())); };
  while (!share.empty()) {
    const std::size_t end = share.find('\n');
    if (end == std::string_view::npos) return damaged();
    const std::string_view line = share.substr(0, end);
    share.remove_prefix(end + 1);
    std::size_t size = 0;
    const auto number = std::from_chars(line.data(), line.data() + line.size(), size);
    const std::string_view path = line.substr(static_cast<std::size_t>(number.ptr - line.data()));
    if (number.ec != std::errc() || !path.starts_with(' ') || !IsSafeRelativePath(path.substr(1)) ||
        size > share.size()) {
      return damaged();
    }
    bytecode[std::string(path.substr(1))] = share.substr(0, size);
    share.remove_prefix(size);
  }
  return {};
}

// Writes LAYER from the shares in COMPILED.
Result<void> WriteLayer(const LayerPlan& layer, const fs::path& compiled, const Store& store,
                        const fs::path& work) {
  std::deque<std::string> shares;
  std::map<std::string, std::string_view> entries;  // directories have no data()
  std::error_code error;
  for (fs::directory_iterator it(compiled, error), end; !error && it != end; it.increment(error)) {
    ENVKIT_TRY(shares.emplace_back(), ReadFile(it->path()));
    ENVKIT_CHECK(AddShare(it->path(), shares.back(), entries));
  }
  if (error) return Fail(fmt::format("reading {}: {}", compiled.string(), error.message()));
  std::set<std::string> directories;
  for (const auto& [path, bytecode] : entries) {
    for (std::size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      directories.insert(path.substr(0, slash));
    }
  }
  for (const std::string& directory : directories) entries.emplace(directory, std::string_view());
  const fs::path directory = work / layer.key;
  ENVKIT_CHECK(MakeDirectories(directory / "fs"));
  if (chmod((directory / "fs").c_str(), 0755) != 0) {
    return FileFailure("making", directory / "fs", errno);
  }
  LayerWriter writer(directory / "fs", layer.mtime);
  for (const auto& entry : entries) {
    const std::string_view bytecode = entry.second;
    if (bytecode.data() == nullptr) {
      ENVKIT_CHECK(writer.Directory(entry.first, 0755));
      continue;
    }
    ENVKIT_CHECK(
        writer.File(entry.first, 0644, bytecode.size(), [&](const ByteSink& sink) -> Result<void> {
          return sink(bytecode.data(), bytecode.size());
        }));
  }
  ENVKIT_TRY(Layer made, writer.Finish());
  ENVKIT_CHECK(PublishLayer(store, layer, directory, std::move(made)));
  return {};
}

// All modules in one file, since thousands of files that are removed again cost more than what is
// in them.
class Sources {
 public:
  static Result<Sources> Make(fs::path directory) {
    ENVKIT_CHECK(MakeDirectories(directory));
    return Sources(std::move(directory));
  }
  Result<void> Add(std::size_t layer, const std::vector<Module>& modules) {
    for (const Module& module : modules) {
      ENVKIT_TRY(const std::string text, module.read());
      file_.write(text.data(), static_cast<std::streamsize>(text.size()));
      index_ += fmt::format("{} {} {}\n", layer, text.size(), module.path);
    }
    return {};
  }
  Result<void> Finish() {
    file_.close();
    if (!file_) return FileFailure("writing", directory_ / "sources", errno);
    return WriteNewFile(directory_ / "index", index_);
  }

 private:
  explicit Sources(fs::path directory)
      : directory_(std::move(directory)), file_(directory_ / "sources", std::ios::binary) {}
  fs::path directory_;
  std::ofstream file_;
  std::string index_;
};

// The N of lines "done N" in what compile-bytecode.py says, which comes in pieces.
class DoneLines {
 public:
  template <class Done>
  void Hear(std::string_view text, const Done& done) {
    said_ += text;
    for (std::size_t end = said_.find('\n'); end != std::string::npos; end = said_.find('\n')) {
      constexpr std::string_view kDone = "done ";
      const std::string line = said_.substr(0, end);
      said_.erase(0, end + 1);
      if (!line.starts_with(kDone)) continue;
      std::size_t number = 0;
      const char* const last = line.data() + line.size();
      const auto read = std::from_chars(line.data() + kDone.size(), last, number);
      if (read.ec == std::errc() && read.ptr == last) done(number);
    }
  }

 private:
  std::string said_;
};

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

Result<void> MakeBytecodeLayers(const ImagePlan& plan, std::vector<const LayerPlan*> layers,
                                const WheelContents& contents, const Store& store,
                                const fs::path& work, const RunInRoot& run, Terminal& terminal) {
  // Two builds that want the same layers must not wait for each other.
  std::sort(layers.begin(), layers.end(),
            [](const LayerPlan* a, const LayerPlan* b) { return a->key < b->key; });
  const fs::path directory = work / "bytecode";
  const fs::path out = directory / "out";
  ENVKIT_TRY(Sources sources, Sources::Make(directory / "src"));
  // Of those that are still to be written. The sandbox inherits them: other builds wait for its
  // end.
  std::map<std::size_t, FileLock> locks;
  for (std::size_t place = 0; place < layers.size(); ++place) {
    const LayerPlan& layer = *layers[place];
    ENVKIT_TRY(FileLock lock, LockKey(store, layer.key, layer.what, terminal));
    if (FindLayer(store, layer.key, layer.what)) continue;
    locks.emplace(place, std::move(lock));
    ENVKIT_CHECK(MakeDirectories(out / std::to_string(place)));
    ENVKIT_TRY(const std::vector<Module> modules, ModulesOf(layer, plan, contents, store));
    ENVKIT_CHECK(sources.Add(place, modules));
  }
  if (locks.empty()) return {};
  ENVKIT_CHECK(sources.Finish());

  ENVKIT_TRY(const fs::path share, ShareDirectory());
  BuildSandbox sandbox = ScriptSandbox(share, out);
  // A compiler allocates and frees all the time: with large pages that are kept it takes a tenth
  // less.
  sandbox.env["GLIBC_TUNABLES"] =
      "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864:"
      "glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=134217728";
  ENVKIT_TRY(const fs::path os, MadeTree(plan, plan.layers.front().key, store));
  sandbox.lower = {os};
  sandbox.binds.push_back({directory / "src", "/src", true});
  sandbox.argv = {
      "/usr/bin/python3", "-I", "-S", fmt::format("/scripts/{}", kBytecodeScript), "/out", "/src"};
  Result<void> written;
  const auto write = [&](std::size_t place) {
    if (!written || !locks.contains(place)) return;
    written = WriteLayer(*layers[place], out / std::to_string(place), store, work);
    locks.erase(place);
  };
  DoneLines lines;
  sandbox.heard = [&](std::string_view text) { lines.Hear(text, write); };
  ENVKIT_CHECK(RunScript(run, sandbox, "compiling Python's modules"));
  while (written && !locks.empty()) write(locks.begin()->first);  // those without any module
  return written;
}

}  // namespace envkit

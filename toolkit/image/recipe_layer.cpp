#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/files.h"
#include "image/layer.h"
#include "image/parts.h"

namespace envkit {
namespace fs = std::filesystem;

Result<Layer> MakeRecipeLayer(const LayerPlan& plan, const Store& store, const fs::path& work,
                              Terminal& terminal) {
  ENVKIT_TRY(const FileLock lock, LockKey(store, plan.key, plan.what, terminal));
  if (auto made = FindLayer(store, plan.key, plan.what)) return std::move(*made);
  const fs::path directory = work / plan.key;
  ENVKIT_CHECK(MakeDirectories(directory / "fs/workspace"));
  ENVKIT_CHECK(MakeDirectories(directory / "fs/data"));
  for (const auto& [name, content] : plan.files) {
    const fs::path file = directory / "fs" / name;
    if (name.ends_with('/')) {  // for every user, as /tmp is
      ENVKIT_CHECK(MakeDirectories(file.parent_path()));
      if (chmod(file.c_str(), 01777) != 0) return FileFailure("making", file, errno);
    } else if (name.ends_with('@')) {
      const fs::path link = directory / "fs" / name.substr(0, name.size() - 1);
      ENVKIT_CHECK(MakeDirectories(link.parent_path()));
      if (symlink(content.c_str(), link.c_str()) != 0) return FileFailure("making", link, errno);
    } else {
      ENVKIT_CHECK(WriteNewFile(file, content, content.starts_with("#!") ? 0755 : 0644));
    }
  }
  ENVKIT_TRY(Layer layer, FinishTree(directory / "fs", plan.mtime, Modes::kPlain));
  return PublishLayer(store, plan, directory, std::move(layer));
}

}  // namespace envkit

// Where things are kept. $ENVKIT_STORE, else $XDG_CACHE_HOME/envkit for downloads (safe to delete)
// and $XDG_DATA_HOME/envkit for layers, images and data. Concurrent envkits are safe: work happens
// in DATA/tmp/, a finished tree is renamed to its final name, and only final names are trusted.
//
//   CACHE/downloads/<sha256>/<file name>       wheels, debs, artefacts, verified when they arrived;
//                                             record-holds beside a wheel: wheel_record.h
//   DATA/layers/<diff_id>/fs/                  the extracted tree; info.json beside it
//   DATA/keys/<layer key>                      → diff_id (a layer's recipe to its result)
//   DATA/images/<config digest>.json           Image as JSON
//   DATA/plans/<plan key>                      → config digest (an image's plan to its result)
//   DATA/roots/<key>/fs/                       build-time trees (builder root, torch headers)
//   DATA/data/<sha256>/                        unpacked data artefacts
//   DATA/projects/<sha256 of its root>.json     which images a project uses
//   DATA/locks/<key>                           held by the process that makes KEY
//   DATA/leases/<config digest>                held, shared, by who runs that image
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "base/files.h"
#include "base/result.h"
#include "base/terminal.h"

namespace envkit {

struct Store {
  std::filesystem::path cache;
  std::filesystem::path data;

  static Result<Store> Open();  // from the environment; makes the directories
  std::filesystem::path DownloadPath(std::string_view sha256, std::string_view file) const;
  std::filesystem::path LayerTree(std::string_view diff_id) const;
  std::filesystem::path Temp() const { return data / "tmp"; }
};

// A directory of our own below DATA/tmp, removed by the destructor. What processes that were killed
// left there is removed when the next one is made.
class WorkDirectory {
 public:
  static Result<WorkDirectory> Make(const Store& store);
  WorkDirectory(WorkDirectory&& other) noexcept
      : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
  ~WorkDirectory();
  const std::filesystem::path& path() const { return path_; }

 private:
  WorkDirectory(std::filesystem::path path, FileLock lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}
  std::filesystem::path path_;
  FileLock lock_;  // tells the living from the dead
};

// Waits for the process that makes KEY, and says that it waits for WHAT.
Result<FileLock> LockKey(const Store& store, std::string_view key, std::string_view what,
                         Terminal& terminal);

}  // namespace envkit

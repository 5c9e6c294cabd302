// Where things are kept. $ENVKIT_STORE, else $XDG_CACHE_HOME/envkit for downloads (safe to delete)
// and $XDG_DATA_HOME/envkit for layers, images and data. Concurrent envkits are safe: work happens
// in DATA/tmp/, a finished tree is renamed to its final name, and only final names are trusted.
//
//   CACHE/downloads/<sha256>/<file name>       wheels, debs, artefacts, verified when they arrived
//   DATA/layers/<diff_id>/fs/                  the extracted tree; info.json beside it
//   DATA/keys/<layer key>                      → diff_id (a layer's recipe to its result)
//   DATA/images/<config digest>.json           Image as JSON
//   DATA/roots/<key>/fs/                       build-time trees (builder root, torch headers)
//   DATA/data/<sha256>/                        unpacked data artefacts
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace envkit {

struct Store {
  std::filesystem::path cache;
  std::filesystem::path data;

  static Result<Store> Open();  // from the environment; makes the directories
  std::filesystem::path DownloadPath(std::string_view sha256, std::string_view file) const;
  std::filesystem::path LayerTree(std::string_view diff_id) const;
  std::filesystem::path Temp() const { return data / "tmp"; }
};

}  // namespace envkit

#include "image/store.h"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <system_error>
#include <utility>

#include "base/process.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

fs::path EnvironmentPath(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? fs::path() : fs::path(value);
}

Result<fs::path> Home() {
  if (fs::path home = EnvironmentPath("HOME"); home.is_absolute()) return home;
  const passwd* entry = getpwuid(getuid());
  if (entry != nullptr && entry->pw_dir != nullptr && entry->pw_dir[0] == '/') {
    return fs::path(entry->pw_dir);
  }
  return Missing("there is no home directory to keep images in",
                 "Set HOME, or set ENVKIT_STORE to a directory on a large disk.");
}

// The XDG specification: a relative path is to be ignored.
Result<fs::path> XdgDirectory(const char* variable, const char* below_home) {
  if (fs::path given = EnvironmentPath(variable); given.is_absolute()) return given / "envkit";
  ENVKIT_TRY(fs::path home, Home());
  return home / below_home / "envkit";
}

// Whatever a killed bootstrap left belongs to other users of its user namespace, and only their
// root can remove it. Failing is harmless: the next build tries again.
void RemoveAbandoned(const fs::path& directory) {
  if (RemoveTree(directory) || geteuid() == 0) return;
  ProcessSpec spec;
  spec.argv = {"unshare", "--user",      "--map-auto", "--map-root-user",
               "rm",      "--recursive", "--force",    directory.string()};
  (void)RunProcess(spec);
}

}  // namespace

Result<Store> Store::Open() {
  Store store;
  if (fs::path given = EnvironmentPath("ENVKIT_STORE"); !given.empty()) {
    std::error_code error;
    store.cache = store.data = fs::absolute(given, error).lexically_normal();
    if (error) return Fail(fmt::format("ENVKIT_STORE {}: {}", given.string(), error.message()));
  } else {
    ENVKIT_TRY(store.cache, XdgDirectory("XDG_CACHE_HOME", ".cache"));
    ENVKIT_TRY(store.data, XdgDirectory("XDG_DATA_HOME", ".local/share"));
  }
  std::error_code ignored;
  const bool fresh = !fs::exists(store.data, ignored);
  ENVKIT_CHECK(MakeDirectories(store.cache / "downloads"));
  // Extracted systems hold set-user-ID programs that belong to us: nobody else may reach them.
  ENVKIT_CHECK(MakeDirectories(store.data));
  if (fresh && chmod(store.data.c_str(), 0700) != 0) {
    return Fail(ErrnoText("chmod " + store.data.string()));
  }
  for (const char* name : {"layers", "keys", "images", "plans", "projects", "roots", "data",
                           "locks", "leases", "tmp"}) {
    ENVKIT_CHECK(MakeDirectories(store.data / name));
  }
  return store;
}

fs::path Store::DownloadPath(std::string_view sha256, std::string_view file) const {
  return cache / "downloads" / sha256 / fs::path(file).filename();
}

fs::path Store::LayerTree(std::string_view diff_id) const {
  return data / "layers" / diff_id / "fs";
}

Result<WorkDirectory> WorkDirectory::Make(const Store& store) {
  // Between the making of a directory and its lock nobody else may look for abandoned ones.
  ENVKIT_TRY(const FileLock guard, FileLock::Acquire(store.data / "locks" / "tmp"));
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(store.Temp(), error)) {
    if (!entry.path().filename().string().starts_with("work-")) continue;
    bool busy = false;
    if (const auto lock = FileLock::TryAcquire(entry.path() / ".lock", busy)) {
      RemoveAbandoned(entry.path());
    }
  }
  ENVKIT_TRY(fs::path path, MakeTempDirectory(store.Temp(), "work"));
  bool busy = false;
  ENVKIT_TRY(FileLock lock, FileLock::TryAcquire(path / ".lock", busy));
  return WorkDirectory(std::move(path), std::move(lock));
}

WorkDirectory::~WorkDirectory() {
  if (!path_.empty()) RemoveAbandoned(path_);
}

Result<FileLock> LockKey(const Store& store, std::string_view key, std::string_view what,
                         Terminal& terminal) {
  const fs::path file = store.data / "locks" / key;
  bool busy = false;
  auto lock = FileLock::TryAcquire(file, busy);
  if (!busy) return lock;
  terminal.Step("wait", fmt::format("another envkit makes {}", what));
  return FileLock::Acquire(file);
}

}  // namespace envkit

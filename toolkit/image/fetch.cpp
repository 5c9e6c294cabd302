// FetchLocked: locked files found again by name and hash, wherever this machine gets its files
// from.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "base/digest.h"
#include "base/files.h"
#include "base/http.h"
#include "image/debian.h"
#include "image/index.h"
#include "image/resolve.h"
#include "image/uv.h"
#include "image/wheel_record.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

struct WantedFile {
  std::string file, sha256;
  std::uint64_t size = 0;
};

bool Present(const Store& store, const std::string& sha256, const std::string& file) {
  std::error_code error;
  return fs::exists(store.DownloadPath(sha256, file), error);
}

// One question to the index for each file: many small answers, so several at a time.
Result<std::vector<Download>> LocateOnIndex(const std::vector<WantedFile>& wanted,
                                            const PythonIndexes& indexes, const Store& store) {
  std::vector<Download> downloads(wanted.size());
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::optional<Error> failure;
  const auto work = [&] {
    while (true) {
      const std::size_t at = next++;
      if (at >= wanted.size()) return;
      auto found = FindOnIndexes(indexes, wanted[at].file, wanted[at].sha256);
      if (!found) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::move(found.error());
        next = wanted.size();
        return;
      }
      downloads[at] = {{found->url},
                       store.DownloadPath(wanted[at].sha256, wanted[at].file),
                       wanted[at].sha256,
                       wanted[at].size != 0 ? wanted[at].size : found->size,
                       wanted[at].file};
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < std::min<std::size_t>(8, wanted.size()); ++i) {
    threads.emplace_back(work);
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) return Unexpected(std::move(*failure));
  return downloads;
}

// Mirrors behind plain object stores take a "+" for a blank.
std::string AsUrl(const std::string& base, const std::string& path) {
  std::string url = base + "/";
  for (const char letter : path) {
    if (letter == '+' || letter == '%' || letter == ' ' || letter == '#' || letter == '?') {
      url += fmt::format("%{:02x}", static_cast<unsigned char>(letter));
    } else {
      url += letter;
    }
  }
  return url;
}

Result<std::vector<Download>> LocateDebs(const std::vector<LockedDeb>& debs,
                                         const std::string& codename, const Store& store) {
  const ProxyVariables environment = CurrentEnvironment();
  ENVKIT_TRY(const DebianMirror mirror, FindDebianMirror(codename, environment, store));
  std::optional<DebianMirror> snapshot;
  constexpr char kVariable[] = "ENVKIT_DEBIAN_SNAPSHOT";
  if (const auto given = environment.find(kVariable);
      given != environment.end() && !given->second.empty()) {
    ENVKIT_TRY(snapshot, ParseMirrorSetting(given->second, kVariable));
  }
  std::vector<Download> downloads;
  for (const LockedDeb& deb : debs) {
    Download download;
    download.urls = {AsUrl(mirror.BaseOf(deb.suite), deb.file)};
    if (snapshot) download.urls.push_back(AsUrl(snapshot->BaseOf(deb.suite), deb.file));
    download.file = store.DownloadPath(deb.sha256, deb.file);
    download.sha256 = deb.sha256;
    download.size = deb.size;
    download.name = fs::path(deb.file).filename().string();
    downloads.push_back(std::move(download));
  }
  return downloads;
}

bool IsUrl(const std::string& from) {
  return from.starts_with("http://") || from.starts_with("https://");
}

// A wheel of the user's own, into the store, where everything else is too.
Result<void> TakeLocal(const Project& project, const LockedWheel& wheel, const Store& store) {
  const fs::path source = project.root / wheel.from;
  const fs::path target = store.DownloadPath(wheel.sha256, wheel.file);
  std::error_code error;
  if (!fs::is_regular_file(source, error)) {
    return Missing(fmt::format("envkit.lock names the wheel {}, which is not there", wheel.from),
                   "Put it back, or lock without it:  envkit lock");
  }
  ENVKIT_CHECK(MakeDirectories(target.parent_path()));
  ENVKIT_TRY(const fs::path temporary, MakeTempDirectory(target.parent_path(), "local"));
  const auto take = [&]() -> Result<void> {
    const fs::path copy = temporary / wheel.file;
    if (!fs::copy_file(source, copy, error)) {
      return FileFailure("copying to", copy, error.value());
    }
    // Of the copy: the original may be written to meanwhile.
    ENVKIT_TRY(const std::string sha256, Sha256OfFile(copy));
    if (sha256 != wheel.sha256) {
      return Usage(fmt::format("{} is another file than the one in envkit.lock\nlocked  {}\n"
                               "found   {}",
                               wheel.from, wheel.sha256, sha256),
                   "The lock is stale. Renew it:  envkit lock");
    }
    fs::rename(copy, target, error);
    if (error) return FileFailure("writing", target, error.value());
    return {};
  };
  auto taken = take();
  ENVKIT_CHECK(RemoveTree(temporary));
  return taken;
}

}  // namespace

Result<FetchOutcome> FetchLocked(const Project& project, const FetchRequest& request,
                                 const Store& store, Terminal& terminal) {
  std::vector<WantedFile> wanted;
  const auto want = [&](const std::string& file, const std::string& sha256, std::uint64_t size) {
    const bool known = std::any_of(wanted.begin(), wanted.end(),
                                   [&](const WantedFile& other) { return other.sha256 == sha256; });
    if (!known && !Present(store, sha256, file)) wanted.push_back({file, sha256, size});
  };
  std::vector<Download> direct;
  for (const LockedWheel& wheel : request.wheels) {
    if (wheel.from.empty()) {
      want(wheel.file, wheel.sha256, wheel.size);
    } else if (Present(store, wheel.sha256, wheel.file)) {
      continue;
    } else if (wheel.from.starts_with("sdist:")) {
      return Fail(fmt::format("{} has to be built from source, and was not", wheel.file),
                  "envkit lock");
    } else if (IsUrl(wheel.from)) {
      direct.push_back({{wheel.from},
                        store.DownloadPath(wheel.sha256, wheel.file),
                        wheel.sha256,
                        wheel.size,
                        wheel.file});
    } else {
      ENVKIT_CHECK(TakeLocal(project, wheel, store));
    }
  }
  for (const DataArtefact& data : request.data) {
    if (!data.path) want(data.file, data.sha256, 0);
  }
  std::vector<LockedDeb> debs;
  for (const LockedDeb& deb : request.debs) {
    if (!Present(store, deb.sha256, deb.file)) debs.push_back(deb);
  }
  FetchOutcome outcome;
  if (wanted.empty() && debs.empty() && direct.empty()) return outcome;

  std::vector<Download> downloads;
  if (!wanted.empty()) {
    ENVKIT_TRY(const PythonIndexes indexes,
               CompleteIndexes(IndexesOf(project, CurrentEnvironment()), store, terminal));
    ENVKIT_TRY(downloads, LocateOnIndex(wanted, indexes, store));
  }
  downloads.insert(downloads.end(), direct.begin(), direct.end());
  const std::size_t wheels = downloads.size();
  if (!debs.empty()) {
    ENVKIT_TRY(const std::string codename, DebianCodename(project.environment.base));
    ENVKIT_TRY(const std::vector<Download> located, LocateDebs(debs, codename, store));
    downloads.insert(downloads.end(), located.begin(), located.end());
  }
  DownloadOptions options;
  options.arrived = [&store](const Download& download) {
    const std::string name = download.file.filename().string();
    if (name.ends_with(".whl")) CheckRecord(store, download.sha256, name);
  };
  auto fetched = FetchAll(downloads, options, terminal);
  if (fetched) return outcome;
  if (debs.empty() || !IsNotFound(fetched.error())) return Unexpected(std::move(fetched.error()));

  // Something is gone. All of it is named at once, so that it is locked again once.
  ENVKIT_CHECK(
      FetchAll({downloads.begin(), downloads.begin() + static_cast<std::ptrdiff_t>(wheels)},
               options, terminal));
  for (std::size_t i = 0; i < debs.size(); ++i) {
    std::error_code error;
    if (fs::exists(downloads[wheels + i].file, error)) continue;
    auto one = FetchAll({downloads[wheels + i]}, {}, terminal);
    if (one) continue;
    if (!IsNotFound(one.error())) return Unexpected(std::move(one.error()));
    outcome.gone_debs.push_back(debs[i]);
  }
  return outcome;
}

}  // namespace envkit

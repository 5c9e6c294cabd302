#include "base/http.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "base/digest.h"
#include "base/files.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::uint64_t kAnnounceFrom = 1'000'000'000;
constexpr std::uint64_t kDocumentLimit = 64U << 20;
constexpr std::uint64_t kRealProgress = 1U << 20;  // then the count of attempts starts anew
constexpr long kSlowest = 1000;                    // bytes a second
constexpr auto kSaveEvery = std::chrono::milliseconds(500);
constexpr auto kLongestBackoff = std::chrono::seconds(30);

// For messages: signed URLs carry secrets in the query, too.
std::string ShownUrl(std::string_view url) {
  std::string shown = RedactUrl(url);
  const std::size_t query = shown.find_first_of("?#");
  if (query != std::string::npos) shown.resize(query);
  return shown;
}

std::string HostOf(std::string_view url) {
  const std::string shown = ShownUrl(url);
  const std::size_t scheme = shown.find("://");
  const std::size_t begin = scheme == std::string::npos ? 0 : scheme + 3;
  return shown.substr(begin, std::min(shown.find('/', begin), shown.size()) - begin);
}

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

struct CaBundle {
  std::string variable;
  std::string path;
};

std::optional<CaBundle> FindCaBundle() {
  for (const char* name : {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"}) {
    std::string path = Env(name);
    if (!path.empty()) return CaBundle{name, std::move(path)};
  }
  return std::nullopt;
}

std::string NetworkHint() {
  for (const char* name : {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"}) {
    const std::string proxy = Env(name);
    if (proxy.empty()) continue;
    return fmt::format("Check the network and the proxy: {} is {}.", name, RedactUrl(proxy));
  }
  return "Check the network. Behind a proxy, set https_proxy and http_proxy.";
}

std::string CertificateHint() {
  if (const auto bundle = FindCaBundle()) {
    return fmt::format(
        "Certificates come from {} ({}): it must hold the CA that signed this server's, or your "
        "proxy's, certificate.",
        bundle->path, bundle->variable);
  }
  return "Behind a proxy that signs certificates itself, set SSL_CERT_FILE to a file with its CA.";
}

struct CurlCloser {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
};
struct ListCloser {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Curl = std::unique_ptr<CURL, CurlCloser>;

// libcurl leaves SIGPIPE to us (CURLOPT_NOSIGNAL), and a TLS connection that breaks can raise it.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;
  ~NoSigpipe() {
    const timespec now{};
    while (sigtimedwait(&pipe_, nullptr, &now) > 0) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_{};
  sigset_t before_{};
};

Curl NewCurl() {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  return Curl(initialised == CURLE_OK ? curl_easy_init() : nullptr);
}

// What every request has in common. `words` holds libcurl's own message after a failure.
void Prepare(CURL* curl, const std::string& url, int stall_s,
             std::array<char, CURL_ERROR_SIZE>& words) {
  curl_easy_reset(curl);
  words[0] = '\0';
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, words.data());
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "envkit");
  curl_easy_setopt(curl, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_OPTIONAL));
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https,file");
  // Never from TLS to plain text, and never to a local file.
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR,
                   url.starts_with("https:") ? "https" : "http,https");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 20L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, kSlowest);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(stall_s));
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L << 10);
  curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  if (const auto bundle = FindCaBundle()) {
    std::error_code ignored;
    const bool directory = fs::is_directory(bundle->path, ignored);
    curl_easy_setopt(curl, directory ? CURLOPT_CAPATH : CURLOPT_CAINFO, bundle->path.c_str());
  }
}

enum class Outcome {
  kDone,
  kAgain,      // may work when tried again
  kNoNetwork,  // the same, and it is the network's fault
  kRefused,    // this URL will not serve it: the next one, please
  kTls,        // no certificate that we trust
  kStopped,    // somebody else failed
  kLocal,      // our own disk: no URL helps
};

struct Trouble {
  Outcome outcome = Outcome::kDone;
  std::string what;
  std::string next;
  std::optional<Error> local;
  std::chrono::seconds retry_after{0};
};

Trouble Refused(std::string what) {
  return {Outcome::kRefused,
          std::move(what),
          "The index or mirror serves another file than the one that was locked. Nothing of it was "
          "kept.\nTry another index or mirror, or lock again if the change is intended.",
          std::nullopt,
          {}};
}
Trouble Stopped() { return {Outcome::kStopped, "", "", std::nullopt, {}}; }

bool WorthAnotherTry(long status) {
  return status == 408 || status == 425 || status == 429 || status >= 500;
}

// Where libcurl refused to follow a redirect, its own words say more than "302".
bool IsStatusError(CURLcode code, long status) {
  return status >= 300 && code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_TOO_MANY_REDIRECTS;
}

Trouble StatusTrouble(CURL* curl, const std::string& url, long status) {
  Trouble trouble;
  trouble.outcome = WorthAnotherTry(status) ? Outcome::kAgain : Outcome::kRefused;
  trouble.what = fmt::format("{} answers with HTTP {}", ShownUrl(url), status);
  if (status == 401 || status == 403 || status == 407) {
    trouble.what += status == 407 ? " (the proxy wants a login)" : " (not allowed)";
    trouble.next = status == 407 ? "Put the login into https_proxy: http://USER:PASSWORD@HOST:PORT."
                                 : "Put the login for this server into ~/.netrc.";
  } else if (status == 404 || status == 410) {
    trouble.what += " (not found)";
    trouble.next = "The index or mirror does not have it: try another one, or lock again.";
  }
  curl_off_t after = 0;
  if (curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &after) == CURLE_OK && after > 0) {
    trouble.retry_after = std::chrono::seconds(std::min<curl_off_t>(after, 60));
  }
  return trouble;
}

Trouble CurlTrouble(CURLcode code, const std::string& url, const char* words) {
  Trouble trouble;
  const std::string text = *words != '\0' ? words : curl_easy_strerror(code);
  trouble.what = fmt::format("{}: {}", HostOf(url), text);
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
      trouble.outcome = Outcome::kNoNetwork;
      break;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
      trouble.outcome = Outcome::kTls;
      break;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_TOO_MANY_REDIRECTS:
    case CURLE_FILE_COULDNT_READ_FILE:
    case CURLE_REMOTE_ACCESS_DENIED:
    case CURLE_LOGIN_DENIED:
      trouble.outcome = Outcome::kRefused;
      break;
    case CURLE_OPERATION_TIMEDOUT:
      trouble.outcome = Outcome::kAgain;
      trouble.what = fmt::format("{} stopped sending: {}", HostOf(url), text);
      break;
    default:
      trouble.outcome = Outcome::kAgain;
  }
  return trouble;
}

Error TroubleError(const Trouble& trouble) {
  if (trouble.local) return *trouble.local;
  switch (trouble.outcome) {
    case Outcome::kNoNetwork:
      return Missing(trouble.what, NetworkHint()).value();
    case Outcome::kTls:
      return Missing(trouble.what, CertificateHint()).value();
    case Outcome::kAgain:
      return Missing(trouble.what, "Run the same command again: it goes on where it stopped.")
          .value();
    default:
      return Fail(trouble.what, trouble.next).value();
  }
}

std::chrono::milliseconds Backoff(double first_s, int attempt) {
  static thread_local std::minstd_rand random{std::random_device{}()};
  const double full = first_s * static_cast<double>(1U << std::min(attempt, 10));
  const double jittered = full * std::uniform_real_distribution<double>(0.5, 1.0)(random);
  return std::min<std::chrono::milliseconds>(
      kLongestBackoff, std::chrono::milliseconds(static_cast<std::int64_t>(jittered * 1000)));
}

// Note [How a file comes]
// A Job is one file; a Piece is a range of it (one piece where the file is small, its size unknown,
// or the server has no ranges). Workers take pieces from one queue, write them to FILE.part with
// pwrite, and the worker that ends a file's last piece compares the hash and renames.
// FILE.part.json says how far each piece is; it is replaced by rename after the bytes it speaks of
// were written, so that a process killed at any moment resumes. After a power cut it may lie: then
// the hash is wrong, and a file of which a part came from an earlier run is fetched once more from
// the start. FILE.lock is held throughout. A worker never waits for a lock while others' pieces are
// queued (two processes could wait for each other): it asks again from time to time.
struct Piece {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;  // exclusive; 0: unknown
  std::uint64_t at = 0;   // all before it is written
};

struct Job {
  const Download* download = nullptr;
  std::vector<std::string> tried;  // what went wrong at the addresses before the last
  std::optional<FileLock> lock;
  std::vector<Piece> pieces;
  std::size_t open_pieces = 0;
  std::size_t url = 0;
  bool ranges = true;      // false: the server sends whole files only
  bool resumed = false;    // a part is from an earlier run or another address
  bool restart = false;    // all pieces must stop: it begins anew
  std::uint64_t size = 0;  // as locked, else as the server says
  int fd = -1;
  Clock::time_point saved;
  Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() {
    if (fd >= 0) close(fd);
    if (lock) unlink(LockFile().c_str());  // while it is held: see FileLock
  }
  fs::path PartFile() const { return fs::path(download->file.string() + ".part"); }
  fs::path StateFile() const { return fs::path(download->file.string() + ".part.json"); }
  fs::path LockFile() const { return fs::path(download->file.string() + ".lock"); }
  std::uint64_t Present() const {
    std::uint64_t present = 0;
    for (const Piece& piece : pieces) present += piece.at - piece.begin;
    return present;
  }
};

class Fetcher {
 public:
  Fetcher(const DownloadOptions& options, Terminal& terminal, std::string_view verb)
      : options_(options), terminal_(terminal), verb_(verb) {}

  Result<void> Run(const std::vector<Download>& downloads);

 private:
  struct Task {
    std::shared_ptr<Job> job;
    std::size_t piece = 0;
  };
  struct Transfer {  // what libcurl's callbacks see
    Fetcher* fetcher = nullptr;
    const std::string* url = nullptr;
    Job* job = nullptr;
    Piece* piece = nullptr;
    CURL* curl = nullptr;
    std::uint64_t wanted_from = 0;
    bool ranged = false;
    bool checked = false;
    Clock::time_point window = Clock::now();  // in which `arrived` came
    std::uint64_t arrived = 0;
    Trouble trouble;
  };

  void Worker();
  bool NextTask(Task& task);
  void Begin(const std::shared_ptr<Job>& job);
  void Plan(Job& job);
  void LoadState(Job& job) const;
  void SaveState(Job& job);
  void DropPart(Job& job);
  void Queue(const std::shared_ptr<Job>& job);
  void FetchPiece(CURL* curl, const Task& task);
  Trouble TryOnce(CURL* curl, const Task& task, const std::string& url);
  void PieceEnded(const Task& task);
  void Conclude(const std::shared_ptr<Job>& job);
  void StartAnew(const std::shared_ptr<Job>& job);
  void Finished(const std::shared_ptr<Job>& job);
  void FailWith(const Job& job, Error error);
  bool Pause(const Job& job, std::chrono::milliseconds time);
  void ShowLabel();
  void Count(std::int64_t bytes);

  static std::size_t OnBody(char* data, std::size_t one, std::size_t size, void* user);
  static int OnTick(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t);
  bool CheckAnswer(Transfer& transfer);

  const DownloadOptions& options_;
  Terminal& terminal_;
  std::string verb_;
  std::unique_ptr<Progress> progress_;

  std::mutex mutex_;  // guards everything below and the jobs' plans
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> waiting_;  // not begun, or locked by another process
  std::deque<Task> tasks_;
  std::vector<std::shared_ptr<Job>> active_;
  std::size_t unfinished_ = 0;
  std::optional<Error> error_;
  std::atomic<bool> stop_{false};
  std::int64_t done_ = 0;
  std::uint64_t known_total_ = 0;
  std::size_t unknown_sizes_ = 0;
};

// Which of them are there already. Hashing is as fast as reading, so several at a time.
std::vector<char> Present(const std::vector<Download>& downloads) {
  std::vector<char> present(downloads.size(), 0);
  std::atomic<std::size_t> next{0};
  const auto check = [&] {
    for (std::size_t i = next++; i < downloads.size(); i = next++) {
      const Download& download = downloads[i];
      struct stat info {};
      if (stat(download.file.c_str(), &info) != 0) continue;
      if (download.size != 0 && static_cast<std::uint64_t>(info.st_size) != download.size) continue;
      const auto hash = Sha256OfFile(download.file);
      present[i] = hash && *hash == download.sha256 ? 1 : 0;
    }
  };
  std::vector<std::jthread> threads;
  const std::size_t more =
      std::min<std::size_t>(std::thread::hardware_concurrency(), downloads.size());
  for (std::size_t i = 1; i < more; ++i) threads.emplace_back(check);
  check();
  threads.clear();
  return present;
}

Result<void> Fetcher::Run(const std::vector<Download>& downloads) {
  for (const Download& download : downloads) {
    if (!IsSha256(download.sha256)) {
      return Fail(fmt::format("{} has no sha256: nothing is fetched without", download.name));
    }
  }
  const std::vector<char> present = Present(downloads);
  std::uint64_t missing = 0;
  std::uint64_t disk = 0;
  std::uint64_t pieces = 0;
  for (std::size_t i = 0; i < downloads.size(); ++i) {
    if (present[i] != 0) continue;
    const Download& download = downloads[i];
    if (download.urls.empty()) {
      return Fail(fmt::format("no address is known for {}", download.name));
    }
    auto job = std::make_shared<Job>();
    job->download = &download;
    job->size = download.size;
    LoadState(*job);
    known_total_ += download.size;
    if (download.size == 0) ++unknown_sizes_;
    missing += download.size - std::min(download.size, job->Present());
    // A part has its blocks already, also those that wait for their bytes.
    struct stat part {};
    const std::uint64_t allocated = stat(job->PartFile().c_str(), &part) == 0
                                        ? static_cast<std::uint64_t>(part.st_blocks) * 512
                                        : 0;
    disk += download.size - std::min(download.size, allocated);
    done_ += static_cast<std::int64_t>(job->Present());
    pieces += 1 + download.size / std::max<std::uint64_t>(options_.segment, 1);
    waiting_.push_back(std::move(job));
  }
  if (waiting_.empty()) return {};
  // The largest first: their pieces keep all workers busy to the end.
  std::stable_sort(waiting_.begin(), waiting_.end(),
                   [](const auto& a, const auto& b) { return a->size > b->size; });
  const std::size_t files = waiting_.size();
  const fs::path directory = waiting_.front()->download->file.parent_path();
  const std::string label =
      files == 1 ? waiting_.front()->download->name : fmt::format("{} files", files);
  if (missing >= kAnnounceFrom) {
    terminal_.Step(verb_, fmt::format("{}: {} to download, {} of disk below {}", label,
                                      HumanBytes(missing), HumanBytes(disk), directory.string()));
  }
  if (disk > 0) ENVKIT_CHECK(RequireFreeSpace(directory, disk, "the download of " + label));
  unfinished_ = files;
  progress_ = terminal_.StartProgress(verb_, label, unknown_sizes_ == 0 ? known_total_ : 0);
  progress_->Set(static_cast<std::uint64_t>(done_));
  const Clock::time_point started = Clock::now();
  {
    std::vector<std::jthread> workers;
    const auto most = static_cast<std::uint64_t>(std::max(1, options_.parallel));
    const std::uint64_t count = std::min(pieces, most);
    workers.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) workers.emplace_back([this] { Worker(); });
  }
  if (error_) {
    progress_->Done();
    return Unexpected(std::move(*error_));
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
  progress_->Done(fmt::format("{}  {}  {}", label, HumanBytes(static_cast<std::uint64_t>(done_)),
                              HumanSeconds(seconds)));
  return {};
}

void Fetcher::Worker() {
  const NoSigpipe no_sigpipe;
  const Curl curl = NewCurl();
  Task task;
  while (NextTask(task)) {
    FetchPiece(curl.get(), task);
    task = {};
  }
}

// Waits for something to do; false when all is done or somebody failed.
bool Fetcher::NextTask(Task& task) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (stop_ || unfinished_ == 0) return false;
    if (!tasks_.empty()) {
      task = std::move(tasks_.front());
      tasks_.pop_front();
      return true;
    }
    // Each waiting job is asked once, then the lock's holder gets some time.
    bool progressed = false;
    for (std::size_t i = waiting_.size(); i > 0 && !waiting_.empty() && !progressed && !stop_;
         --i) {
      auto job = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      bool busy = false;
      auto file_lock = FileLock::TryAcquire(job->LockFile(), busy);
      if (file_lock) {
        job->lock.emplace(std::move(*file_lock));
        Begin(job);
        progressed = true;
        lock.lock();
      } else if (busy) {
        lock.lock();
        if (active_.empty()) {
          progress_->SetLabel(fmt::format("{} (another envkit fetches it)", job->download->name));
        }
        waiting_.push_back(std::move(job));
      } else {
        FailWith(*job, std::move(file_lock.error()));
        lock.lock();
      }
    }
    if (progressed) continue;
    changed_.wait_for(lock, std::chrono::milliseconds(200));
  }
}

void Fetcher::FailWith(const Job& job, Error error) {
  const std::lock_guard lock(mutex_);
  for (auto it = job.tried.rbegin(); it != job.tried.rend(); ++it) {
    error.what = *it + "\n" + error.what;
  }
  error.doing.push_back(fmt::format("fetching {}", job.download->name));
  if (!error_) error_ = std::move(error);
  stop_ = true;
  changed_.notify_all();
}

// The file is ours now: another process may have completed it, or a part of it, in the meantime.
void Fetcher::Begin(const std::shared_ptr<Job>& job) {
  const Download& download = *job->download;
  struct stat info {};
  if (stat(download.file.c_str(), &info) == 0) {
    auto hash = Sha256OfFile(download.file);
    if (hash && *hash == download.sha256) {
      Count(static_cast<std::int64_t>(download.size) - static_cast<std::int64_t>(job->Present()));
      Finished(job);
      return;
    }
    unlink(download.file.c_str());
  }
  const auto counted = static_cast<std::int64_t>(job->Present());
  LoadState(*job);
  Count(static_cast<std::int64_t>(job->Present()) - counted);
  job->fd = open(job->PartFile().c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (job->fd < 0) {
    FailWith(*job, FileFailure("writing", job->PartFile(), errno).value());
    return;
  }
  if (job->pieces.empty()) Plan(*job);
  job->resumed = job->Present() > 0;
  // A disk that is too small is better found now than in the middle.
  if (job->size > 0 &&
      fallocate(job->fd, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(job->size)) != 0 &&
      (errno == ENOSPC || errno == EDQUOT)) {
    auto failure = FileFailure("writing", download.file, errno);
    DropPart(*job);
    FailWith(*job, std::move(failure.value()));
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    active_.push_back(job);
  }
  ShowLabel();
  Queue(job);
}

void Fetcher::Plan(Job& job) {
  job.pieces.clear();
  const std::uint64_t segment = std::max<std::uint64_t>(options_.segment, 1);
  const bool file_url = job.download->urls[job.url].starts_with("file:");
  if (!job.ranges || job.size <= segment || file_url) {
    job.pieces.push_back({0, job.size, 0});
    return;
  }
  for (std::uint64_t at = 0; at < job.size; at += segment) {
    job.pieces.push_back({at, std::min(at + segment, job.size), at});
  }
}

void Fetcher::LoadState(Job& job) const {
  job.pieces.clear();
  struct stat info {};
  if (stat(job.PartFile().c_str(), &info) != 0) return;
  const auto text = ReadFile(job.StateFile());
  if (!text) return;
  const auto state = nlohmann::json::parse(*text, nullptr, false);
  if (!state.is_object() || state.value("sha256", nlohmann::json()) != job.download->sha256 ||
      state.value("size", nlohmann::json()) != job.size) {
    return;
  }
  const auto pieces = state.find("pieces");
  if (pieces == state.end() || !pieces->is_array()) return;
  std::vector<Piece> loaded;
  std::uint64_t expected = 0;
  for (const auto& row : *pieces) {
    const bool sound = row.is_array() && row.size() == 3 && row[0].is_number_unsigned() &&
                       row[1].is_number_unsigned() && row[2].is_number_unsigned();
    if (!sound) return;
    const Piece piece{row[0], row[1], row[2]};
    const bool bounded = piece.end != 0;
    if (piece.begin != expected || piece.at < piece.begin ||
        (bounded && (piece.end <= piece.begin || piece.at > piece.end)) ||
        (!bounded && pieces->size() > 1) || piece.at > static_cast<std::uint64_t>(info.st_size)) {
      return;
    }
    expected = piece.end;
    loaded.push_back(piece);
  }
  if (expected == job.size) job.pieces = std::move(loaded);
}

// With the mutex held. Not fsynced: see Note [How a file comes].
void Fetcher::SaveState(Job& job) {
  nlohmann::json pieces = nlohmann::json::array();
  for (const Piece& piece : job.pieces) pieces.push_back({piece.begin, piece.end, piece.at});
  const nlohmann::json state = {
      {"sha256", job.download->sha256}, {"size", job.download->size}, {"pieces", pieces}};
  const std::string text = state.dump();
  const std::string temporary = job.StateFile().string() + ".tmp";
  const int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  job.saved = Clock::now();
  if (fd < 0) return;  // then there is less to resume
  const bool whole = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(fd);
  if (!whole || rename(temporary.c_str(), job.StateFile().c_str()) != 0) unlink(temporary.c_str());
}

void Fetcher::DropPart(Job& job) {
  unlink(job.StateFile().c_str());
  unlink(job.PartFile().c_str());
}

void Fetcher::Queue(const std::shared_ptr<Job>& job) {
  bool complete = false;
  {
    const std::lock_guard lock(mutex_);
    job->open_pieces = 0;
    for (std::size_t i = 0; i < job->pieces.size(); ++i) {
      const Piece& piece = job->pieces[i];
      if (piece.end != 0 && piece.at == piece.end) continue;
      ++job->open_pieces;
      tasks_.push_back({job, i});
    }
    complete = job->open_pieces == 0;
    changed_.notify_all();
  }
  if (complete) Conclude(job);
}

void Fetcher::Count(std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  if (bytes >= 0) {
    progress_->Add(static_cast<std::uint64_t>(bytes));
  } else {
    progress_->Set(static_cast<std::uint64_t>(std::max<std::int64_t>(done_, 0)));
  }
}

void Fetcher::ShowLabel() {
  const std::lock_guard lock(mutex_);
  if (active_.empty()) return;
  const std::string& name = active_.front()->download->name;
  progress_->SetLabel(active_.size() == 1 ? name : fmt::format("{} +{}", name, active_.size() - 1));
}

// Sleeps; false when the work was stopped meanwhile.
bool Fetcher::Pause(const Job& job, std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, time, [&] { return stop_.load() || job.restart; });
  return !stop_ && !job.restart;
}

int Fetcher::OnTick(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (transfer.fetcher->stop_) return 1;
  transfer.fetcher->Count(0);  // time passes on the bar, too
  // libcurl's own low-speed rule looks at a five-second average first.
  const int stall_s = transfer.fetcher->options_.stall_s;
  if (Clock::now() - transfer.window > std::chrono::seconds(stall_s)) {
    if (transfer.arrived < static_cast<std::uint64_t>(stall_s * kSlowest)) {
      transfer.trouble = {Outcome::kAgain,
                          fmt::format("{} sent {} in {} s", HostOf(*transfer.url),
                                      HumanBytes(transfer.arrived), stall_s),
                          "",
                          std::nullopt,
                          {}};
      return 1;
    }
    transfer.window = Clock::now();
    transfer.arrived = 0;
  }
  const std::lock_guard lock(transfer.fetcher->mutex_);
  return transfer.job->restart ? 1 : 0;
}

// At the first byte of a body: is it the one that we asked for?
bool Fetcher::CheckAnswer(Transfer& transfer) {
  long status = 0;
  curl_easy_getinfo(transfer.curl, CURLINFO_RESPONSE_CODE, &status);
  const std::string& url = *transfer.url;
  if (status >= 300) return false;  // the body explains an error; the status says enough
  curl_off_t length = -1;
  curl_easy_getinfo(transfer.curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  const std::lock_guard lock(mutex_);
  Job& job = *transfer.job;
  std::uint64_t size = 0;
  if (status == 206) {
    const char* value = nullptr;
    curl_header* header = nullptr;
    if (curl_easy_header(transfer.curl, "Content-Range", 0, CURLH_HEADER, -1, &header) ==
        CURLHE_OK) {
      value = header->value;
    }
    unsigned long long from = 0;
    unsigned long long to = 0;
    unsigned long long whole = 0;
    const int fields =
        value == nullptr ? 0 : std::sscanf(value, "bytes %llu-%llu/%llu", &from, &to, &whole);
    if (fields < 2 || from != transfer.wanted_from) {
      if (!transfer.ranged) {
        transfer.trouble = Refused(fmt::format("{} sends a range of the file only", ShownUrl(url)));
        return false;
      }
      // A server that cannot count: the whole file, then.
      job.ranges = false;
      job.restart = true;
      changed_.notify_all();
      return false;
    }
    if (fields == 3) size = whole;
  } else {
    if (transfer.ranged) {
      // The whole file from the start: one piece takes it all.
      job.ranges = false;
      if (job.pieces.size() > 1 || transfer.wanted_from > 0) {
        job.restart = true;
        changed_.notify_all();
        return false;
      }
    }
    if (length > 0) size = static_cast<std::uint64_t>(length);
  }
  if (size != 0 && job.download->size != 0 && size != job.download->size) {
    transfer.trouble = Refused(
        fmt::format("{} has {} bytes, the lock names {}", ShownUrl(url), size, job.download->size));
    return false;
  }
  if (job.size == 0 && size != 0) {
    job.size = size;
    known_total_ += size;
    if (--unknown_sizes_ == 0) progress_->SetTotal(known_total_);
  }
  return true;
}

std::size_t Fetcher::OnBody(char* data, std::size_t one, std::size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  Fetcher& fetcher = *transfer.fetcher;
  const std::size_t size = one * count;
  if (fetcher.stop_) return 0;
  if (!transfer.checked) {
    transfer.checked = true;
    if (!fetcher.CheckAnswer(transfer)) return 0;
  }
  Piece& piece = *transfer.piece;
  if (piece.end != 0 && piece.at + size > piece.end) {
    transfer.trouble =
        Refused(fmt::format("{} sends more bytes than were asked for", ShownUrl(*transfer.url)));
    return 0;
  }
  std::size_t at = 0;
  while (at < size) {
    const ssize_t put =
        pwrite(transfer.job->fd, data + at, size - at, static_cast<off_t>(piece.at + at));
    if (put >= 0) {
      at += static_cast<std::size_t>(put);
    } else if (errno != EINTR) {
      transfer.trouble = {Outcome::kLocal,
                          "",
                          "",
                          FileFailure("writing", transfer.job->download->file, errno).value(),
                          {}};
      return 0;
    }
  }
  {
    const std::lock_guard lock(fetcher.mutex_);
    piece.at += size;
    if (Clock::now() - transfer.job->saved > kSaveEvery) fetcher.SaveState(*transfer.job);
  }
  transfer.arrived += size;
  fetcher.Count(static_cast<std::int64_t>(size));
  return size;
}

Trouble Fetcher::TryOnce(CURL* curl, const Task& task, const std::string& url) {
  Job& job = *task.job;
  Piece& piece = job.pieces[task.piece];
  std::array<char, CURL_ERROR_SIZE> words{};
  Prepare(curl, url, options_.stall_s, words);
  Transfer transfer;
  transfer.fetcher = this;
  transfer.url = &url;
  transfer.job = &job;
  transfer.piece = &piece;
  transfer.curl = curl;
  std::string range;
  std::uint64_t rewound = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!job.ranges || url.starts_with("file:")) {
      rewound = piece.at - piece.begin;
      piece.at = piece.begin;
    }
    transfer.wanted_from = piece.at;
    const bool whole = piece.at == 0 && job.pieces.size() == 1;
    transfer.ranged = !whole;
    if (!whole) {
      range = piece.end == 0 ? fmt::format("{}-", piece.at)
                             : fmt::format("{}-{}", piece.at, piece.end - 1);
    }
  }
  if (rewound != 0) Count(-static_cast<std::int64_t>(rewound));
  if (!range.empty()) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Fetcher::OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &Fetcher::OnTick);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  const CURLcode code = curl_easy_perform(curl);
  if (stop_) return Stopped();
  {
    const std::lock_guard lock(mutex_);
    if (job.restart) return Stopped();
  }
  if (transfer.trouble.outcome != Outcome::kDone) return std::move(transfer.trouble);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  if (status == 416) {
    const std::lock_guard lock(mutex_);
    // What an earlier run left may be all of it, or of another file.
    job.restart = job.resumed;
    if (!job.restart) {
      return Refused(fmt::format("{} is shorter than the lock says (HTTP 416)", ShownUrl(url)));
    }
    changed_.notify_all();
    return Stopped();
  }
  if (IsStatusError(code, status)) return StatusTrouble(curl, url, status);
  const std::lock_guard lock(mutex_);
  if (code != CURLE_OK) return CurlTrouble(code, url, words.data());
  if (piece.end != 0 && piece.at < piece.end) {
    return {Outcome::kAgain,
            fmt::format("{} ended the file after {} of {} bytes", HostOf(url), piece.at, piece.end),
            "",
            std::nullopt,
            {}};
  }
  if (piece.end == 0) piece.end = piece.at;
  return {};
}

void Fetcher::FetchPiece(CURL* curl, const Task& task) {
  Job& job = *task.job;
  if (curl == nullptr) {
    FailWith(job, Fail("libcurl could not be started").value());
    return;
  }
  int attempt = 0;
  std::size_t url_index = 0;
  std::uint64_t counted_from = 0;
  {
    const std::lock_guard lock(mutex_);
    url_index = job.url;
    counted_from = job.pieces[task.piece].at;
  }
  while (true) {
    std::string url;
    {
      const std::lock_guard lock(mutex_);
      if (job.restart) break;
      if (job.url != url_index) attempt = 0;  // another piece found that it does not serve us
      url_index = job.url;
      url = job.download->urls[url_index];
    }
    Trouble trouble = TryOnce(curl, task, url);
    if (trouble.outcome == Outcome::kDone) break;
    if (trouble.outcome == Outcome::kStopped) {
      if (!stop_) break;
      const std::lock_guard lock(mutex_);
      SaveState(job);
      return;
    }
    if (trouble.outcome == Outcome::kLocal) {
      DropPart(job);
      FailWith(job, TroubleError(trouble));
      return;
    }
    bool again = trouble.outcome == Outcome::kAgain || trouble.outcome == Outcome::kNoNetwork;
    {
      const std::lock_guard lock(mutex_);
      SaveState(job);
      const std::uint64_t at = job.pieces[task.piece].at;
      if (job.ranges && at >= counted_from + kRealProgress) {
        attempt = 0;
        counted_from = at;
      }
    }
    // Without any network there is little point in patience.
    const int limit =
        trouble.outcome == Outcome::kNoNetwork ? std::min(options_.attempts, 3) : options_.attempts;
    ++attempt;
    if (again && attempt < limit) {
      terminal_.Detail(fmt::format("{}: {}; trying again", job.download->name, trouble.what));
      auto pause = Backoff(options_.first_backoff_s, attempt - 1);
      if (trouble.retry_after > pause) pause = trouble.retry_after;
      if (!Pause(job, pause) && stop_) return;
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      if (job.url == url_index && job.url + 1 < job.download->urls.size()) {
        ++job.url;
        job.tried.push_back(trouble.what);
        job.ranges = true;
        job.resumed = job.resumed || job.Present() > 0;  // the part is another server's
      }
      if (job.url != url_index) {
        terminal_.Detail(
            fmt::format("{}: {}; trying the next address", job.download->name, trouble.what));
        continue;
      }
    }
    FailWith(job, TroubleError(trouble));
    return;
  }
  PieceEnded(task);
}

void Fetcher::PieceEnded(const Task& task) {
  const std::shared_ptr<Job>& job = task.job;
  bool restart = false;
  {
    const std::lock_guard lock(mutex_);
    if (job->open_pieces > 1) SaveState(*job);
    if (job->restart) {
      // Pieces that nobody has taken yet need not be taken.
      for (auto it = tasks_.begin(); it != tasks_.end();) {
        if (it->job == job) {
          it = tasks_.erase(it);
          --job->open_pieces;
        } else {
          ++it;
        }
      }
    }
    if (--job->open_pieces != 0) return;
    restart = job->restart;
  }
  if (restart) {
    StartAnew(job);
  } else {
    Conclude(job);
  }
}

void Fetcher::StartAnew(const std::shared_ptr<Job>& job) {
  const auto present = static_cast<std::int64_t>(job->Present());
  {
    const std::lock_guard lock(mutex_);
    job->restart = false;
    job->resumed = false;
    job->size = job->download->size;
    Plan(*job);
    SaveState(*job);
  }
  Count(-present);
  Queue(job);
}

// All bytes are there: are they the right ones?
void Fetcher::Conclude(const std::shared_ptr<Job>& job) {
  const Download& download = *job->download;
  const fs::path part = job->PartFile();
  struct stat info {};
  const auto size = static_cast<off_t>(job->pieces.back().end);
  if (fstat(job->fd, &info) == 0 && info.st_size > size && ftruncate(job->fd, size) != 0) {
    FailWith(*job, FileFailure("writing", part, errno).value());
    return;
  }
  auto hash = Sha256OfFile(part);
  if (!hash) {
    FailWith(*job, std::move(hash.error()));
    return;
  }
  if (*hash != download.sha256) {
    bool once_more = false;
    std::string url;
    {
      const std::lock_guard lock(mutex_);
      url = download.urls[job->url];
      // Bytes from elsewhere are not this server's fault.
      once_more = job->resumed;
      if (!once_more && job->url + 1 < download.urls.size()) {
        ++job->url;
        job->tried.push_back(fmt::format("{} has another sha256: {}", ShownUrl(url), *hash));
        job->ranges = true;
        once_more = true;
      }
    }
    if (once_more) {
      terminal_.Detail(fmt::format("{}: wrong sha256 {}; fetching it again", download.name, *hash));
      StartAnew(job);
      return;
    }
    DropPart(*job);
    FailWith(*job, Fail(fmt::format("{} has the wrong sha256\nexpected  {}\ngot       {}",
                                    ShownUrl(url), download.sha256, *hash),
                        Refused("").next)
                       .value());
    return;
  }
  int error = 0;
  if (fsync(job->fd) != 0 || rename(part.c_str(), download.file.c_str()) != 0) error = errno;
  if (error == 0) {
    const int directory =
        open(download.file.has_parent_path() ? download.file.parent_path().c_str() : ".",
             O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
      fsync(directory);
      close(directory);
    }
  }
  if (error != 0) {
    FailWith(*job, FileFailure("writing", download.file, error).value());
    return;
  }
  unlink(job->StateFile().c_str());
  if (options_.arrived) options_.arrived(download);
  Finished(job);
}

void Fetcher::Finished(const std::shared_ptr<Job>& job) {
  if (job->lock) unlink(job->LockFile().c_str());
  job->lock.reset();
  {
    const std::lock_guard lock(mutex_);
    active_.erase(std::remove(active_.begin(), active_.end(), job), active_.end());
    --unfinished_;
    changed_.notify_all();
  }
  ShowLabel();
}

}  // namespace

Result<void> FetchAll(const std::vector<Download>& downloads, const DownloadOptions& options,
                      Terminal& terminal, std::string_view verb) {
  return Fetcher(options, terminal, verb).Run(downloads);
}

Result<std::string> HttpGet(const std::string& url,
                            const std::map<std::string, std::string>& headers) {
  constexpr int kAttempts = 4;
  const NoSigpipe no_sigpipe;
  const Curl curl = NewCurl();
  if (!curl) return Fail("libcurl could not be started");
  curl_slist* raw = nullptr;
  for (const auto& [name, value] : headers) {
    if ((name + value).find_first_of("\r\n") != std::string::npos) {
      curl_slist_free_all(raw);
      return Fail(fmt::format("the header {} holds a line break", name));
    }
    raw = curl_slist_append(raw, fmt::format("{}: {}", name, value).c_str());
  }
  const std::unique_ptr<curl_slist, ListCloser> list(raw);
  for (int attempt = 1;; ++attempt) {
    std::array<char, CURL_ERROR_SIZE> words{};
    std::string body;
    Prepare(curl.get(), url, 30, words);
    curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, list.get());
    curl_easy_setopt(curl.get(), CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &body);
    curl_easy_setopt(
        curl.get(), CURLOPT_WRITEFUNCTION,
        +[](char* data, std::size_t one, std::size_t count, void* user) {
          auto& text = *static_cast<std::string*>(user);
          if (text.size() + one * count > kDocumentLimit) return std::size_t{0};
          text.append(data, one * count);
          return one * count;
        });
    const CURLcode code = curl_easy_perform(curl.get());
    long status = 0;
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
    Trouble trouble;
    if (code == CURLE_WRITE_ERROR) {
      return Fail(fmt::format("{} is larger than {}", ShownUrl(url), HumanBytes(kDocumentLimit)));
    }
    if (IsStatusError(code, status)) {
      trouble = StatusTrouble(curl.get(), url, status);
    } else if (code != CURLE_OK) {
      trouble = CurlTrouble(code, url, words.data());
    } else {
      return body;
    }
    const bool again = trouble.outcome == Outcome::kAgain || trouble.outcome == Outcome::kNoNetwork;
    if (!again || attempt == kAttempts) {
      Error error = TroubleError(trouble);
      if (IsStatusError(code, status)) error = Fail(trouble.what, trouble.next).value();
      return Unexpected(std::move(error));
    }
    std::this_thread::sleep_for(
        std::max<std::chrono::milliseconds>(Backoff(0.3, attempt - 1), trouble.retry_after));
  }
}

std::string RedactUrl(std::string_view url) {
  const std::size_t scheme = url.find("://");
  const std::size_t begin = scheme == std::string_view::npos ? 0 : scheme + 3;
  const std::size_t end = std::min(url.find_first_of("/?#", begin), url.size());
  const std::size_t at = url.substr(begin, end - begin).rfind('@');
  if (at == std::string_view::npos) return std::string(url);
  return std::string(url.substr(0, begin)) + std::string(url.substr(begin + at + 1));
}

}  // namespace envkit

// Everything that comes from the network comes through here (libcurl inside): the host's proxies,
// CA bundle (CURL_CA_BUNDLE, SSL_CERT_FILE, REQUESTS_CA_BUNDLE, PIP_CERT) and netrc are honoured;
// credentials in URLs are never printed. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/terminal.h"

namespace envkit {

struct Download {
  std::vector<std::string> urls;  // tried in order
  std::filesystem::path file;     // where it ends, only when its hash is right
  std::string sha256;             // required
  std::uint64_t size = 0;         // 0: unknown
  std::string name;               // for people
};

struct DownloadOptions {
  int parallel = 8;              // transfers at a time
  int attempts = 5;              // per URL, with exponential backoff and jitter
  double first_backoff_s = 0.5;  // doubles with each attempt
  int stall_s = 30;  // a transfer below 1 kB/s for so long is broken off and tried again
  std::uint64_t segment =
      64u << 20;  // files above this are fetched in parallel ranges of this size
  // Hears of each file that is there with the right hash, by the thread that fetched its last byte,
  // while others go on.
  std::function<void(const Download&)> arrived;
};

// Fetches all; files that are there with the right hash are not fetched again. A partial file is
// kept as FILE.part (with its progress) and resumed by Range. On the first failure the others stop.
// Errors: no network / name resolution / TLS (kMissing), HTTP status, wrong sha256 (expected, got,
// both printed; the file is deleted), short body, full disk.
Result<void> FetchAll(const std::vector<Download>& downloads, const DownloadOptions& options,
                      Terminal& terminal, std::string_view verb = "fetch");

// A small document (at most 64 MB). kMissing: no network; kFailed: the server's answer.
Result<std::string> HttpGet(const std::string& url,
                            const std::map<std::string, std::string>& headers = {});

// The URL without user and password.
std::string RedactUrl(std::string_view url);

}  // namespace envkit

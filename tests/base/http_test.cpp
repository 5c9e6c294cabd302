#include "base/http.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>

#include "base/digest.h"
#include "base/files.h"
#include "base/scratch.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using namespace std::chrono_literals;

std::string Noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// http_fixture.py over a directory; ends when its stdin closes.
class Server {
 public:
  explicit Server(const std::string& certificate = "") : tls_(!certificate.empty()) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    REQUIRE(pipe2(in.data(), O_CLOEXEC) == 0);
    REQUIRE(pipe2(out.data(), O_CLOEXEC) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    const std::string root = files.path().string();
    std::array<const char*, 5> argv = {"python3", ENVKIT_TEST_HTTP, root.c_str(),
                                       tls_ ? certificate.c_str() : nullptr, nullptr};
    REQUIRE(posix_spawnp(&pid_, "python3", &actions, nullptr, const_cast<char* const*>(argv.data()),
                         environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    stdin_ = in[1];
    std::array<char, 16> port{};
    for (std::size_t at = 0; std::string_view(port.data()).find('\n') == std::string::npos; ++at) {
      REQUIRE(at < port.size() - 1);
      REQUIRE(read(out[0], port.data() + at, 1) == 1);
    }
    close(out[0]);
    port_ = std::to_string(std::atoi(port.data()));
    REQUIRE(port_ != "0");
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    close(stdin_);
    waitpid(pid_, nullptr, 0);
  }
  std::string Url(const std::string& path, const std::string& user = "") const {
    return (tls_ ? "https://" : "http://") + user + "127.0.0.1:" + port_ + "/" + path;
  }
  // The same Download for the file NAME under another fault.
  Download File(const std::string& name, const std::string& content, const fs::path& to,
                const std::vector<std::string>& modes) {
    REQUIRE(WriteFileAtomic(files / name, content));
    Download download;
    for (const std::string& mode : modes)
      download.urls.push_back(Url(fmt::format("{}/{}", mode, name)));
    download.file = to / name;
    download.sha256 = Sha256Of(content);
    download.size = content.size();
    download.name = name;
    return download;
  }
  std::string Log() const { return HttpGet(Url("log")).value(); }
  std::size_t Requests(const std::string& what) const {
    const std::string log = Log();
    std::size_t count = 0;
    for (std::size_t at = 0; (at = log.find(what, at)) != std::string::npos; at += what.size()) {
      ++count;
    }
    return count;
  }
  const std::string& port() const { return port_; }
  Scratch files;

 private:
  pid_t pid_ = -1;
  int stdin_ = -1;
  std::string port_;
  bool tls_ = false;
};

// A certificate for 127.0.0.1 that nobody but itself has signed, with its key, as one PEM file.
void MakeCertificate(const fs::path& file) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("envkit test"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  for (const auto& [kind, value] : {std::pair(NID_subject_alt_name, "IP:127.0.0.1"),
                                    std::pair(NID_basic_constraints, "critical,CA:TRUE")}) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }
  REQUIRE(X509_sign(certificate, key, EVP_sha256()) > 0);
  FILE* out = fopen(file.c_str(), "w");
  REQUIRE(PEM_write_X509(out, certificate) == 1);
  REQUIRE(PEM_write_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  fclose(out);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

class Silent : public Terminal {
 public:
  Silent() : Terminal({Verbosity::kQuiet, false, 2, 1, false, false, 80}) {}
};

// Proxies and bundles of the machine must not decide the tests.
struct CleanEnvironment {
  CleanEnvironment() {
    for (const char* name :
         {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy",
          "NO_PROXY", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"}) {
      unsetenv(name);
    }
  }
};
const CleanEnvironment clean_environment;

DownloadOptions Quick() {
  DownloadOptions options;
  options.first_backoff_s = 0.01;
  options.segment = 256 << 10;
  options.attempts = 4;
  return options;
}

Result<void> Fetch(const std::vector<Download>& downloads,
                   const DownloadOptions& options = Quick()) {
  Silent terminal;
  return FetchAll(downloads, options, terminal);
}

std::vector<std::string> Names(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

int UnusedPort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

}  // namespace

TEST_CASE("files of all sizes come, large ones in ranges, and nothing else is left") {
  Server server;
  const Scratch to;
  const std::string large = Noise(1'500'000, 1);
  std::vector<Download> downloads = {server.File("large", large, to.path(), {"ok"}),
                                     server.File("small", "abc", to.path(), {"ok"}),
                                     server.File("edge", Noise(256 << 10, 2), to.path(), {"ok"})};
  for (int i = 0; i < 20; ++i) {
    downloads.push_back(server.File(fmt::format("s{}", i), Noise(1000, 3), to.path(), {"ok"}));
  }
  REQUIRE(Fetch(downloads));
  CHECK(ReadFile(to / "large").value() == large);
  CHECK(ReadFile(to / "small").value() == "abc");
  CHECK(Names(to.path()).size() == downloads.size());
  CHECK(server.Requests("ok large bytes=") == 6);
  CHECK(server.Requests("ok edge -") == 1);
  // What is there is not fetched again.
  const std::size_t requests = server.Requests("ok ");
  REQUIRE(Fetch(downloads));
  CHECK(server.Requests("ok ") == requests);
  // What is there with other bytes is.
  REQUIRE(WriteFileAtomic(to / "small", "abd"));
  REQUIRE(Fetch(downloads));
  CHECK(ReadFile(to / "small").value() == "abc");
}

TEST_CASE("servers with faults: the file comes all the same") {
  Server server;
  const Scratch to;
  const std::string large = Noise(1'000'000, 4);
  for (const char* mode :
       {"norange", "liar", "fail-2", "429-1", "cut-1", "cut-3", "chunked", "redirect", "slow"}) {
    CAPTURE(mode);
    const auto result = Fetch({server.File("large", large, to.path(), {mode})});
    CHECK_MESSAGE(result, (result ? "" : result.error().Text()));
    CHECK(Names(to.path()) == std::vector<std::string>{"large"});
    fs::remove(to / "large");
  }
  for (const char* mode : {"norange", "fail-2", "cut-2", "chunked"}) {
    CAPTURE(mode);
    Download small = server.File("small", Noise(60'000, 5), to.path(), {mode});
    small.size = 0;  // unknown
    const auto result = Fetch({small});
    CHECK_MESSAGE(result, (result ? "" : result.error().Text()));
    fs::remove(to / "small");
  }
}

TEST_CASE("a short body is asked for again from where it ended") {
  Server server;
  const Scratch to;
  REQUIRE(Fetch({server.File("file", Noise(200'000, 6), to.path(), {"cut-1"})}));
  CHECK(server.Requests("cut-1 file bytes=100000-199999") == 1);
}

TEST_CASE("a server that stops sending is left and asked again") {
  Server server;
  const Scratch to;
  DownloadOptions options = Quick();
  options.stall_s = 1;
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(Fetch({server.File("file", Noise(200'000, 7), to.path(), {"stall-1"})}, options));
  CHECK(std::chrono::steady_clock::now() - start < 5s);
}

TEST_CASE("the next address is asked where one does not serve the file") {
  Server server;
  const Scratch to;
  for (const char* bad : {"404", "403", "wrong", "longer", "always-cut", "fail-99"}) {
    CAPTURE(bad);
    const auto result =
        Fetch({server.File("file", Noise(600'000, 8), to.path(), {bad, "norange"})});
    CHECK_MESSAGE(result, (result ? "" : result.error().Text()));
    fs::remove(to / "file");
  }
}

TEST_CASE("a part that a bad address left does not spoil a good one's file") {
  Server server;
  const Scratch to;
  REQUIRE(Fetch({server.File("file", Noise(600'000, 16), to.path(), {"cutwrong", "ok"})}));
}

TEST_CASE("a login comes from the URL or from netrc, and is never printed") {
  Server server;
  const Scratch to;
  Download download = server.File("file", "text", to.path(), {"auth"});
  download.urls = {server.Url("auth/file?token=hush", "user:secret@")};
  REQUIRE(Fetch({download}));
  fs::remove(to / "file");

  download.urls = {server.Url("auth/file?token=hush", "user:wrong@")};
  const auto refused = Fetch({download});
  REQUIRE(!refused);
  CHECK(refused.error().Text() == "error: fetching file: " + server.Url("auth/file") +
                                      " answers with HTTP 401 (not allowed)\n"
                                      "  Put the login for this server into ~/.netrc.\n");

  const Scratch home;
  REQUIRE(WriteFileAtomic(home / ".netrc", "machine 127.0.0.1 login user password secret\n", 0600));
  const char* old_home = getenv("HOME");
  const std::string saved = old_home == nullptr ? "" : old_home;
  setenv("HOME", home.path().c_str(), 1);
  download.urls = {server.Url("auth/file")};
  CHECK(Fetch({download}).has_value());
  CHECK(HttpGet(server.Url("auth/file")).value() == "text");
  setenv("HOME", saved.c_str(), 1);
}

TEST_CASE("errors of a download") {
  Server server;
  const Scratch to;
  const std::string content = Noise(600'000, 9);
  const auto error = [&](const std::vector<std::string>& modes) {
    const auto result = Fetch({server.File("file", content, to.path(), modes)});
    REQUIRE(!result);
    CHECK(!fs::exists(to / "file"));
    CHECK(!fs::exists(to / "file.lock"));
    return result.error();
  };
  const std::string other =
      "  The index or mirror serves another file than the one that was locked. Nothing of it was "
      "kept.\n  Try another index or mirror, or lock again if the change is intended.\n";
  SUBCASE("not found") {
    const Error missing = error({"404"});
    CHECK(missing.code == ExitCode::kFailed);
    CHECK(missing.Text() == "error: fetching file: " + server.Url("404/file") +
                                " answers with HTTP 404 (not found)\n"
                                "  The index or mirror does not have it: try another one, or lock "
                                "again.\n");
    CHECK(server.Requests("404 file") <= 3);  // no patience: one for each range at most
  }
  SUBCASE("several addresses") {
    CHECK(error({"403", "404"}).what ==
          server.Url("403/file") + " answers with HTTP 403 (not allowed)\n" +
              server.Url("404/file") + " answers with HTTP 404 (not found)");
  }
  SUBCASE("wrong bytes") {
    CHECK(error({"wrong"}).Text() == "error: fetching file: " + server.Url("wrong/file") +
                                         " has the wrong sha256\nexpected  " + Sha256Of(content) +
                                         "\ngot       " + Sha256Of(std::string(600'000, '\0')) +
                                         "\n" + other);
    CHECK(Names(to.path()).empty());
  }
  SUBCASE("another size") {
    CHECK(error({"longer"}).Text() == "error: fetching file: " + server.Url("longer/file") +
                                          " has 600008 bytes, the lock names 600000\n" + other);
  }
  SUBCASE("a server with troubles") {
    const Error trouble = error({"fail-99"});
    CHECK(trouble.code == ExitCode::kMissing);
    CHECK(trouble.Text() == "error: fetching file: " + server.Url("fail-99/file") +
                                " answers with HTTP 503\n"
                                "  Run the same command again: it goes on where it stopped.\n");
  }
  SUBCASE("always too short") {
    const Error trouble = error({"always-cut"});
    CHECK(trouble.code == ExitCode::kMissing);
    CHECK(trouble.what.find("127.0.0.1:" + server.port() + ": transfer closed with") == 0);
  }
  SUBCASE("no sha256, no address") {
    Download download = server.File("file", content, to.path(), {});
    CHECK(Fetch({download}).error().what == "no address is known for file");
    download.sha256 = "sha256:1234";
    CHECK(Fetch({download}).error().what == "file has no sha256: nothing is fetched without");
  }
}

TEST_CASE("no network: what it is and what to look at") {
  const Scratch to;
  Download download;
  download.file = to / "file";
  download.sha256 = Sha256Of("x");
  download.name = "file";
  const std::string port = std::to_string(UnusedPort());
  download.urls = {"http://user:secret@127.0.0.1:" + port + "/file"};
  const auto refused = Fetch({download});
  REQUIRE(!refused);
  CHECK(refused.error().code == ExitCode::kMissing);
  CHECK(refused.error().Text().find("error: fetching file: 127.0.0.1:" + port +
                                    ": Failed to connect to 127.0.0.1 port " + port) == 0);
  CHECK(refused.error().next ==
        "Check the network. Behind a proxy, set https_proxy and http_proxy.");

  download.urls = {"http://no-such-host.invalid/file"};
  CHECK(Fetch({download}).error().what ==
        "no-such-host.invalid: Could not resolve host: no-such-host.invalid");

  setenv("http_proxy", ("http://me:hush@127.0.0.1:" + port).c_str(), 1);
  const auto proxied = Fetch({download});
  unsetenv("http_proxy");
  CHECK(proxied.error().next ==
        "Check the network and the proxy: http_proxy is http://127.0.0.1:" + port + ".");
}

TEST_CASE("certificates: the bundles that the environment names are honoured") {
  const Scratch scratch;
  const std::string pem = (scratch / "server.pem").string();
  MakeCertificate(pem);
  Server server(pem);
  const Scratch to;
  const std::string port = server.port();
  const Download download = server.File("file", "text", to.path(), {"ok"});

  const auto unknown = Fetch({download});
  REQUIRE(!unknown);
  CHECK(unknown.error().code == ExitCode::kMissing);
  CHECK(unknown.error().what.find("127.0.0.1:" + port + ": SSL certificate problem: self") == 0);
  CHECK(unknown.error().next ==
        "Behind a proxy that signs certificates itself, set SSL_CERT_FILE to a file with its CA.");

  for (const char* name : {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"}) {
    CAPTURE(name);
    setenv(name, pem.c_str(), 1);
    CHECK(HttpGet(download.urls[0]).value_or("") == "text");
    CHECK(Fetch({download}).has_value());
    fs::remove(to / "file");
    unsetenv(name);
  }

  // A redirect never leads from TLS to plain text.
  setenv("SSL_CERT_FILE", pem.c_str(), 1);
  const auto downgraded = HttpGet(server.Url("to-http/file"));
  unsetenv("SSL_CERT_FILE");
  REQUIRE(!downgraded);
  CHECK(downgraded.error().what ==
        fmt::format("127.0.0.1:{}: Protocol \"http\" not supported or disabled in libcurl", port));

  setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem", 1);
  const auto no_bundle = HttpGet(download.urls[0]);
  unsetenv("REQUESTS_CA_BUNDLE");
  REQUIRE(!no_bundle);
  CHECK(no_bundle.error().code == ExitCode::kMissing);
  CHECK(no_bundle.error().Text().starts_with(
      fmt::format("error: 127.0.0.1:{}: error setting certificate", port)));
  CHECK(no_bundle.error().next ==
        "Certificates come from /no/such/bundle.pem (REQUESTS_CA_BUNDLE): it must hold the CA "
        "that signed this server's, or your proxy's, certificate.");
}

TEST_CASE("a proxy is used") {
  Server server;
  REQUIRE(WriteFileAtomic(server.files / "page", "by proxy"));
  setenv("http_proxy", server.Url("").c_str(), 1);
  const auto page = HttpGet("http://no-such-host.invalid/ok/page");
  unsetenv("http_proxy");
  CHECK(page.value_or("") == "by proxy");
}

TEST_CASE("killed at any moment, a download goes on where it stopped") {
  Server server;
  const Scratch to;
  const std::string content = Noise(8'000'000, 10);
  const Download download = server.File("file", content, to.path(), {"slow"});
  DownloadOptions options = Quick();
  options.segment = 4 << 20;  // 1.3 s each
  std::mt19937 random(11);
  for (int round = 0; round < 2; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      Silent terminal;
      const auto result = FetchAll({download}, options, terminal);
      _exit(result ? 0 : 1);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(530 + random() % 200));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    CHECK((!fs::exists(to / "file") || ReadFile(to / "file").value() == content));
  }
  REQUIRE(Fetch({download}, options));
  CHECK(ReadFile(to / "file").value() == content);
  CHECK(Names(to.path()) == std::vector<std::string>{"file"});
  // Some range began in the middle of a piece: what the killed ones had was used.
  const std::string log = server.Log();
  bool resumed = false;
  for (std::size_t at = 0; (at = log.find("bytes=", at)) != std::string::npos; ++at) {
    resumed = resumed || std::stoull(log.substr(at + 6)) % options.segment != 0;
  }
  CHECK(resumed);
}

TEST_CASE("a recorded part is used, a false record is found out by the hash") {
  Server server;
  const Scratch to;
  const std::string content = Noise(600'000, 12);
  const Download download = server.File("file", content, to.path(), {"ok"});
  const auto record = [&](const std::string& part, const std::string& pieces) {
    REQUIRE(WriteFileAtomic(to / "file.part", part));
    REQUIRE(WriteFileAtomic(
        to / "file.part.json",
        R"({"sha256":")" + download.sha256 + R"(","size":600000,"pieces":)" + pieces + "}"));
  };
  DownloadOptions options = Quick();
  record(content.substr(0, 400'000), "[[0,300000,300000],[300000,600000,400000]]");
  REQUIRE(Fetch({download}, options));
  CHECK(server.Log() == "ok file bytes=400000-599999\n");
  fs::remove(to / "file");

  record(std::string(400'000, 'x'), "[[0,300000,300000],[300000,600000,400000]]");
  REQUIRE(Fetch({download}, options));
  CHECK(ReadFile(to / "file").value() == content);
  fs::remove(to / "file");

  // Nonsense is ignored.
  for (const char* pieces : {"[]", "[[0,600000,700000]]", "[[5,600000,10]]", "[[0,-5,1]]", "7",
                             "[[0,300000,0]]", "[[0,600000,500000]]", R"(["a"])"}) {
    CAPTURE(pieces);
    record("short", pieces);
    const auto result = Fetch({download}, options);
    CHECK_MESSAGE(result, (result ? "" : result.error().Text()));
    fs::remove(to / "file");
  }
}

TEST_CASE("several processes may want the same file") {
  Server server;
  const Scratch to;
  std::vector<Download> downloads;
  for (int i = 0; i < 6; ++i) {
    const std::string name = fmt::format("f{}", i);
    downloads.push_back(
        server.File(name, Noise(700'000, 20U + static_cast<unsigned>(i)), to.path(), {"slow"}));
  }
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      DownloadOptions options = Quick();
      options.parallel = 2;
      // Each begins elsewhere: the order in which locks are taken differs.
      std::rotate(downloads.begin(), downloads.begin() + 2L * i, downloads.end());
      Silent terminal;
      const auto result = FetchAll(downloads, options, terminal);
      if (!result) fputs(result.error().Text().c_str(), stderr);
      _exit(result ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  CHECK(Names(to.path()) == std::vector<std::string>{"f0", "f1", "f2", "f3", "f4", "f5"});
  // Nothing was fetched twice: three ranges each.
  CHECK(server.Requests("slow f0 ") == 3);
}

TEST_CASE("the first failure stops the others") {
  Server server;
  const Scratch to;
  DownloadOptions options = Quick();
  options.segment = 64 << 20;  // one slow stream, so that the other file's turn comes
  const auto start = std::chrono::steady_clock::now();
  const auto result = Fetch({server.File("large", Noise(16'000'000, 13), to.path(), {"slow"}),
                             server.File("stalled", "x", to.path(), {"stall-99"}),
                             server.File("none", "x", to.path(), {"404"})},
                            options);
  REQUIRE(!result);
  CHECK(result.error().doing == std::vector<std::string>{"fetching none"});
  CHECK(std::chrono::steady_clock::now() - start < 4s);
  CHECK(!fs::exists(to / "large"));
}

TEST_CASE("a full disk says so and keeps nothing under the final name") {
  if (geteuid() != 0) {
    MESSAGE("skipped: only root can mount a small tmpfs");
    return;
  }
  Server server;
  const Scratch scratch;
  const fs::path disk = scratch / "disk";
  REQUIRE(MakeDirectories(disk));
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=1m") != 0) {
    MESSAGE("skipped: mounting is not allowed here");
    return;
  }
  Download download = server.File("file", Noise(3'000'000, 14), disk, {"ok"});
  const auto announced = Fetch({download});
  download.size = 0;  // unknown before
  const auto found = Fetch({download});
  const auto left = Names(disk);
  umount(disk.c_str());
  REQUIRE(!announced);
  CHECK(announced.error().code == ExitCode::kMissing);
  CHECK(announced.error().Text() == "error: the download of file needs 3 MB on " + disk.string() +
                                        ", 1 MB are free\n  Free space on " + disk.string() +
                                        ", or set ENVKIT_STORE to a directory on a larger disk.\n");
  REQUIRE(!found);
  CHECK(found.error().code == ExitCode::kMissing);
  CHECK(found.error().what.find("writing " + (disk / "file").string() + ": the disk is full: ") ==
        0);
  CHECK(left.empty());
}

TEST_CASE("what is loading is shown, and once more than a gigabyte, what it will take") {
  Server server;
  const Scratch to;
  std::array<int, 2> ends{};
  REQUIRE(pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0);
  Terminal::Options options;
  options.error_fd = ends[1];
  {
    Terminal terminal(options);
    Download huge = server.File("huge", "x", to.path(), {"404"});
    huge.size = 1'500'000'000;
    CHECK(!FetchAll({huge}, Quick(), terminal));
    CHECK(FetchAll(
        {server.File("a", "x", to.path(), {"ok"}), server.File("b", "y", to.path(), {"ok"})},
        Quick(), terminal));
  }
  std::string text(4096, '\0');
  text.resize(
      static_cast<std::size_t>(std::max<ssize_t>(0, read(ends[0], text.data(), text.size()))));
  close(ends[0]);
  close(ends[1]);
  CHECK(text.find("fetch    huge: 1.5 GB to download, 1.5 GB of disk below " + to.path().string() +
                  "\nfetch    huge  1.5 GB\nfetch    2 files  2 B\n"
                  "fetch    2 files  2 B  0") == 0);
}

TEST_CASE("small documents") {
  Server server;
  REQUIRE(WriteFileAtomic(server.files / "page", "<html>"));
  CHECK(HttpGet(server.Url("ok/page")).value() == "<html>");
  CHECK(HttpGet(server.Url("redirect/page")).value() == "<html>");
  CHECK(HttpGet(server.Url("fail-1/page")).value() == "<html>");
  CHECK(!HttpGet(server.Url("to-file/page")));
  CHECK(HttpGet("file://" + (server.files / "page").string()).value() == "<html>");
  const auto missing = HttpGet(server.Url("404/page?key=hush", "user:secret@"));
  REQUIRE(!missing);
  CHECK(missing.error().code == ExitCode::kFailed);
  CHECK(missing.error().what == server.Url("404/page") + " answers with HTTP 404 (not found)");
  CHECK(HttpGet(server.Url("ok/page"), {{"Accept", "a\r\nb: c"}}).error().what ==
        "the header Accept holds a line break");
  fs::resize_file(server.files / "page", (64 << 20) + 1);
  CHECK(HttpGet(server.Url("ok/page")).error().what ==
        server.Url("ok/page") + " is larger than 67 MB");
}

TEST_CASE("a file of the machine itself") {
  const Scratch from;
  const Scratch to;
  REQUIRE(WriteFileAtomic(from / "file", Noise(600'000, 15)));
  Download download;
  download.urls = {"file://" + (from / "file").string()};
  download.file = to / "file";
  download.sha256 = Sha256OfFile(from / "file").value();
  download.size = 600'000;
  download.name = "file";
  CHECK(Fetch({download}).has_value());
  CHECK(Names(to.path()) == std::vector<std::string>{"file"});
}

TEST_CASE("URLs without their secrets") {
  CHECK(RedactUrl("https://user:secret@example.com/a@b") == "https://example.com/a@b");
  CHECK(RedactUrl("https://tok@en@example.com:8443/x?q=1") == "https://example.com:8443/x?q=1");
  CHECK(RedactUrl("https://example.com/x") == "https://example.com/x");
  CHECK(RedactUrl("user:secret@proxy:3128") == "proxy:3128");
  CHECK(RedactUrl("https://example.com?a@b") == "https://example.com?a@b");
  CHECK(RedactUrl("") == "");
}

}  // namespace envkit

#include "session/ssh_config.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/scratch.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

const std::string kLine = "Include ~/.local/state/envkit/ssh/*.conf";

void Write(const fs::path& file, const std::string& text, unsigned mode = 0600) {
  REQUIRE(WriteFileAtomic(file, text).has_value());
  REQUIRE(chmod(file.c_str(), mode) == 0);
}

std::string Read(const fs::path& file) {
  auto text = ReadFile(file);
  REQUIRE(text.has_value());
  return *text;
}

// What people have, and what other tools damage.
const std::vector<std::string>& HostileFiles() {
  using namespace std::string_literals;
  static const std::vector<std::string> files{
      ""s,
      "\n"s,
      "\n\n\n"s,
      "Host a\n  Port 1"s,  // no line break at the end
      "Host a\r\n  Port 1\r\n"s,
      "\r\n"s,
      "Host a\r\n  Port 1\nHost b\n"s,  // both
      "Host a\n  Port 1\r\nHost b\r\n"s,
      "host a\nHOST b\nhOsT c\n"s,
      "Host=a\nPort=1\n"s,
      "Host = a\n\tPort\t=\t1\n"s,
      "   Host   a   \n\t\tPort 1\t\t\n"s,
      "Match all\n  Port 1\n"s,
      "Match host a exec \"test -f x\"\n  Port 1\nMatch final\n  Port 2\n"s,
      "Host a\n  Port 1\nMatch user root\n  Port 2\n"s,  // envd deletes the Match
      "ForwardAgent no\nHost *\n  Port 1\n"s,
      "Include other/*.conf\nHost a\n"s,
      "Include \"with space/*.conf\"\n"s,
      "Host a\n  " + kLine + "\n",  // ours, but for one host only
      "Match all\n" + kLine + "\n",
      "# " + kLine + "\nHost a\n",
      "#only a comment"s,
      "# envkit\n### BEGIN ###\nHost x\n### END ###\n"s,
      "\xef\xbb\xbfHost a\n"s,  // a byte order mark
      "Host \xc3\xa4\xc3\xb6\n  User \xff\xfe\n"s,
      "Host a\n\0\0binary\0Host b\n"s,
      "Host \"quoted host\" \"unclosed\n  Port 1\n"s,
      "Host a\\\n  Port 1\n"s,  // ssh knows no continuation
      std::string(200'000, 'x') + "\nHost a\n",
      "Host a\n" + std::string(3000, '\n') + "Port 1\n",
      "Host a\rPort 1\r"s,
      "IncludeX y\nInclude\nInclude=\n"s,
      "Host a\n\f\n\v\n  Port 1\f\n"s,
      kLine + "x\nHost a\n",
  };
  return files;
}

}  // namespace

TEST_CASE("hostile files come through byte by byte but for one line at the top, once") {
  CHECK(HostileFiles().size() >= 30);
  Scratch scratch;
  for (const std::string& text : HostileFiles()) {
    CAPTURE(text.substr(0, 80));
    const std::size_t end = text.find('\n');
    const bool dos = end != text.npos && end > 0 && text[end - 1] == '\r';
    const std::string expected = kLine + (dos ? "\r\n" : "\n") + text;
    CHECK(WithInclude(text, kLine) == expected);
    CHECK(WithInclude(expected, kLine) == expected);
    const fs::path file = scratch.path() / "config";
    Write(file, text);
    CHECK(*AddInclude(file, kLine));
    CHECK(Read(file) == expected);
    CHECK_FALSE(*AddInclude(file, kLine));
    CHECK(Read(file) == expected);
  }
}

TEST_CASE("a line that says the same is found however it is written") {
  for (const std::string text :
       {"include ~/.local/state/envkit/ssh/*.conf\n", "INCLUDE = ~/.local/state/envkit/ssh/*.conf",
        "\t Include \"~/.local/state/envkit/ssh/*.conf\" \r\nHost a\r\n",
        "# mine\nForwardAgent no\nInclude other.conf ~/.local/state/envkit/ssh/*.conf\n"}) {
    CAPTURE(text);
    CHECK(WithInclude(text, kLine) == text);
  }
}

TEST_CASE("a missing file, and a missing directory, are made as ssh wants them") {
  Scratch scratch;
  const fs::path file = scratch.path() / ".ssh/config";
  CHECK(*AddInclude(file, kLine));
  CHECK(Read(file) == kLine + "\n");
  struct stat status {};
  REQUIRE(stat(file.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
  REQUIRE(stat(file.parent_path().c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0700);
}

TEST_CASE("links stay links, to what they lead to; the mode stays") {
  Scratch scratch;
  const fs::path target = scratch.path() / "dotfiles/ssh", link = scratch.path() / "config";
  Write(target, "Host a\n", 0644);
  fs::create_symlink("dotfiles/ssh", scratch.path() / "middle");
  fs::create_symlink("middle", link);
  CHECK(*AddInclude(link, kLine));
  CHECK(fs::is_symlink(link));
  CHECK_FALSE(fs::is_symlink(target));
  CHECK(Read(target) == kLine + "\nHost a\n");
  struct stat status {};
  REQUIRE(stat(target.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0644);
}

TEST_CASE("what ssh refuses, or what could not stay as it is, is left alone with a message") {
  Scratch scratch;
  const fs::path file = scratch.path() / "config";
  const std::string name = file.string();
  std::string expected;
  SUBCASE("open to others") {
    Write(file, "Host a\n", 0664);
    expected = "error: " + name +
               " may be written to by others, and ssh refuses it for that\n"
               "  Close it:  chmod go-w " +
               name + "\n";
  }
  SUBCASE("hard links") {
    Write(file, "Host a\n");
    fs::create_hard_link(file, scratch.path() / "other");
    expected =
        "error: " + name + " has a second name (a hard link), which would keep the old text\n";
  }
  SUBCASE("a link to nothing") {
    fs::create_symlink("gone", file);
    expected = "error: " + name + " is a link to gone, which is not there\n";
  }
  SUBCASE("a link to itself") {
    fs::create_symlink("config", file);
    expected = "error: " + name + " is a link to config, which is not there\n";
  }
  SUBCASE("a directory") {
    fs::create_directory(file);
    expected = "error: " + name + " is not a file\n";
  }
  SUBCASE("a pipe") {
    REQUIRE(mkfifo(file.c_str(), 0600) == 0);
    expected = "error: " + name + " is not a file\n";
  }
  const auto refused = AddInclude(file, kLine);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().Text() ==
        expected + "  Nothing was changed. Its first line should be:\n    " + kLine + "\n");
  std::error_code ignored;
  if (fs::is_regular_file(file, ignored)) CHECK(Read(file) == "Host a\n");
}

TEST_CASE("killed at any point, the file is the old one or the new one") {
  Scratch scratch;
  const fs::path file = scratch.path() / "config";
  std::string old = "Host a\n";
  while (old.size() < 3'000'000) old += "  # a line of many, so that writing takes its time\n";
  const std::string wanted = kLine + "\n" + old;
  int unchanged = 0, changed = 0;
  for (int i = 0; i < 60; ++i) {
    Write(file, old);
    const pid_t child = fork();
    if (child == 0) {
      (void)AddInclude(file, kLine);
      _exit(0);
    }
    usleep(static_cast<useconds_t>(i * 300));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const std::string now = Read(file);
    CHECK((now == old || now == wanted));
    ++(now == old ? unchanged : changed);
  }
  MESSAGE(unchanged, " times before it was replaced, ", changed, " times after");
  Write(file, old);
  CHECK(*AddInclude(file, kLine));
  int names = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(scratch.path())) ++names;
  CHECK(names == 1);  // what the killed ones left is gone
}

TEST_CASE("the line names the directory below the home directory, and quotes spaces") {
  CHECK(*IncludeLine("/home/ana/.local/state/envkit", "/home/ana") == kLine);
  CHECK(*IncludeLine("/state dir/envkit", "/home/ana") ==
        "Include \"/state dir/envkit/ssh/*.conf\"");
  const auto refused = IncludeLine("/state[1]/envkit", "/home/ana");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().Text() ==
        "error: ssh cannot include files from /state[1]/envkit/ssh\n"
        "  Let XDG_STATE_HOME name a directory without quotes, *, ?, [, ], #, % and $.\n");
}

TEST_CASE("an entry pins the host key, and two projects of one name do not share a name") {
  Scratch scratch;
  const SessionPlace place{"mnist-1a2b3c4d", scratch.path(), scratch.path() / "sessions/x"};
  CHECK(SshNames(place, "mnist") ==
        std::vector<std::string>{"envkit-mnist", "envkit-mnist-1a2b3c4d"});
  SshEntry entry{SshNames(place, "mnist"), "ana", 20000, "", "/state/known_hosts", {"/keys/id"}};
  CHECK(SshEntryText(entry) ==
        "Host envkit-mnist envkit-mnist-1a2b3c4d\n"
        "  HostName 127.0.0.1\n"
        "  Port 20000\n"
        "  User ana\n"
        "  HostKeyAlias envkit-mnist-1a2b3c4d\n"
        "  UserKnownHostsFile \"/state/known_hosts\"\n"
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        "  UpdateHostKeys no\n"
        "  HostKeyAlgorithms ssh-ed25519\n"
        "  ForwardAgent no\n"
        "  PasswordAuthentication no\n"
        "  IdentityFile \"/keys/id\"\n");
  entry.jump = "ana@gpu-box:2222";
  CHECK(SshEntryText(entry).find("  Port 20000\n  ProxyJump ana@gpu-box:2222\n  User ana\n") !=
        std::string::npos);
  entry.port = 0;
  entry.proxy = "envkit dev proxy";
  CHECK(SshEntryText(entry).find("  ProxyCommand envkit dev proxy\n") != std::string::npos);
  Write(scratch.path() / "ssh/mnist-1a2b3c4d.conf", SshEntryText(entry));
  const SessionPlace other{"mnist-99999999", scratch.path(), scratch.path() / "sessions/y"};
  CHECK(SshNames(other, "mnist") == std::vector<std::string>{"envkit-mnist-99999999"});
  CHECK(SshNames(place, "mnist").size() == 2);
}

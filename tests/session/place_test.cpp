#include "session/place.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <set>

#include "base/scratch.h"

using namespace envkit;
namespace fs = std::filesystem;

namespace {

SessionPlace PlaceIn(const Scratch& scratch, const std::string& id) {
  return {id, scratch.path() / "envkit", scratch.path() / "envkit/sessions" / id};
}

void Put(const fs::path& file, const std::string& text) {
  REQUIRE(WriteFileAtomic(file, text).has_value());
}

unsigned ModeOf(const fs::path& file) {
  struct stat status {};
  REQUIRE(stat(file.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

}  // namespace

TEST_CASE("a project's ports are its own, the same every time, and avoid what is taken") {
  Scratch scratch;
  const SessionPlace one = PlaceIn(scratch, "one-1"), two = PlaceIn(scratch, "two-2");
  const auto all_free = [](int) { return true; };
  const int first = *StablePort(one, "ssh", all_free);
  CHECK(first == *StablePort(one, "ssh", all_free));
  CHECK(first >= 20000);
  CHECK(first < 30000);
  CHECK(first != *StablePort(one, "jupyter", all_free));
  CHECK(first != *StablePort(two, "ssh", all_free));
  const auto without = [&](int port) { return port != first; };
  const int second = *StablePort(one, "ssh", without);
  CHECK(second != first);
  CHECK(second == *StablePort(one, "ssh", without));
  const auto none = StablePort(one, "ssh", [](int) { return false; });
  REQUIRE_FALSE(none);
  CHECK(none.error().what == "no port between 20000 and 29999 is free on 127.0.0.1");
}

TEST_CASE("tokens are 48 hex digits, and never twice the same") {
  std::set<std::string> tokens;
  for (int i = 0; i < 100; ++i) {
    const std::string token = *RandomToken();
    CHECK(token.size() == 48);
    CHECK(token.find_first_not_of("0123456789abcdef") == token.npos);
    tokens.insert(token);
  }
  CHECK(tokens.size() == 100);
}

TEST_CASE("directories of sessions are closed to others, also those that were open") {
  Scratch scratch;
  const fs::path directory = scratch.path() / "a/b";
  REQUIRE(MakePrivateDirectory(directory).has_value());
  CHECK(ModeOf(directory) == 0700);
  REQUIRE(chmod(directory.c_str(), 0755) == 0);
  REQUIRE(MakePrivateDirectory(directory).has_value());
  CHECK(ModeOf(directory) == 0700);
  fs::create_directory_symlink(directory, scratch.path() / "link");
  const auto refused = MakePrivateDirectory(scratch.path() / "link");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().what ==
        (scratch.path() / "link").string() + " is not a directory of this user's own");
}

TEST_CASE("a job's directory vanishes with the next one, unless it is still in use") {
  Scratch scratch;
  const SessionPlace place = PlaceIn(scratch, "p-1");
  fs::path left;
  {
    auto killed = MakeJobPlace(place);
    REQUIRE(killed.has_value());
    left = killed->directory;
  }
  auto running = MakeJobPlace(place);
  REQUIRE(running.has_value());
  CHECK_FALSE(fs::exists(left));
  auto other = MakeJobPlace(place);
  REQUIRE(other.has_value());
  CHECK(fs::exists(running->directory));
  CHECK(running->directory != other->directory);
}

TEST_CASE("the state's place is XDG's, and two projects of one name differ") {
  setenv("XDG_STATE_HOME", "/state", 1);
  const auto one = FindSessionPlace("/home/ana/mnist", "mnist");
  const auto two = FindSessionPlace("/home/bob/mnist", "mnist");
  REQUIRE(one.has_value());
  CHECK(one->directory == "/state/envkit/sessions/" + one->id);
  CHECK(one->id.starts_with("mnist-"));
  CHECK(one->id != two->id);
  setenv("XDG_STATE_HOME", "relative", 1);
  setenv("HOME", "/home/ana", 1);
  CHECK(FindSessionPlace("/p", "p")->state == "/home/ana/.local/state/envkit");
  unsetenv("HOME");
  const auto none = FindSessionPlace("/p", "p");
  REQUIRE_FALSE(none);
  CHECK(none.error().Text() ==
        "error: HOME is not set, and sessions keep their keys below it\n"
        "  Set it, or XDG_STATE_HOME.\n");
}

TEST_CASE("the image's accounts, with the user among them") {
  Scratch scratch;
  const fs::path os = scratch.path() / "os", more = scratch.path() / "more";
  Put(os / "etc/passwd",
      "root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
      "ubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n");
  Put(os / "etc/group", "root:x:0:\ntty:x:5:\nusers:x:100:\n");
  Put(more / "etc/hostname", "x");
  SUBCASE("the user's number may have another name in the image") {
    const Accounts accounts = AccountsOf({os, more}, 1000, 1000, "ana", true);
    CHECK(accounts.passwd ==
          "root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
          "ana:x:1000:1000::/home/envkit:/bin/bash\n");
    CHECK(accounts.group == "root:x:0:\ntty:x:5:\nusers:x:100:\nana:x:1000:\n");
  }
  SUBCASE("root, a group that the image knows, and no group for terminals") {
    const Accounts accounts = AccountsOf({os, more}, 0, 100, "root", false);
    CHECK(accounts.passwd.ends_with("root:x:0:100::/home/envkit:/bin/bash\n"));
    CHECK(accounts.passwd.find("/root:") == accounts.passwd.npos);
    CHECK(accounts.group == "root:x:0:\nusers:x:100:\n");
  }
}

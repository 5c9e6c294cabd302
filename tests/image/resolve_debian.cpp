// Where Debian packages come from, what apt prints about them, and what it may complain about.
#include <doctest/doctest.h>

#include <string>

#include "base/files.h"
#include "base/scratch.h"
#include "image/debian.h"

using namespace envkit;

namespace {

const std::string kDebHash(64, 'd');
const DebianMirror kMirror{"http://example.com/debian", "http://example.com/debian-security",
                           "this machine's apt sources"};

Store StoreIn(const Scratch& scratch) {
  Store store{scratch / "cache", scratch / "data"};
  REQUIRE(MakeDirectories(store.data / "tmp"));
  REQUIRE(MakeDirectories(store.data / "locks"));
  return store;
}

}  // namespace

TEST_CASE("only Debian bases are locked") {
  CHECK(DebianCodename("debian:trixie") == "trixie");
  for (const char* base : {"oci:base", "debian:", "debian:../x", "debian:Trixie", "ubuntu:noble"}) {
    CAPTURE(base);
    const auto codename = DebianCodename(base);
    REQUIRE_FALSE(codename);
    CHECK(codename.error().code == ExitCode::kUsage);
  }
  CHECK(DebianCodename("oci:base").error().Text() ==
        "error: base = \"oci:base\": this version of envkit locks Debian bases\n"
        "  Write base = \"debian:trixie\" in [environment] of envkit.toml.\n");
}

TEST_CASE("a mirror by setting") {
  const auto one = ParseMirrorSetting("http://example.com/debian/", "X");
  REQUIRE(one);
  CHECK(one->main == "http://example.com/debian");
  CHECK(one->security == "http://example.com/debian-security");
  CHECK(one->BaseOf("trixie-updates") == one->main);
  CHECK(one->BaseOf("trixie-security") == one->security);
  const auto two = ParseMirrorSetting(" https://example.com/d  https://example.com/s ", "X");
  REQUIRE(two);
  CHECK(two->security == "https://example.com/s");
  const auto bad = ParseMirrorSetting("ftp://ana:pw@example.com/debian", "ENVKIT_DEBIAN_MIRROR");
  REQUIRE_FALSE(bad);
  CHECK(bad.error().Text() ==
        "error: ENVKIT_DEBIAN_MIRROR=\"ftp://example.com/debian\" names no archive\n"
        "  It is \"MAIN [SECURITY]\", each an http or https URL; without the second it is "
        "MAIN-security.\n");
  CHECK_FALSE(ParseMirrorSetting("", "X"));

  const Scratch scratch;
  const auto found = FindDebianMirror(
      "trixie", {{"ENVKIT_DEBIAN_MIRROR", "http://example.com/debian"}}, StoreIn(scratch));
  REQUIRE(found);
  CHECK(found->origin == "ENVKIT_DEBIAN_MIRROR");
}

TEST_CASE("the host's own mirror, among other vendors' archives") {
  const DebianMirror mirror = MirrorOfTargets(
      "http://example.org/docker/|bookworm|stable|Docker\n"
      "http://example.org/pgdg/|bookworm-pgdg|main|apt.postgresql.org\n"
      "http://example.org/nodist/|nodistro|main|\n"
      "http://example.org/cloud/|bookworm|main|Vendor\n"
      "cdrom:[Debian]/|bookworm|main|Debian\n"
      "http://example.com/debian/|bookworm-backports|main|Debian Backports\n"
      "http://example.com/debian/|bookworm|main|Debian\n"
      "http://example.com/debian/|bookworm-updates|main|Debian\n"
      "http://security.example.com/debian-security/|bookworm-security|main|Debian\n",
      "bookworm");
  CHECK(mirror.main == "http://example.com/debian");
  CHECK(mirror.security == "http://security.example.com/debian-security");
  // Before the first `apt-get update` the origins are unknown; security may be left out.
  CHECK(MirrorOfTargets("http://example.com/debian/|stable|main|\n", "bookworm").security ==
        "http://example.com/debian-security");
  CHECK(MirrorOfTargets("file:/srv/debian/|bookworm|main|Debian\njunk\n||\n", "bookworm")
            .main.empty());

  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "list",
                          "# nearest first\nhttps://example.com/near/debian\tpriority:1\n"));
  CHECK(MirrorOfTargets("mirror+file:" + (scratch / "list").string() + "/|bookworm|main|Debian\n",
                        "bookworm")
            .main == "https://example.com/near/debian");
}

TEST_CASE("mmdebstrap's sources") {
  const DebianMirror mirror = MirrorOfSources(
      "deb [signed-by=\"/x.gpg\"] http://example.com/debian trixie main\n"
      "deb http://example.com/debian trixie-updates main\n"
      "deb http://example.com/security/ trixie-security main\n",
      "trixie");
  CHECK(mirror.main == "http://example.com/debian");
  CHECK(mirror.security == "http://example.com/security");
  CHECK(MirrorOfSources("deb [\ndeb\nTypes: deb\n", "trixie").main.empty());
}

TEST_CASE("apt's line about a package") {
  const auto deb = ParsePrintedUri(
      "'http://example.com/debian/pool/main/u/util-linux/bsdutils_2.41-12%2bdeb13u5_amd64.deb' "
      "bsdutils_1%3a2.41-12+deb13u5_amd64.deb 110208 SHA256:" +
          kDebHash,
      "trixie", kMirror);
  REQUIRE(deb);
  CHECK(deb->name == "bsdutils");
  CHECK(deb->version == "1:2.41-12+deb13u5");
  CHECK(deb->architecture == "amd64");
  CHECK(deb->suite == "trixie");
  CHECK(deb->file == "pool/main/u/util-linux/bsdutils_2.41-12+deb13u5_amd64.deb");
  CHECK(deb->size == 110208);
  CHECK(deb->sha256 == kDebHash);
  const auto security = ParsePrintedUri(
      "'http://example.com/debian-security/pool/updates/main/x/xz/xz_1_all.deb' xz_1_all.deb 1 "
      "SHA256:" +
          kDebHash,
      "trixie", kMirror);
  REQUIRE(security);
  CHECK(security->suite == "trixie-security");
  CHECK(security->file == "pool/updates/main/x/xz/xz_1_all.deb");
}

TEST_CASE("a line that is none of apt's is an error") {
  const std::string url = "'http://example.com/debian/pool/a_1_all.deb'";
  for (const std::string& line :
       {std::string("E: broken"), std::string("'unclosed"), url + " a_1_all.deb 1 MD5Sum:0",
        url + " a_1_all.deb x SHA256:" + kDebHash, url + " a_1_all.deb -1 SHA256:" + kDebHash,
        url + " a_1_all.deb 1 SHA256:short", url + " a_all.deb 1 SHA256:" + kDebHash,
        url + " a_1_all 1 SHA256:" + kDebHash,
        "'http://example.org/debian/pool/a_1_all.deb' a_1_all.deb 1 SHA256:" + kDebHash,
        "'http://example.com/debian/dists/a_1_all.deb' a_1_all.deb 1 SHA256:" + kDebHash,
        "'http://example.com/debian/pool/%2e%2e/a_1_all.deb' a_1_all.deb 1 SHA256:" + kDebHash}) {
    CAPTURE(line);
    const auto deb = ParsePrintedUri(line, "trixie", kMirror);
    REQUIRE_FALSE(deb);
    CHECK(deb.error().Text() ==
          "error: apt-get --print-uris gave a line that is not understood\n" + line + "\n");
  }
}

TEST_CASE("a package's name is never an option or a pattern") {
  const Scratch scratch;
  const Store store = StoreIn(scratch);
  for (const char* name :
       {"-o=Dir=/", "?all", "~n.", "a", "Git", "git;rm", "git=", "git/sid", ""}) {
    CAPTURE(name);
    const auto resolution = ResolveDebian("trixie", "amd64", {{"train", {name}}}, kMirror, store);
    REQUIRE_FALSE(resolution);
    CHECK(resolution.error().Text() == "error: \"" + std::string(name) +
                                           "\" is not a Debian package's name\n"
                                           "  Correct [environment] system in envkit.toml.\n");
  }
}

TEST_CASE("apt's words reach the user, with what to do") {
  const auto text = [](const std::string& words) {
    return AptError(words, "trixie", kMirror).Text();
  };
  CHECK(text("Reading package lists...\nE: Unable to locate package gti\n") ==
        "error: apt could not resolve the Debian packages\n"
        "E: Unable to locate package gti\n"
        "  Correct [environment] system in envkit.toml: the names are those of Debian trixie.\n");
  CHECK(
      text("E: The repository 'http://ana:pw@example.com/debian potato Release' does not have a "
           "Release file.\n") ==
      "error: apt could not resolve the Debian packages\n"
      "E: The repository 'http://example.com/debian potato Release' does not have a Release file.\n"
      "  Is \"debian:trixie\" a Debian release that http://example.com/debian (this machine's apt "
      "sources) still serves?\n");
  CHECK(
      text("W: GPG error: NO_PUBKEY 1\nE: The repository is not signed.\n") ==
      "error: apt could not resolve the Debian packages\n"
      "W: GPG error: NO_PUBKEY 1\n"
      "E: The repository is not signed.\n"
      "  The archive is http://example.com/debian (this machine's apt sources). Its signature was "
      "checked with /usr/share/keyrings/debian-archive-keyring.gpg:\n"
      "  an old keyring is renewed by sudo apt-get install debian-archive-keyring.\n");
  CHECK(text("E: Failed to fetch x  Could not connect to 127.0.0.1:9\n") ==
        "error: apt could not resolve the Debian packages\n"
        "E: Failed to fetch x  Could not connect to 127.0.0.1:9\n"
        "  The mirror is http://example.com/debian (this machine's apt sources).\n"
        "  Check the network and its proxy, or name another mirror: ENVKIT_DEBIAN_MIRROR.\n");
  CHECK(text("strange\n") ==
        "error: apt could not resolve the Debian packages\nstrange\n"
        "  The mirror is http://example.com/debian (this machine's apt sources).\n");
  CHECK(AptError("E: Unable to locate package x\n", "trixie", kMirror).code == ExitCode::kUsage);
  CHECK(AptError("E: Failed to fetch x\n", "trixie", kMirror).code == ExitCode::kMissing);
}

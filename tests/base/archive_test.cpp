#include "base/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <fstream>
#include <random>
#include <thread>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "base/scratch.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

struct ZipItem {
  std::string name;
  std::string content;
  std::uint32_t mode = 0;
};

void MakeZip(const fs::path& file, const std::vector<ZipItem>& items) {
  zip_t* zip = zip_open(file.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  REQUIRE(zip != nullptr);
  for (const ZipItem& item : items) {
    zip_int64_t index = 0;
    if (item.name.ends_with('/')) {
      index = zip_dir_add(zip, item.name.c_str(), ZIP_FL_ENC_UTF_8);
    } else {
      zip_source_t* source = zip_source_buffer(zip, item.content.data(), item.content.size(), 0);
      index = zip_file_add(zip, item.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    }
    REQUIRE(index >= 0);
    if (item.mode != 0) {
      zip_file_set_external_attributes(zip, static_cast<zip_uint64_t>(index), 0, ZIP_OPSYS_UNIX,
                                       item.mode << 16);
    }
  }
  REQUIRE(zip_close(zip) == 0);
}

// Same length, so that the offsets stay true: how an attacker's zip is made from a good one.
void Patch(const fs::path& file, const std::string& from, const std::string& to) {
  REQUIRE(from.size() == to.size());
  std::string data = ReadFile(file).value();
  std::size_t found = 0;
  for (std::size_t at = 0; (at = data.find(from, at)) != std::string::npos; at += to.size()) {
    data.replace(at, to.size(), to);
    ++found;
  }
  REQUIRE(found > 0);
  REQUIRE(WriteFileAtomic(file, data));
}

struct TarItem {
  std::string path;
  unsigned type = AE_IFREG;
  std::string content;  // or a link's target
  unsigned mode = 0644;
  bool hard_link = false;
};

void MakeTar(const fs::path& file, const std::vector<TarItem>& items, bool gzip = false) {
  struct archive* tar = archive_write_new();
  archive_write_set_format_pax_restricted(tar);
  if (gzip) archive_write_add_filter_gzip(tar);
  // Names go in as the bytes that they are.
  archive_write_set_options(tar, "hdrcharset=BINARY");
  REQUIRE(archive_write_open_filename(tar, file.c_str()) == ARCHIVE_OK);
  for (const TarItem& item : items) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, item.path.c_str());
    archive_entry_set_perm(entry, item.mode);
    archive_entry_set_mtime(entry, 12345, 0);
    if (item.hard_link) {
      archive_entry_set_hardlink(entry, item.content.c_str());
    } else {
      archive_entry_set_filetype(entry, item.type);
      if (item.type == AE_IFLNK) archive_entry_set_symlink(entry, item.content.c_str());
      if (item.type == AE_IFREG) {
        archive_entry_set_size(entry, static_cast<la_int64_t>(item.content.size()));
      }
    }
    REQUIRE(archive_write_header(tar, entry) == ARCHIVE_OK);
    if (item.type == AE_IFREG && !item.hard_link) {
      archive_write_data(tar, item.content.data(), item.content.size());
    }
    archive_entry_free(entry);
  }
  REQUIRE(archive_write_close(tar) == ARCHIVE_OK);
  archive_write_free(tar);
}

struct stat StatOf(const fs::path& file) {
  struct stat info {};
  REQUIRE(lstat(file.c_str(), &info) == 0);
  return info;
}

constexpr std::int64_t kTime = 1'700'000'000;

}  // namespace

TEST_CASE("paths that stay below their root") {
  for (const char* good : {"a", "a/b", "a.b/..c/d..", "...", "ü"}) CHECK(IsSafeRelativePath(good));
  for (const char* bad :
       {"", "/", "/a", "..", "a/..", "../a", "a/../b", "a//b", "a/", ".", "./a"}) {
    CAPTURE(bad);
    CHECK(!IsSafeRelativePath(bad));
  }
  CHECK(!IsSafeRelativePath(std::string_view("a\0b", 3)));
}

TEST_CASE("a zip is read in any order, with modes, without directories") {
  const Scratch scratch;
  const std::string large(1'000'000, 'x');
  MakeZip(scratch / "a.whl", {{"pkg/", "", 0},
                              {"pkg/one.py", "print(1)", 0100755},
                              {"pkg/empty", "", 0100644},
                              {"pkg/large", large, 0100644}});
  const auto zip = ZipReader::Open(scratch / "a.whl");
  REQUIRE(zip);
  REQUIRE(zip->entries().size() == 3);
  CHECK(zip->entries()[0].name == "pkg/one.py");
  CHECK(zip->entries()[0].mode == 0755);
  CHECK(zip->ReadAll(zip->entries()[2]).value() == large);
  CHECK(zip->ReadAll(zip->entries()[0]).value() == "print(1)");
  CHECK(zip->ReadAll(zip->entries()[1]).value().empty());
  const auto stopped = zip->Read(
      zip->entries()[2], [](const char*, std::size_t) -> Result<void> { return Fail("no more"); });
  CHECK(stopped.error().what == "no more");
}

TEST_CASE("a zip that would write elsewhere is refused") {
  const Scratch scratch;
  const fs::path file = scratch / "bad.whl";
  const auto error = [&] { return ZipReader::Open(file).error().Text(); };
  const std::string next = "\n  The archive is damaged or was made to do harm: do not use it.\n";
  const std::vector<std::pair<std::string, std::string>> names = {
      {"abcdef", "/bcdef"}, {"ab/cdef", "../cdef"}, {"ab\\..", "ab\\.."}, {"aa//b", "aa//b"}};
  for (const auto& [made, patched] : names) {
    MakeZip(file, {{made, "x", 0}});
    Patch(file, made, patched);
    CHECK(
        error() ==
        fmt::format("error: bad.whl: the entry \"{}\" has a path that could leave its directory{}",
                    patched, next));
  }
  MakeZip(file, {{"link", "/etc/passwd", 0120777}});
  CHECK(error() == "error: bad.whl: the entry \"link\" is a symbolic link" + next);
  MakeZip(file, {{"fifo", "", 0010644}});
  CHECK(error() == "error: bad.whl: the entry \"fifo\" is not an ordinary file" + next);
  MakeZip(file, {{"name1", "x", 0}, {"name2", "y", 0}});
  Patch(file, "name2", "name1");
  CHECK(error() == "error: bad.whl: the entry \"name1\" is there twice" + next);
  MakeZip(file, {{"name/x", "x", 0}, {"dir/", "", 0}, {"dirx", "y", 0}});
  Patch(file, "dirx", "name");
  CHECK(error() == "error: bad.whl: the entry \"name\" is both a file and a directory" + next);
}

TEST_CASE("a zip's contents are what it declares") {
  const Scratch scratch;
  const fs::path file = scratch / "bad.whl";
  const std::string next = "\n  The archive is damaged: remove it and fetch it again.\n";
  const auto error = [&] {
    const auto zip = ZipReader::Open(file);
    REQUIRE(zip);
    return zip->ReadAll(zip->entries().at(0)).error().Text();
  };
  // Stored, not deflated: the content stands there in the clear.
  MakeZip(file, {{"a", "stored text", 0}});
  Patch(file, "stored text", "other! text");
  CHECK(error() == "error: bad.whl: reading a: CRC error" + next);

  const auto declare = [&](std::uint32_t from, std::uint32_t to) {
    const auto bytes = [](std::uint32_t value) {
      return std::string(reinterpret_cast<const char*>(&value), 4);
    };
    MakeZip(file, {{"bomb", std::string(from, 'x'), 0}});
    Patch(file, bytes(from), bytes(to));
  };
  declare(1'000'003, 1'003);
  CHECK(error() ==
        "error: bad.whl: reading bomb: it holds more bytes than the 1003 that it declares" + next);
  std::size_t seen = 0;
  const auto bomb = ZipReader::Open(file);
  REQUIRE(bomb);
  CHECK(!bomb->Read(bomb->entries()[0], [&](const char*, std::size_t size) -> Result<void> {
    seen += size;
    return {};
  }));
  CHECK(seen <= 1'003);
  declare(1'003, 1'000'003);
  CHECK(error() ==
        "error: bad.whl: reading bomb: it holds fewer bytes than the 1000003 that it declares" +
            next);
}

#if defined(__x86_64__)
// Which parts of the registers' state hold something (XGETBV with ECX=1).
__attribute__((target("xsave"))) unsigned long long StateInUse() { return _xgetbv(1); }

TEST_CASE("reading a zip leaves no upper half of a vector register in use") {
  constexpr unsigned kXgetbvWithEcx1 = 1u << 2;
  constexpr unsigned long long kUpperHalves = 1u << 2 | 1u << 6;  // of YMM and of ZMM0 to 15
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d) == 0 || (a & kXgetbvWithEcx1) == 0) return;
  const Scratch scratch;
  MakeZip(scratch / "a.whl", {{"a", std::string(100'000, 'a'), 0}});
  const auto zip = ZipReader::Open(scratch / "a.whl");
  REQUIRE(zip);
  unsigned long long in_use = 0;
  REQUIRE(zip->Read(zip->entries()[0], [&](const char*, std::size_t) -> Result<void> {
    in_use |= StateInUse();
    return {};
  }));
  CHECK((in_use & kUpperHalves) == 0);
}
#endif

TEST_CASE("what is no zip says so") {
  const Scratch scratch;
  const fs::path file = scratch / "no.whl";
  REQUIRE(WriteFileAtomic(file, "<html>not found</html>"));
  CHECK(ZipReader::Open(file).error().Text() ==
        "error: " + file.string() + " is not a readable zip archive: Not a zip archive\n");
  CHECK(ZipReader::Open(scratch / "none").error().what ==
        "reading " + (scratch / "none").string() + ": No such file or directory");
}

TEST_CASE("a tar is unpacked with modes, links and one mtime") {
  const Scratch scratch;
  const fs::path to = scratch / "tree";
  MakeTar(scratch / "a.tar.gz",
          {{"./", AE_IFDIR, "", 0755},
           {"./usr/", AE_IFDIR, "", 0555},
           {"./usr/bin/", AE_IFDIR, "", 0755},
           {"./usr/bin/tool", AE_IFREG, "#!/bin/sh\n", 04755},
           {"./usr/bin/hard", AE_IFREG, "./usr/bin/tool", 0755, true},
           {"./bin", AE_IFLNK, "usr/bin", 0777},
           {"./usr/none/implicit/file", AE_IFREG, "deep", 0600},
           {"./Főtanúsítvány.crt", AE_IFREG, "utf-8", 0644}},
          true);
  const mode_t before = umask(077);
  const auto result = ExtractTar(scratch / "a.tar.gz", to, kTime);
  umask(before);
  REQUIRE(result);
  CHECK(ReadFile(to / "usr/bin/tool").value() == "#!/bin/sh\n");
  CHECK((StatOf(to / "usr/bin/tool").st_mode & 07777) == 04755);
  CHECK(StatOf(to / "usr/bin/hard").st_ino == StatOf(to / "usr/bin/tool").st_ino);
  CHECK((StatOf(to / "usr").st_mode & 07777) == 0755);  // the owner can go on working in it
  CHECK(fs::read_symlink(to / "bin") == "usr/bin");
  CHECK((StatOf(to / "usr/none").st_mode & 07777) == 0755);
  CHECK((StatOf(to / "usr/none/implicit/file").st_mode & 07777) == 0600);
  CHECK(ReadFile(to / "Főtanúsítvány.crt").value() == "utf-8");
  for (const char* path : {"", "usr", "usr/bin", "usr/bin/tool", "bin", "usr/none/implicit"}) {
    CAPTURE(path);
    CHECK(StatOf(to / path).st_mtime == kTime);
  }
}

TEST_CASE("a pax name in UTF-8 is unpacked also in the C locale") {
  const Scratch scratch;
  const std::string name = "Főtanúsítvány-" + std::string(150, 'x') + ".crt";
  REQUIRE(WriteFileAtomic(scratch / "in" / name, "x"));
  constexpr const char* kAddToTar =
      "import sys, tarfile; t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT); "
      "t.add(sys.argv[2], arcname=sys.argv[3]); t.close()";
  REQUIRE(
      RunForOutput({.argv = {"python3", "-c", kAddToTar,

                             (scratch / "a.tar").string(), (scratch / "in" / name).string(), name},
                    .env = {{"PYTHONUTF8", "1"}}}));
  const auto result = ExtractTar(scratch / "a.tar", scratch / "tree", kTime);
  CHECK_MESSAGE(result, (result ? "" : result.error().Text()));
  CHECK(fs::exists(scratch / "tree" / name));
}

TEST_CASE("holes stay holes") {
  const Scratch scratch;
  {
    std::ofstream sparse(scratch / "sparse");
    sparse << "start";
  }
  fs::resize_file(scratch / "sparse", 50'000'000);
  REQUIRE(RunForOutput({.argv = {"tar", "-S", "-cf", (scratch / "a.tar").string(), "-C",
                                 scratch.path().string(), "sparse"}}));
  REQUIRE(ExtractTar(scratch / "a.tar", scratch / "tree", kTime));
  const auto info = StatOf(scratch / "tree" / "sparse");
  CHECK(info.st_size == 50'000'000);
  CHECK(info.st_blocks * 512 < 1'000'000);
}

TEST_CASE("entries can be left out, device nodes are") {
  const Scratch scratch;
  MakeTar(scratch / "a.tar", {{"./keep/file", AE_IFREG, "x", 0644},
                              {"./drop/file", AE_IFREG, "x", 0644},
                              {"./dev/null", AE_IFCHR, "", 0666},
                              {"./fifo", AE_IFIFO, "", 0666}});
  TarOptions options;
  options.keep = [](std::string_view path) { return !path.starts_with("drop"); };
  REQUIRE(ExtractTar(scratch / "a.tar", scratch / "tree", kTime, options));
  CHECK(fs::exists(scratch / "tree/keep/file"));
  CHECK(!fs::exists(scratch / "tree/drop"));
  CHECK(!fs::exists(scratch / "tree/dev/null"));
  CHECK(!fs::exists(scratch / "tree/fifo"));
}

TEST_CASE("a later entry replaces an earlier one") {
  const Scratch scratch;
  MakeTar(scratch / "a.tar", {{"a", AE_IFREG, "first, and longer", 0644},
                              {"b", AE_IFLNK, "a", 0777},
                              {"b", AE_IFREG, "second", 0644}});
  REQUIRE(ExtractTar(scratch / "a.tar", scratch / "tree", kTime));
  CHECK(ReadFile(scratch / "tree/a").value() == "first, and longer");
  CHECK(ReadFile(scratch / "tree/b").value() == "second");
}

TEST_CASE("a tar cannot leave its destination") {
  const Scratch scratch;
  const fs::path to = scratch / "tree";
  const fs::path file = scratch / "bad.tar";
  REQUIRE(WriteFileAtomic(scratch / "outside" / "kept", "old"));
  const auto error = [&](const std::vector<TarItem>& items) {
    REQUIRE(RemoveTree(to));
    MakeTar(file, items);
    const auto result = ExtractTar(file, to, kTime);
    return result ? "fine" : result.error().Text();
  };
  const std::string outside = (scratch / "outside").string();
  const std::string next = "\n  The archive is damaged or was made to do harm: do not use it.\n";
  const std::string leaves = "\" has a path that could leave its directory" + next;
  CHECK(error({{"../outside/kept", AE_IFREG, "new", 0644}}) ==
        "error: bad.tar: the entry \"../outside/kept" + leaves);
  CHECK(error({{outside + "/kept", AE_IFREG, "new", 0644}}) ==
        "error: bad.tar: the entry \"" + outside + "/kept" + leaves);
  CHECK(error({{"a/../../x", AE_IFDIR, "", 0755}}) ==
        "error: bad.tar: the entry \"a/../../x/" + leaves);
  CHECK(error({{"link", AE_IFLNK, outside, 0777}, {"link/kept", AE_IFREG, "new", 0644}}) ==
        "error: bad.tar: the entry \"link/kept\" leads through a symbolic link or a file" + next);
  CHECK(error({{"link", AE_IFLNK, outside, 0777}, {"link", AE_IFDIR, "", 0755}}) ==
        "error: bad.tar: the entry \"link\" leads through a symbolic link or a file" + next);
  CHECK(error({{"link", AE_IFLNK, outside, 0777}, {"link/sub/deep/", AE_IFDIR, "", 0755}})
            .find("leads through a symbolic link") != std::string::npos);
  CHECK(error({{"hard", AE_IFREG, "../outside/kept", 0644, true}}) ==
        "error: bad.tar: the entry \"../outside/kept" + leaves);
  CHECK(error({{"link", AE_IFLNK, outside, 0777}, {"hard", AE_IFREG, "link/kept", 0644, true}})
            .find("leads through a symbolic link") != std::string::npos);
  CHECK(error({{"hard", AE_IFREG, "missing", 0644, true}}) ==
        "error: bad.tar: the entry \"hard\" is a hard link to a file that is not in the archive" +
            next);
  // Through a link a file would be opened: it is replaced instead.
  CHECK(error({{"file", AE_IFLNK, outside + "/kept", 0777}, {"file", AE_IFREG, "new", 0644}}) ==
        "fine");
  CHECK(ReadFile(to / "file").value() == "new");
  CHECK(ReadFile(scratch / "outside" / "kept").value() == "old");
  CHECK(std::distance(fs::directory_iterator(scratch / "outside"), fs::directory_iterator()) == 1);
}

TEST_CASE("what is no tar, or ends too early, says so") {
  const Scratch scratch;
  const fs::path file = scratch / "a.tar";
  REQUIRE(WriteFileAtomic(file, "<html>not found</html>"));
  CHECK(ExtractTar(file, scratch / "tree", kTime).error().Text() ==
        "error: " + file.string() +
            " is not a readable tar archive: Unrecognized archive format\n"
            "  The archive is damaged: remove it and fetch it again.\n");
  MakeTar(file, {{"a", AE_IFREG, std::string(100'000, 'x'), 0644}});
  fs::resize_file(file, 50'000);
  CHECK(ExtractTar(file, scratch / "tree", kTime).error().what ==
        file.string() + " is not a readable tar archive: Truncated tar archive");
}

TEST_CASE("unpacking on a full disk says so") {
  if (geteuid() != 0) {
    MESSAGE("skipped: only root can mount a small tmpfs");
    return;
  }
  const Scratch scratch;
  const fs::path disk = scratch / "disk";
  REQUIRE(MakeDirectories(disk));
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") != 0) {
    MESSAGE("skipped: mounting is not allowed here");
    return;
  }
  MakeTar(scratch / "a.tar", {{"big", AE_IFREG, std::string(1'000'000, 'x'), 0644}});
  const auto result = ExtractTar(scratch / "a.tar", disk / "tree", kTime);
  umount(disk.c_str());
  REQUIRE(!result);
  CHECK(result.error().code == ExitCode::kMissing);
  CHECK(result.error().what == "unpacking " + (disk / "tree" / "big").string() +
                                   ": the disk is full: 0 B are free on " + disk.string());
}

TEST_CASE("damaged archives never crash, and never write outside") {
  // Thousands of small files: in memory where there is such a place.
  std::error_code ignored;
  const Scratch scratch(fs::is_directory("/dev/shm", ignored) ? fs::path("/dev/shm")
                                                              : fs::temp_directory_path());
  MakeZip(scratch / "good.zip", {{"pkg/one.py", std::string(300, 'a') + "print(1)", 0100755},
                                 {"pkg/two.py", "print(2)", 0100644},
                                 {"pkg-1.0.dist-info/RECORD", "pkg/one.py,,\n", 0100644}});
  MakeTar(scratch / "good.tar", {{"./usr/bin/", AE_IFDIR, "", 0755},
                                 {"./usr/bin/tool", AE_IFREG, std::string(700, 't'), 0755},
                                 {"./usr/bin/hard", AE_IFREG, "./usr/bin/tool", 0755, true},
                                 {"./bin", AE_IFLNK, "usr/bin", 0777}});
  MakeTar(scratch / "good.tar.gz", {{"a/b", AE_IFREG, std::string(5000, 'z'), 0644}}, true);
  const fs::path world = scratch / "world";
  std::mt19937 random(20261124);
  const auto below = [&](std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random);
  };
  int survived = 0;
  for (const char* name : {"good.zip", "good.tar", "good.tar.gz"}) {
    const std::string good = ReadFile(scratch / name).value();
    const int rounds = std::string_view(name) == "good.zip" ? 2000 : 700;
    for (int round = 0; round < rounds; ++round) {
      std::string bad = good;
      for (std::size_t edits = 1 + below(4); edits > 0 && !bad.empty(); --edits) {
        // The headers matter most.
        const std::size_t at =
            below(2) == 0 ? below(bad.size()) : below(std::min<std::size_t>(bad.size(), 600));
        switch (below(5)) {
          case 0:
            bad[at] = static_cast<char>(below(256));
            break;
          case 1:
            bad[at] = static_cast<char>(bad[at] ^ (1 << below(8)));
            break;
          case 2:
            bad.resize(at);
            break;
          case 3:
            bad.insert(at, bad.substr(below(bad.size()), below(64)));
            break;
          default:
            bad.replace(at, std::min<std::size_t>(4, bad.size() - at), "../\xff");
        }
      }
      const fs::path file = scratch / "bad";
      {
        std::ofstream out(file, std::ios::binary);
        out << bad;
      }
      if (std::string_view(name) == "good.zip") {
        if (const auto zip = ZipReader::Open(file)) {
          for (const auto& entry : zip->entries()) {
            CHECK(IsSafeRelativePath(entry.name));
            std::uint64_t total = 0;
            const auto read = zip->Read(entry, [&](const char*, std::size_t size) -> Result<void> {
              total += size;
              return {};
            });
            if (read) CHECK(total == entry.size);
          }
          ++survived;
        }
        continue;
      }
      if (ExtractTar(file, world / "tree", kTime)) ++survived;
      CHECK(std::distance(fs::directory_iterator(world), fs::directory_iterator()) == 1);
      REQUIRE(RemoveTree(world / "tree"));
    }
  }
  CHECK(survived > 100);  // else the fuzz does not get past the first check
}

}  // namespace envkit

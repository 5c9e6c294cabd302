#include "base/files.h"

#include <doctest/doctest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include "base/digest.h"
#include "base/scratch.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

mode_t ModeOf(const fs::path& file) {
  struct stat info {};
  stat(file.c_str(), &info);
  return info.st_mode & 07777;
}

std::size_t EntriesIn(const fs::path& directory) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("SHA-256 of texts and files") {
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  CHECK(Sha256Of("abc") == abc);
  Sha256 parts;
  parts.Update("a");
  Sha256 moved = std::move(parts);
  moved.Update("bc");
  CHECK(moved.Hex() == abc);
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "abc", "abc"));
  CHECK(Sha256OfFile(scratch / "abc").value() == abc);
  CHECK(Sha256OfFile(scratch / "none").error().what ==
        "reading " + (scratch / "none").string() + ": No such file or directory");
  CHECK(IsSha256(abc));
  CHECK(!IsSha256(abc.substr(1)));
  CHECK(!IsSha256(std::string(63, 'a') + "B"));
}

TEST_CASE("a file is written whole, with its directories and mode, and leaves nothing beside it") {
  const Scratch scratch;
  const fs::path file = scratch / "a" / "b" / "file";
  REQUIRE(WriteFileAtomic(file, "old"));
  REQUIRE(WriteFileAtomic(file, std::string("new\0text", 8), 0600));
  CHECK(ReadFile(file).value() == std::string("new\0text", 8));
  CHECK(ModeOf(file) == 0600);
  CHECK(EntriesIn(file.parent_path()) == 1);
}

TEST_CASE("a reader never sees a part of a file") {
  const Scratch scratch;
  const fs::path file = scratch / "file";
  REQUIRE(WriteFileAtomic(file, std::string(100'000, 'a')));
  std::atomic<bool> stop{false};
  std::atomic<int> broken{0};
  std::jthread reader([&] {
    while (!stop) {
      const std::string text = ReadFile(file).value_or("");
      if (text.size() != 100'000 || text.find_first_not_of(text[0]) != std::string::npos) ++broken;
    }
  });
  for (int i = 0; i < 20; ++i) {
    REQUIRE(WriteFileAtomic(file, std::string(100'000, static_cast<char>('a' + i))));
  }
  stop = true;
  reader.join();
  CHECK(broken == 0);
}

TEST_CASE("reading what is not there") {
  CHECK(ReadFile("/no/such/file").error().Text() ==
        "error: reading /no/such/file: No such file or directory\n");
  CHECK(ReadFile("/etc").error().what == "reading /etc: Is a directory");
}

TEST_CASE("a directory cannot be made below a file") {
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "file", ""));
  CHECK(MakeDirectories(scratch / "x" / "y").has_value());
  CHECK(MakeDirectories(scratch / "x" / "y" / "").has_value());
  CHECK(MakeDirectories(scratch / "file" / "below").error().what ==
        "making the directory " + (scratch / "file" / "below").string() + ": Not a directory");
}

TEST_CASE("a tree is removed with its read-only directories, and its links are not followed") {
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "outside" / "kept", "x"));
  const fs::path tree = scratch / "tree";
  REQUIRE(WriteFileAtomic(tree / "deep" / "er" / "file", "x"));
  fs::create_directory_symlink(scratch / "outside", tree / "link");
  chmod((tree / "deep" / "er").c_str(), 0);
  chmod((tree / "deep").c_str(), 0500);
  // Modes bind ordinary users only: root becomes one for this.
  constexpr uid_t kNobody = 65534;
  if (geteuid() == 0) {
    for (const auto& entry : fs::recursive_directory_iterator(scratch.path())) {
      REQUIRE(lchown(entry.path().c_str(), kNobody, kNobody) == 0);
    }
    REQUIRE(chown(scratch.path().c_str(), kNobody, kNobody) == 0);
  }
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(2);
    _exit(RemoveTree(tree).has_value() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(!fs::exists(tree));
  CHECK(fs::exists(scratch / "outside" / "kept"));
  CHECK(RemoveTree(tree).has_value());
  CHECK(RemoveTree(scratch / "outside" / "kept" / "nothing").has_value());
}

TEST_CASE("publishing a directory: the first one wins, the other is removed") {
  const Scratch scratch;
  REQUIRE(WriteFileAtomic(scratch / "one" / "file", "1"));
  REQUIRE(WriteFileAtomic(scratch / "two" / "file", "2"));
  REQUIRE(PublishDirectory(scratch / "one", scratch / "made" / "final").has_value());
  REQUIRE(PublishDirectory(scratch / "two", scratch / "made" / "final").has_value());
  CHECK(ReadFile(scratch / "made" / "final" / "file").value() == "1");
  CHECK(!fs::exists(scratch / "two"));
  CHECK(PublishDirectory(scratch / "three", scratch / "made" / "other").error().what ==
        "moving " + (scratch / "three").string() + " to " + (scratch / "made" / "other").string() +
            ": No such file or directory");
}

TEST_CASE("syncing a file system") {
  const Scratch scratch;
  CHECK(SyncFilesystem(scratch.path()).has_value());
  CHECK(!SyncFilesystem(scratch / "none").has_value());
}

TEST_CASE("temporary directories are new ones") {
  const Scratch scratch;
  const auto one = MakeTempDirectory(scratch / "t", "build");
  const auto two = MakeTempDirectory(scratch / "t", "build");
  REQUIRE(one);
  REQUIRE(two);
  CHECK(*one != *two);
  CHECK(one->filename().string().starts_with("build-"));
}

TEST_CASE("a lock is held by one, and ends with its holder") {
  const Scratch scratch;
  const fs::path file = scratch / "locks" / "one";
  bool busy = false;
  {
    const auto held = FileLock::Acquire(file);
    REQUIRE(held);
    const auto second = FileLock::TryAcquire(file, busy);
    CHECK(busy);
    REQUIRE(!second);
    CHECK(second.error().what == file.string() + " is locked by another process");
  }
  CHECK(FileLock::TryAcquire(file, busy).has_value());
  CHECK(!busy);

  // Killed while it holds the lock.
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto held = FileLock::Acquire(file);
    if (write(ready[1], "x", 1) == 1) pause();
    _exit(0);
  }
  char byte = 0;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  CHECK(!FileLock::TryAcquire(file, busy));
  CHECK(busy);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  CHECK(FileLock::Acquire(file).has_value());
  close(ready[0]);
  close(ready[1]);
}

TEST_CASE("a lock whose file is removed by its holder is still held by one at a time") {
  const Scratch scratch;
  const fs::path file = scratch / "lock";
  std::atomic<int> inside{0};
  std::atomic<int> together{0};
  std::vector<std::jthread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) {
        const auto lock = FileLock::Acquire(file);
        if (!lock || ++inside != 1) ++together;
        std::this_thread::sleep_for(std::chrono::microseconds(20));
        --inside;
        unlink(file.c_str());
      }
    });
  }
  threads.clear();
  CHECK(together == 0);
}

TEST_CASE("free space is asked for before it is needed") {
  const Scratch scratch;
  CHECK(RequireFreeSpace(scratch / "not" / "made", 1, "it").has_value());
  const auto result = RequireFreeSpace("/proc", 2'500'000'000, "the image");
  REQUIRE(!result);
  CHECK(result.error().code == ExitCode::kMissing);
  CHECK(result.error().Text() ==
        "error: the image needs 2.5 GB on /proc, 0 B are free\n"
        "  Free space on /proc, or set ENVKIT_STORE to a directory on a larger disk.\n");
}

TEST_CASE("a full disk says so and leaves the old file") {
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
  const fs::path file = disk / "file";
  CHECK(WriteFileAtomic(file, "old").has_value());
  const auto result = WriteFileAtomic(file, std::string(1'000'000, 'x'));
  CHECK(ReadFile(file).value() == "old");
  CHECK(EntriesIn(disk) == 1);
  umount(disk.c_str());
  REQUIRE(!result);
  CHECK(result.error().code == ExitCode::kMissing);
  CHECK(result.error().Text() ==
        "error: writing " + file.string() + ": the disk is full: 0 B are free on " + disk.string() +
            "\n  Free space on " + disk.string() + ", then run the command again.\n");
}

TEST_CASE("a used-up quota says so") {
  CHECK(FileFailure("writing", "/proc/x", EDQUOT).value().Text() ==
        "error: writing /proc/x: the disk quota is used up on /proc\n"
        "  Free space on /proc, then run the command again.\n");
}

TEST_CASE("sizes and times for people") {
  CHECK(HumanBytes(0) == "0 B");
  CHECK(HumanBytes(812) == "812 B");
  CHECK(HumanBytes(1'000) == "1 kB");
  CHECK(HumanBytes(2'600) == "2.6 kB");
  CHECK(HumanBytes(109'400'000) == "109 MB");
  CHECK(HumanBytes(999'600'000) == "1 GB");
  CHECK(HumanBytes(2'520'000'000) == "2.5 GB");
  CHECK(HumanBytes(27'140'000'000) == "27.1 GB");
  CHECK(HumanBytes(~0ULL) == "18.4 EB");
  CHECK(HumanSeconds(0) == "0 s");
  CHECK(HumanSeconds(0.183) == "0.18 s");
  CHECK(HumanSeconds(0.2) == "0.2 s");
  CHECK(HumanSeconds(3) == "3 s");
  CHECK(HumanSeconds(3.24) == "3.2 s");
  CHECK(HumanSeconds(9.97) == "10 s");
  CHECK(HumanSeconds(58.4) == "58 s");
  CHECK(HumanSeconds(72) == "1 min 12 s");
  CHECK(HumanSeconds(3725) == "1 h 2 min");
  CHECK(HumanSeconds(-1) == "0 s");
}

}  // namespace envkit

#include "image/store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "image/world.h"

namespace envkit {
namespace fs = std::filesystem;

TEST_CASE("the store lies where ENVKIT_STORE or the XDG variables say") {
  const Scratch scratch;
  const std::string home = getenv("HOME") == nullptr ? "" : getenv("HOME");
  setenv("HOME", (scratch / "home").c_str(), 1);
  setenv("XDG_CACHE_HOME", "relative", 1);  // to be ignored, says its specification
  setenv("XDG_DATA_HOME", (scratch / "data").c_str(), 1);
  auto store = Store::Open();
  REQUIRE(store);
  CHECK(store->cache == scratch / "home/.cache/envkit");
  CHECK(store->data == scratch / "data/envkit");
  struct stat status;
  REQUIRE(stat(store->data.c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0700);

  setenv("ENVKIT_STORE", (scratch / "store").c_str(), 1);
  store = Store::Open();
  REQUIRE(store);
  CHECK(store->cache == scratch / "store");
  CHECK(store->DownloadPath("abc", "pool/main/x.deb") == scratch / "store/downloads/abc/x.deb");
  CHECK(store->LayerTree("abc") == scratch / "store/layers/abc/fs");
  for (const char* name : {"ENVKIT_STORE", "XDG_CACHE_HOME", "XDG_DATA_HOME"}) unsetenv(name);
  setenv("HOME", home.c_str(), 1);
}

TEST_CASE("what killed builds left is removed, and what living ones use stays") {
  const Scratch scratch;
  const Store store = MakeStore(scratch / "store");
  const pid_t child = fork();
  if (child == 0) {
    auto work = WorkDirectory::Make(store);
    (void)WriteFileAtomic(work->path() / "half", "made");
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  const auto count = [&] {
    return std::distance(fs::directory_iterator(store.Temp()), fs::directory_iterator());
  };
  CHECK(count() == 1);
  fs::path path;
  {
    auto first = WorkDirectory::Make(store);
    REQUIRE(first);
    CHECK(count() == 1);
    auto second = WorkDirectory::Make(store);
    REQUIRE(second);
    CHECK(count() == 2);
    CHECK(fs::exists(first->path()));
    CHECK(first->path() != second->path());
  }
  CHECK(count() == 0);
}

TEST_CASE("a key is made by one process; the other says what it waits for") {
  const Scratch scratch;
  const Store store = MakeStore(scratch / "store");
  const fs::path said = scratch / "said";
  const int fd = open(said.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  Terminal::Options options;
  options.error_fd = fd;
  Terminal terminal(options);
  bool released = false;
  auto first = LockKey(store, "key", "torch", terminal);
  REQUIRE(first);
  std::jthread holder([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    released = true;
    const FileLock dropped = std::move(*first);
  });
  const auto second = LockKey(store, "key", "torch", terminal);
  CHECK(second);
  CHECK(released);
  CHECK(ReadFile(said).value() == "wait     another envkit makes torch\n");
  close(fd);
}

}  // namespace envkit

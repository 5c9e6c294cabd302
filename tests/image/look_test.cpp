// Looking at images: lists, contents, differences; and freeing what nobody needs.
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <random>

#include "image/contents.h"
#include "image/elf.h"
#include "image/prune.h"
#include "image/stored_image.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kDay = 86'400;

std::vector<LayerSpec> DebianImage(const std::string& libc) {
  const std::string status =
      "Package: libc6\nStatus: install ok installed\nPriority: optional\nVersion: " + libc +
      "\nDepends: libgcc-s1\n\nPackage: dpkg\nEssential: yes\nPriority: required\nVersion: "
      "1.22\nPre-Depends: libc6 (>= 2.38), tar\n\nPackage: tar\nPriority: required\nVersion: 1.35\n"
      "\nPackage: libstdc++6\nVersion: 14.2\nDepends: libc6\n";
  return {{"debian",
           {{"var/lib/dpkg/status", status},
            {"var/lib/dpkg/info/libc6:amd64.list", "/.\n/lib/libc.so.6\n"},
            {"var/lib/dpkg/info/dpkg.list", "/usr/bin/dpkg\n"},
            {"var/lib/dpkg/info/libstdc++6:amd64.list", "/usr/lib/libstdc++.so.6\n"},
            {"usr/lib/libc.so.6", std::string(libc.size() * 1000, 'c')},
            {"usr/lib/libstdc++.so.6", "12345678"},
            {"usr/bin/dpkg", "1234"}},
           ""},
          SmallImage()[1]};
}

// images/loaded-by-name.toml is the source tree's.
struct Share {
  Share() { setenv("ENVKIT_SHARE", std::getenv("ENVKIT_SOURCE_DIR"), 1); }
  ~Share() { unsetenv("ENVKIT_SHARE"); }
};

struct Pruning {
  Scratch scratch;
  QuietTerminal quiet;
  Store store = MakeStore(scratch / "store");
  Image used = StoreSpec(store, scratch, SmallImage());
  Image old = StoreSpec(store, scratch, {SmallImage()[0], {"torch", {{"old", "old"}}, ""}}, "cuda");
  fs::path project = scratch / "project";
  std::int64_t now = std::time(nullptr);

  Pruning() {
    REQUIRE(WriteFileAtomic(project / "envkit.toml", "schema = 1\n[project]\nname = \"mnist\"\n"));
    Lock lock;
    lock.inputs = {"2.15", "auto", "3.13", "debian:trixie", {}, {}, std::string(64, 'c')};
    lock.torch = "2.15.0";
    lock.cuda = "13.2";
    lock.python = "3.13";
    lock.wheels = {{"torch", "2.15.0", "torch-2.15.0-py3-none-any.whl", std::string(64, 'd'), 5}};
    REQUIRE(WriteFileAtomic(project / "envkit.lock", LockToToml(lock)));
    REQUIRE(ParseLock(LockToToml(lock), "envkit.lock"));
    RecordUse(project, used, store);
    for (const char name : {'d', 'e'}) {
      REQUIRE(WriteFileAtomic(store.DownloadPath(std::string(64, name), "file.whl"), "12345"));
    }
  }
  PruneReport Prune(PruneRequest request = {}, std::int64_t later = 2 * 3600) {
    auto report = PruneStore(store, {}, request, now + later, quiet.terminal);
    REQUIRE_MESSAGE(report, report.error().Text());
    CHECK(fs::is_empty(store.Temp()));
    return *report;
  }
  bool Has(const Image& image) { return ReadStoredImage(image.config_digest, store).has_value(); }
};

}  // namespace

TEST_CASE("the store's images, found by what people write") {
  Scratch scratch;
  const Store store = MakeStore(scratch / "store");
  CHECK(ListText({}, 0) == "No images yet: envkit build");
  const Image cpu = StoreSpec(store, scratch, SmallImage());
  const Image cuda = StoreSpec(store, scratch, {SmallImage()[0]}, "cuda");
  CHECK(FindStoredImage("mnist:train-cpu", store)->config_digest == cpu.config_digest);
  CHECK(FindStoredImage(cuda.config_digest.substr(0, 6), store)->variant == "cuda");
  CHECK(FindStoredImage("sha256:" + cuda.config_digest, store)->variant == "cuda");
  CHECK(TextOf(FindStoredImage("mnist:train-cup", store)) ==
        "error: there is no image \"mnist:train-cup\"\n  did you mean mnist:train-cpu?\n  All that "
        "are here: envkit image ls\n");
  CHECK(TextOf(FindStoredImage(cpu.config_digest.substr(0, 3), store)).find("there is no image") !=
        std::string::npos);

  REQUIRE(WriteFileAtomic(scratch / "project/envkit.lock", ""));
  RecordUse(scratch / "project", cpu, store);
  RecordUse(scratch / "gone", cuda, store);
  auto images = *ListImages(store);
  REQUIRE(images.size() == 2);
  for (StoredImage& stored : images) {
    const bool is_cpu = stored.image.variant == "cpu";
    CHECK(stored.own_bytes == (is_cpu ? cpu.layers[1].bytes : 0));
    CHECK(stored.projects.size() == (is_cpu ? 1 : 0));
    stored.projects = is_cpu ? std::vector<std::string>{"/home/ana/mnist"} : stored.projects;
    stored.image.config_digest = std::string(64, is_cpu ? 'a' : 'b');
    stored.created = is_cpu ? 1000 : 1000 - 3 * kDay;
  }
  std::sort(images.begin(), images.end(),
            [](const auto& a, const auto& b) { return a.created > b.created; });
  CHECK(ListText(images, 1060) ==
        "image             digest            size   its own  layers       age  used by\n"
        "mnist:train-cpu   aaaaaaaaaaaa     59 kB     54 kB       2       now  /home/ana/mnist\n"
        "mnist:train-cuda  bbbbbbbbbbbb    4.6 kB       0 B       1    3 days  -");
}

TEST_CASE("what takes the room, and why it is there") {
  const Share share;
  Scratch scratch;
  const Store store = MakeStore(scratch / "store");
  const Image image = StoreSpec(store, scratch, DebianImage("2.41"));
  const auto layers = ReadContents(image);
  REQUIRE_MESSAGE(layers, layers.error().Text());
  std::map<std::string, ContentPackage> packages;
  for (const ContentLayer& layer : *layers) {
    for (const ContentPackage& package : layer.packages) packages[package.name] = package;
  }
  CHECK(packages["libc6"].version == "2.41");
  CHECK(packages["libc6"].because == "needed by dpkg");
  CHECK(packages["dpkg"].because == "essential in Debian");
  CHECK(packages["libstdc++6"].because == "asked for");
  CHECK(packages["libc6"].files[0].path == "usr/lib/libc.so.6");  // dpkg's list says /lib
  CHECK(packages["torch"].bytes == 50'000);
  CHECK(packages["z"].version == "1.0");
  // A library that nobody names is said to be one.
  CHECK(Unexplained(*layers).size() == 1);
  CHECK(InspectText(image, *layers)
            .find("no caller is known for site/torch/lib/libtorch.so "
                  "(50 kB)") != std::string::npos);
}

TEST_CASE("who needs which library, from ELF headers") {
  const auto self = ReadElf("/proc/self/exe");
  CHECK(!self);  // a symlink is not followed
  const auto program = ReadElf(fs::read_symlink("/proc/self/exe"));
  REQUIRE(program);
  CHECK(std::find(program->needed.begin(), program->needed.end(), "libc.so.6") !=
        program->needed.end());
  CHECK(!ReadElf("/etc/passwd"));

  // Nothing in a damaged file is believed.
  Scratch scratch;
  std::string bytes = ReadFile(fs::read_symlink("/proc/self/exe")).value().substr(0, 1 << 20);
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string changed = bytes.substr(0, random() % bytes.size());
    for (int change = 0; change < 8 && !changed.empty(); ++change) {
      changed[random() % std::min<std::size_t>(changed.size(), 1200)] = static_cast<char>(random());
    }
    std::ofstream(scratch / "elf", std::ios::binary) << changed;
    static_cast<void>(ReadElf(scratch / "elf"));
  }
}

TEST_CASE("what changed between two images") {
  const Share share;
  Scratch scratch;
  const Store store = MakeStore(scratch / "store");
  const Image before = StoreSpec(store, scratch, DebianImage("2.41"));
  std::vector<LayerSpec> specs = DebianImage("2.41-12");
  specs.push_back({"more", {{"opt/more", "more"}}, ""});
  const Image after = StoreSpec(store, scratch, specs);
  const auto diff = DiffImages(before, after);
  REQUIRE_MESSAGE(diff, diff.error().Text());
  CHECK(diff->shared_bytes == before.layers[1].bytes);
  std::string text = DiffText(before, after, *diff);
  text = text.substr(text.find("\n\n"));
  CHECK(text ==
        "\n\nlayers\n"
        "  ~ debian                                       +3.1 kB\n"
        "  + more                                         +2.6 kB\n"
        "\npackages\n"
        "  ~ libc6 2.41 → 2.41-12                           +3 kB\n"
        "  + (more)                                          +4 B\n"
        "  ~ (debian)                                        +3 B");
  CHECK(DiffText(before, before, *DiffImages(before, before)).ends_with("\nthe same image"));
  CHECK(DiffToJson(before, after, *diff)["packages"][0]["after"] == "2.41-12");
}

TEST_CASE("pruning leaves what a project uses") {
  Pruning world;
  PruneReport report = world.Prune({.dry_run = true, .older_than = {}});
  CHECK(world.Has(world.old));
  CHECK(report.bytes == world.old.layers[1].bytes + 5);
  const std::string text = PruneText(report, true);
  CHECK(text.find("would free") != std::string::npos);

  report = world.Prune();
  CHECK(world.Has(world.used));
  CHECK(!world.Has(world.old));
  CHECK(!fs::exists(world.old.layers[1].tree));
  CHECK(fs::exists(world.store.DownloadPath(std::string(64, 'd'), "file.whl")));
  CHECK(!fs::exists(world.store.DownloadPath(std::string(64, 'e'), "file.whl")));
  CHECK(PruneText(report, false) == fmt::format("image     mnist:train-cuda {:.12}\n"
                                                "layer     torch {:<54.12} {:>8}\n"
                                                "download  file.whl{:52} {:>8}\n"
                                                "freed {}",
                                                world.old.config_digest,
                                                world.old.layers[1].diff_id,
                                                HumanBytes(world.old.layers[1].bytes), "", "5 B",
                                                HumanBytes(world.old.layers[1].bytes + 5)));
  CHECK(PruneText(world.Prune(), false) == "nothing to remove: all of it is in use");
  // Once the project is gone its image is nobody's.
  REQUIRE(RemoveTree(world.project));
  world.Prune();
  CHECK(!world.Has(world.used));
  CHECK(fs::is_empty(world.store.data / "layers"));
  CHECK(fs::is_empty(world.store.data / "keys"));
  CHECK(fs::is_empty(world.store.data / "projects"));
  CHECK(fs::is_empty(world.store.cache / "downloads"));
}

TEST_CASE("pruning leaves what is young, and what runs") {
  Pruning world;
  CHECK(world.Prune({.older_than = kDay}).removed.empty());
  CHECK(world.Prune({}, 60).removed.size() == 2);  // the download is too young
  {
    const auto lease = HoldImage(world.store, world.used.config_digest);
    REQUIRE(lease);
    const PruneReport report = world.Prune({.all = true, .older_than = {}});
    CHECK(report.running == 1);
    CHECK(world.Has(world.used));
    CHECK(PruneText(report, false).find("1 image is left: it runs now\n") != std::string::npos);
  }
  world.Prune({.all = true, .older_than = {}});
  CHECK(!world.Has(world.used));
  CHECK(fs::is_empty(world.store.cache / "downloads"));
}

TEST_CASE("pruning waits for whoever makes something") {
  Pruning world;
  pid_t child = -1;
  {
    const auto hold = HoldStore(world.store);
    const auto second = HoldStore(world.store);  // builds do not wait for each other
    REQUIRE(hold);
    REQUIRE(second);
    child = fork();
    if (child == 0) {
      // The copies of the locks are this process's too.
      syscall(SYS_close_range, 3u, ~0u, 0u);
      const auto report = PruneStore(world.store, {}, {}, world.now + 7200, world.quiet.terminal);
      _exit(report ? 0 : 1);
    }
    usleep(300'000);
    CHECK(world.Has(world.old));
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(!world.Has(world.old));
}

TEST_CASE("ages") {
  CHECK(ParseAge("30d") == 30 * kDay);
  CHECK(ParseAge("12h") == 43'200);
  CHECK(ParseAge("5min") == 300);
  for (const char* wrong : {"", "d", "30", "30 d", "-1d", "1e9d", "9999999d"})
    CHECK(!ParseAge(wrong));
}

}  // namespace envkit

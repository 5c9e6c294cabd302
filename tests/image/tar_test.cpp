#include "image/canonical_tar.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/process.h"
#include "image/world.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

struct Written {
  std::string bytes;
  ByteSink Sink() {
    return [this](const char* data, std::size_t size) {
      bytes.append(data, size);
      return Result<void>();
    };
  }
};

const std::string kLong = std::string(90, 'd') + "/" + std::string(90, 'e') + "/" +
                          std::string(120, 'f');  // does not fit into prefix and name

// One layer with everything that a layer can have.
Result<Layer> WriteSample(const fs::path& tree) {
  fs::create_directory(tree);
  LayerWriter writer(tree, 1'700'000'000);
  ENVKIT_CHECK(writer.Directory("a", 0755));
  ENVKIT_CHECK(writer.File("a-b", 0644, 0, [](const ByteSink&) { return Result<void>(); }));
  ENVKIT_CHECK(writer.File("a/big.so", 0755, 9'000'001, [](const ByteSink& sink) -> Result<void> {
    const std::string part(1'000'000, 'x');
    for (int count = 0; count < 9; ++count) ENVKIT_CHECK(sink(part.data(), part.size()));
    return sink("y", 1);
  }));
  ENVKIT_CHECK(writer.Symlink("a/link", "big.so"));
  ENVKIT_CHECK(writer.Directory(kLong.substr(0, 90), 0755));
  ENVKIT_CHECK(writer.Directory(kLong.substr(0, 181), 0755));
  ENVKIT_CHECK(writer.File(kLong, 0644, 5, [](const ByteSink& sink) { return sink("12345", 5); }));
  return writer.Finish();
}

}  // namespace

TEST_CASE("writing a layer and reading its tree back give the same bytes, for good") {
  const Scratch scratch;
  const auto layer = WriteSample(scratch / "tree");
  REQUIRE_MESSAGE(layer, layer.error().Text());
  Written written;
  const auto bytes = WriteCanonicalTar(scratch / "tree", 1'700'000'000, written.Sink());
  REQUIRE(bytes);
  CHECK(*bytes == layer->bytes);
  CHECK(written.bytes.size() == layer->bytes);
  CHECK(Sha256Of(written.bytes) == layer->diff_id);
  // Frozen: every image in the world changes its identity with this value.
  CHECK(layer->diff_id == "10c6e9c7afb8f9b52980ba72430f01b5255745c105f701bdff01b0f0f556de5d");
  struct stat status;
  REQUIRE(lstat((scratch / "tree/a").c_str(), &status) == 0);
  CHECK(status.st_mtime == 1'700'000'000);
  REQUIRE(lstat((scratch / "tree/a/link").c_str(), &status) == 0);
  CHECK(status.st_mtime == 1'700'000'000);
  REQUIRE(lstat((scratch / "tree/a/big.so").c_str(), &status) == 0);
  CHECK(status.st_size == 9'000'001);
  CHECK((status.st_mode & 07777) == 0755);
}

TEST_CASE("other tars understand ours") {
  const Scratch scratch;
  const fs::path tree = scratch / "tree";
  REQUIRE(WriteSample(tree));
  REQUIRE(link((tree / "a-b").c_str(), (tree / "hard").c_str()) == 0);
  REQUIRE(mkfifo((tree / "pipe").c_str(), 0644) == 0);  // no place in a layer
  Written written;
  REQUIRE(WriteCanonicalTar(tree, 1'700'000'000, written.Sink()));
  ProcessSpec spec;
  spec.argv = {"tar", "--list", "--verbose", "--full-time", "--utc", "--numeric-owner", "--file=-"};
  spec.input = written.bytes;
  const auto listing = RunForOutput(spec);
  REQUIRE_MESSAGE(listing, listing.error().Text());
  CHECK(*listing ==
        "drwxr-xr-x 0/0               0 2023-11-14 22:13:20 a/\n"
        "-rw-r--r-- 0/0               0 2023-11-14 22:13:20 a-b\n"
        "-rwxr-xr-x 0/0         9000001 2023-11-14 22:13:20 a/big.so\n"
        "lrwxrwxrwx 0/0               0 2023-11-14 22:13:20 a/link -> big.so\n"
        "drwxr-xr-x 0/0               0 2023-11-14 22:13:20 " +
            kLong.substr(0, 90) + "/\n" + "drwxr-xr-x 0/0               0 2023-11-14 22:13:20 " +
            kLong.substr(0, 181) + "/\n" + "-rw-r--r-- 0/0               5 2023-11-14 22:13:20 " +
            kLong + "\n" + "-rw-r--r-- 0/0               0 2023-11-14 22:13:20 hard\n");
}

TEST_CASE("pax records stand only where a field is too short") {
  Written written;
  TarStream tar(written.Sink(), 0);
  const std::string fits = std::string(155, 'p') + "/" + std::string(100, 'n');
  REQUIRE(tar.BeginFile(fits, 0644, 0));
  CHECK(written.bytes.size() == 512);
  CHECK(written.bytes.substr(0, 100) == std::string(100, 'n'));
  CHECK(written.bytes.substr(345, 155) == std::string(155, 'p'));
  CHECK(written.bytes[156] == '0');

  written.bytes.clear();
  REQUIRE(tar.BeginFile("q" + fits, 0644, 0));
  CHECK(written.bytes.size() == 3 * 512);
  CHECK(written.bytes[156] == 'x');
  CHECK(written.bytes.substr(512, 267) == "267 path=q" + fits + "\n");

  written.bytes.clear();
  REQUIRE(tar.BeginFile("r", 0644, 9'000'000'000));
  CHECK(written.bytes.substr(512, 19) == "19 size=9000000000\n");

  written.bytes.clear();
  REQUIRE(tar.Symlink("s", std::string(101, 't')));
  CHECK(written.bytes.substr(512, 115) == "115 linkpath=" + std::string(101, 't') + "\n");
}

TEST_CASE("a tar that would not be canonical is refused") {
  Written written;
  TarStream tar(written.Sink(), 0);
  REQUIRE(tar.Directory("b", 0755));
  CHECK(TextOf(tar.Directory("a", 0755)) ==
        "error: \"a\" comes after \"b\" in a tar that must be sorted\n");
  CHECK(TextOf(tar.Directory("b", 0755)) ==
        "error: \"b\" comes after \"b\" in a tar that must be sorted\n");
  CHECK(TextOf(tar.Directory("../c", 0755)) == "error: \"../c/\" cannot be in a layer\n");
  REQUIRE(tar.BeginFile("c", 0644, 2));
  CHECK(TextOf(tar.Data("123", 3)) == "error: c is longer than was said\n");
  CHECK(TextOf(tar.EndFile()) == "error: c is 2 bytes shorter than was said\n");
}

TEST_CASE("a tree's modes and times are set before it becomes a layer") {
  const Scratch scratch;
  WriteFiles(scratch / "tree", {{"bin/program", "p"}, {"lib/x.so.1", "x"}, {"etc/secret", "s"}});
  chmod((scratch / "tree/bin/program").c_str(), 0700);
  chmod((scratch / "tree/etc/secret").c_str(), 0640);
  chmod((scratch / "tree/etc").c_str(), 0550);
  const auto mode = [&](const char* name) {
    struct stat status;
    REQUIRE(lstat((scratch / "tree" / name).c_str(), &status) == 0);
    CHECK(status.st_mtime == 42);
    return status.st_mode & 07777;
  };
  const auto kept = FinishTree(scratch / "tree", 42, Modes::kKeep);
  REQUIRE(kept);
  CHECK(mode("bin/program") == 0700);
  CHECK(mode("etc/secret") == 0640);
  CHECK(mode("etc") == 0750);
  const auto plain = FinishTree(scratch / "tree", 42, Modes::kPlain);
  REQUIRE(plain);
  CHECK(mode("bin/program") == 0755);
  CHECK(mode("lib/x.so.1") == 0755);
  CHECK(mode("etc/secret") == 0644);
  CHECK(mode("etc") == 0755);
  CHECK(kept->diff_id != plain->diff_id);
  CHECK(kept->bytes == plain->bytes);
}

}  // namespace envkit

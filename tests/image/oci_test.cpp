// Images out and in: the same bytes each time, the same image on the other side, and nothing that
// is damaged or hostile gets in.
#include "image/oci_layout.h"

#include <unistd.h>

#include <fstream>
#include <map>
#include <random>

#include "base/archive.h"
#include "base/process.h"
#include "host/facts.h"
#include "image/base_image.h"
#include "image/registry.h"
#include "image/stored_image.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

std::map<std::string, std::string> FilesBelow(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files[entry.path().string().substr(directory.string().size() + 1)] =
          ReadFile(entry.path()).value();
    }
  }
  return files;
}

struct Sender {
  Scratch scratch;
  QuietTerminal quiet;
  Store store = MakeStore(scratch / "store");
  Image image = StoreSpec(store, scratch, SmallImage());

  LayoutReport Write(const fs::path& directory, Compression compression = Compression::kZstd,
                     const std::set<std::string>& known = {}) {
    auto report = WriteOciLayout(image, store, directory, compression, known, quiet.terminal);
    REQUIRE_MESSAGE(report, report.error().Text());
    return *report;
  }
};

struct Receiver {
  Scratch scratch;
  QuietTerminal quiet;
  Store store = MakeStore(scratch / "store");

  Result<LoadReport> Load(const fs::path& source, bool reuse = true) {
    return LoadImage(source, store, {reuse}, quiet.terminal);
  }
  // Whatever happened, what is under a final name is whole.
  void CheckStore() {
    for (const auto& entry : fs::directory_iterator(store.data / "layers")) {
      auto layer = FinishTree(entry.path() / "fs", 1'700'000'000, Modes::kKeep);
      REQUIRE(layer);
      CHECK(layer->diff_id == entry.path().filename().string());
    }
    CHECK(fs::is_empty(store.Temp()));
  }
};

// The layout's index and manifest, changed by EDIT, with digests that fit again.
void EditManifest(const fs::path& layout, const std::function<void(json&)>& edit) {
  json index = json::parse(ReadFile(layout / "index.json").value());
  const std::string old = index["manifests"][0]["digest"].get<std::string>().substr(7);
  json manifest = json::parse(ReadFile(layout / "blobs/sha256" / old).value());
  edit(manifest);
  const std::string text = manifest.dump();
  index["manifests"][0]["digest"] = "sha256:" + Sha256Of(text);
  index["manifests"][0]["size"] = text.size();
  REQUIRE(WriteFileAtomic(layout / "blobs/sha256" / Sha256Of(text), text));
  REQUIRE(WriteFileAtomic(layout / "index.json", index.dump()));
}

void EditConfig(const fs::path& layout, const std::function<void(json&)>& edit) {
  EditManifest(layout, [&](json& manifest) {
    const std::string old = manifest["config"]["digest"].get<std::string>().substr(7);
    json config = json::parse(ReadFile(layout / "blobs/sha256" / old).value());
    edit(config);
    const std::string text = config.dump();
    manifest["config"]["digest"] = "sha256:" + Sha256Of(text);
    manifest["config"]["size"] = text.size();
    REQUIRE(WriteFileAtomic(layout / "blobs/sha256" / Sha256Of(text), text));
  });
}

std::string LargestBlob(const fs::path& layout) {
  std::pair<std::uintmax_t, std::string> largest;
  for (const auto& blob : fs::directory_iterator(layout / "blobs/sha256")) {
    largest = std::max(largest, {blob.file_size(), blob.path().string()});
  }
  return largest.second;
}

}  // namespace

TEST_CASE("an OCI layout is the same each time, and the image comes out of it again") {
  Sender sender;
  for (const Compression compression : {Compression::kZstd, Compression::kGzip}) {
    const fs::path one = sender.scratch / "one", two = sender.scratch / "two";
    const LayoutReport report = sender.Write(one, compression);
    CHECK(sender.Write(two, compression).manifest_digest == report.manifest_digest);
    CHECK(FilesBelow(one) == FilesBelow(two));

    Receiver receiver;
    const auto loaded = receiver.Load(one);
    REQUIRE_MESSAGE(loaded, loaded.error().Text());
    CHECK(loaded->new_layers == 2);
    CHECK(loaded->image.config_digest == sender.image.config_digest);
    const Image stored = ReadStoredImage(sender.image.config_digest, receiver.store).value();
    json sent = ImageToJson(*ReadStoredImage(sender.image.config_digest, sender.store));
    CHECK(ImageToJson(stored)["packages"] == sent["packages"]);
    CHECK(ImageToJson(stored)["diff_ids"] == sent["diff_ids"]);
    CHECK(stored.layers[1].what == "torch");
    CHECK(stored.layers[1].compressed_bytes.value_or(0) > 0);
    // A build there takes its layers, and knows whose files they are.
    CHECK(FindLayer(receiver.store, Sha256Of("key of torch"), "torch")->diff_id ==
          sender.image.layers[1].diff_id);
    CHECK(ReadFile(stored.layers[1].tree.parent_path() / "files").value() ==
          SmallImage()[1].owners);
    receiver.CheckStore();
    CHECK(receiver.Load(one)->new_layers == 0);
    // And it goes out as it came in.
    const fs::path again = receiver.scratch / "again";
    REQUIRE(
        WriteOciLayout(stored, receiver.store, again, compression, {}, receiver.quiet.terminal));
    CHECK(FilesBelow(again) == FilesBelow(one));
    REQUIRE(RemoveTree(one));
    REQUIRE(RemoveTree(two));
  }
}

TEST_CASE("archives of both formats, and layers that the other side has") {
  Sender sender;
  const fs::path oci = sender.scratch / "image.tar", docker = sender.scratch / "docker.tar";
  auto saved = SaveImage(sender.image, sender.store, oci, ArchiveFormat::kOci, Compression::kZstd,
                         {}, sender.quiet.terminal);
  REQUIRE_MESSAGE(saved, saved.error().Text());
  REQUIRE(SaveImage(sender.image, sender.store, docker, ArchiveFormat::kDocker, Compression::kZstd,
                    {}, sender.quiet.terminal));
  for (const fs::path& archive : {oci, docker}) {
    Receiver receiver;
    const auto loaded = receiver.Load(archive);
    REQUIRE_MESSAGE(loaded, loaded.error().Text());
    CHECK(loaded->image.config_digest == sender.image.config_digest);
    CHECK(loaded->image.layers[0].what == "debian");
    receiver.CheckStore();
  }
  CHECK(!fs::exists(oci.string() + ".part"));
  const std::string digest = ReadCompressed(sender.image.layers[1], "zstd")->digest;
  const LayoutReport report = sender.Write(sender.scratch / "known", Compression::kZstd, {digest});
  CHECK(report.left_out == 1);
  CHECK(report.manifest_digest == saved->manifest_digest);
  CHECK(!fs::exists(sender.scratch / "known/blobs/sha256" / digest));
}

TEST_CASE("what is no place for an image, and no name to push it to") {
  Sender sender;
  const auto save = [&](const fs::path& target, ArchiveFormat format,
                        const std::vector<SourceFile>& sources = {}) {
    return TextOf(SaveImage(sender.image, sender.store, target, format, Compression::kZstd, sources,
                            sender.quiet.terminal));
  };
  const fs::path directory = sender.scratch / "full";
  REQUIRE(WriteFileAtomic(directory / "file", "kept"));
  CHECK(save(directory, ArchiveFormat::kDocker) ==
        "error: " + directory.string() +
            ": a docker archive is a file\n  Give it a name that ends in .tar.\n");
  CHECK(save(sender.scratch / "a.tar", ArchiveFormat::kDocker, {SourceFile()}) ==
        "error: --with-sources goes with --format oci alone\n");
  CHECK(save(directory, ArchiveFormat::kOci) ==
        "error: " + directory.string() +
            " is there already, and not empty\n  Remove it, or name another directory.\n");
  CHECK(FilesBelow(directory).size() == 1);

  auto reference = ParseReference("127.0.0.1:1/m@sha256:" + std::string(64, 'a'));
  REQUIRE(reference);
  CHECK(TextOf(PushImage(sender.image, *reference, sender.store, Compression::kZstd,
                         sender.quiet.terminal)) ==
        "error: an image is pushed to a name or a tag: its digest follows from what it is\n");
}

TEST_CASE("a stranger's layers can be kept from builds") {
  Sender sender;
  sender.Write(sender.scratch / "layout");
  Receiver receiver;
  REQUIRE(receiver.Load(sender.scratch / "layout", false));
  CHECK(!FindLayer(receiver.store, Sha256Of("key of torch"), "torch"));
  // What was built here is never replaced.
  Receiver other;
  const Layer own = PublishSpec(other.store, other.scratch, {"torch", {{"own", "own"}}, ""},
                                Sha256Of("key of torch"));
  REQUIRE(other.Load(sender.scratch / "layout"));
  CHECK(FindLayer(other.store, Sha256Of("key of torch"), "torch")->diff_id == own.diff_id);
}

TEST_CASE("what is not what it says is refused, in these words") {
  Sender sender;
  const fs::path layout = sender.scratch / "layout";
  sender.Write(layout);
  Receiver receiver;
  const std::string loading = "error: loading " + layout.string() + ": ";
  const std::string damaged =
      "\n  The archive is damaged or was changed: get it again from where it was made.\n";

  SUBCASE("a blob with other bytes") {
    const std::string blob = LargestBlob(layout);
    std::string bytes = ReadFile(blob).value();
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    const std::string name = fs::path(blob).filename().string();
    REQUIRE(WriteFileAtomic(blob, bytes));
    const std::string text = TextOf(receiver.Load(layout));
    CHECK(text.find("a blob has the sha256 " + Sha256Of(bytes) + " and not " + name) !=
          std::string::npos);
  }
  SUBCASE("a missing blob") {
    const std::string blob = LargestBlob(layout);
    fs::remove(blob);
    CHECK(TextOf(receiver.Load(layout)).find("is missing" + damaged) != std::string::npos);
  }
  SUBCASE("a tree that is not the diff_id's") {
    EditConfig(layout, [](json& config) {
      config["rootfs"]["diff_ids"][0] = "sha256:" + std::string(64, '0');
    });
    CHECK(TextOf(receiver.Load(layout)) ==
          loading +
              "the layer debian is not what the image's config says: its tree has the "
              "diff_id " +
              sender.image.layers[0].diff_id + " and not " + std::string(64, '0') + damaged);
  }
  SUBCASE("more layers than the config has") {
    EditManifest(layout,
                 [](json& manifest) { manifest["layers"].push_back(manifest["layers"][0]); });
    CHECK(TextOf(receiver.Load(layout)) ==
          loading + "the manifest has 3 layers, and the config 2" + damaged);
  }
  SUBCASE("an image of somebody else") {
    EditConfig(layout, [](json& config) { config["config"].erase("Labels"); });
    CHECK(TextOf(receiver.Load(layout)) ==
          loading +
              "this is not an image that envkit built: it has no labels\n  Another image "
              "can be what yours stands on: base = \"oci:DIR\" in envkit.toml.\n");
  }
  SUBCASE("names that would leave the store or the screen") {
    EditConfig(layout, [](json& config) {
      config["config"]["Labels"]["dev.envkit.profile"] = "../../etc";
    });
    CHECK(TextOf(receiver.Load(layout)).find("its labels name no profile") != std::string::npos);
  }
  SUBCASE("several images") {
    json index = json::parse(ReadFile(layout / "index.json").value());
    index["manifests"].push_back(index["manifests"][0]);
    REQUIRE(WriteFileAtomic(layout / "index.json", index.dump()));
    CHECK(TextOf(receiver.Load(layout)) ==
          loading + "index.json names 2 images\n  envkit loads archives of one image.\n");
  }
  SUBCASE("a docker archive of several images") {
    const fs::path archive = sender.scratch / "docker.tar", tree = sender.scratch / "docker";
    REQUIRE(MakeDirectories(tree));
    REQUIRE(WriteFileAtomic(tree / "manifest.json", "[{}, {}]"));
    CHECK(RunForOutput({.argv = {"tar", "-C", tree.string(), "-cf", archive.string(), "."}}));
    CHECK(TextOf(receiver.Load(archive)) == "error: loading " + archive.string() +
                                                ": manifest.json names no image, or several\n"
                                                "  envkit loads archives of one image.\n");
  }
  SUBCASE("neither of the formats") {
    fs::remove(layout / "oci-layout");
    CHECK(TextOf(receiver.Load(layout)) ==
          "error: " + layout.string() + " is neither an OCI layout nor a docker archive\n");
    CHECK(TextOf(receiver.Load(layout / "nowhere")) ==
          "error: " + (layout / "nowhere").string() + " does not exist\n");
  }
  CHECK(fs::is_empty(receiver.store.data / "images"));
  receiver.CheckStore();
}

TEST_CASE("a layer that unpacks to far more than it is") {
  Scratch scratch;
  QuietTerminal quiet;
  const Store store = MakeStore(scratch / "store");
  const Image image =
      StoreSpec(store, scratch, {{"bomb", {{"zeros", std::string(100'000'000, '\0')}}, ""}});
  REQUIRE(WriteOciLayout(image, store, scratch / "layout", Compression::kZstd, {}, quiet.terminal));
  Receiver receiver;
  CHECK(TextOf(receiver.Load(scratch / "layout")).find("unpacks to more than") !=
        std::string::npos);
  receiver.CheckStore();
}

TEST_CASE("whatever is garbled, nothing but the image itself gets in") {
  Sender sender;
  const fs::path good = sender.scratch / "good", bad = sender.scratch / "bad";
  sender.Write(good);
  const auto files = FilesBelow(good);
  std::vector<std::string> names;
  for (const auto& [name, content] : files) names.push_back(name);
  std::mt19937 random(20261125);
  const auto pick = [&](std::size_t below) { return random() % below; };
  // Not WriteFileAtomic: its fsyncs are most of the time that this would take.
  const auto write = [&](const std::string& name, const std::string& content) {
    REQUIRE(MakeDirectories((bad / name).parent_path()));
    std::ofstream(bad / name, std::ios::binary) << content;
  };
  Receiver receiver;
  int refused = 0;
  for (int round = 0; round < 150; ++round) {
    CAPTURE(round);
    REQUIRE(RemoveTree(bad));
    for (const auto& [name, content] : files) write(name, content);
    const std::string& name = names[pick(names.size())];
    std::string content = files.at(name);
    if (round % 3 == 0) {
      content.resize(pick(content.size()));
    } else {
      for (int change = 0; change <= round % 4; ++change) {
        content[pick(content.size())] = static_cast<char>(random());
      }
    }
    write(name, content);
    const auto loaded = receiver.Load(bad);
    refused += loaded ? 0 : 1;
    if (loaded) CHECK(loaded->image.layers.size() == 2);
    if (round % 15 == 0) {  // layers that are there are not read again
      receiver.CheckStore();
      REQUIRE(RemoveTree(receiver.store.data / "layers"));
      REQUIRE(MakeDirectories(receiver.store.data / "layers"));
    }
  }
  CHECK(refused > 75);
}

TEST_CASE("an OCI image as what another stands on") {
  Scratch scratch;
  QuietTerminal quiet;
  const Store store = MakeStore(scratch / "store");
  const auto make = [&](const std::vector<LayerSpec>& specs, const std::string& name) {
    const Image image = StoreSpec(store, scratch, specs);
    auto report =
        WriteOciLayout(image, store, scratch / name, Compression::kGzip, {}, quiet.terminal);
    REQUIRE(report);
    return "oci:" + name + "@sha256:" + report->manifest_digest;
  };
  const auto tree_of = [&](const std::string& base, const std::string& name) {
    REQUIRE(MakeDirectories(scratch / name / "work"));
    REQUIRE(MakeDirectories(scratch / name / "fs"));
    return MakeBaseTree(base, scratch.path(), 0, scratch / name / "work", scratch / name / "fs",
                        quiet.terminal);
  };
  const std::string foreign = make({{"one",
                                     {{"etc/kept", "1"},
                                      {"etc/gone", "1"},
                                      {"dir/old", "1"},
                                      {"lib", "a file"},
                                      {"dir/sub/old", "1"}},
                                     ""},
                                    {"two",
                                     {{"etc/.wh.gone", ""},
                                      {"dir/.wh..wh..opq", ""},
                                      {"dir/new", "2"},
                                      {"lib/libc.so", "2"},
                                      {"etc/kept", "2"}},
                                     ""}},
                                   "foreign");
  auto made = tree_of(foreign, "a");
  REQUIRE_MESSAGE(made, made.error().Text());
  CHECK(FilesBelow(scratch / "a/fs") == std::map<std::string, std::string>{{"dir/new", "2"},
                                                                           {"etc/kept", "2"},
                                                                           {"lib/libc.so", "2"}});
  // Of an image of ours only the system.
  REQUIRE(tree_of(make(SmallImage(), "ours"), "b"));
  CHECK(FilesBelow(scratch / "b/fs").size() == 2);
  // No path of an upper layer leads through a lower one's symlink.
  const fs::path outside = scratch / "outside";
  REQUIRE(MakeDirectories(outside));
  REQUIRE(MakeDirectories(scratch / "c/fs"));
  fs::create_symlink(outside, scratch / "c/fs/etc");
  REQUIRE(tree_of(foreign, "c"));
  CHECK(fs::is_empty(outside));

  CHECK(TextOf(ParseBase("oci:foreign", scratch.path())) ==
        "error: base = \"oci:foreign\" names no digest: builds would not know it again\n  What is "
        "there now:  base = \"" +
            foreign + "\"\n");
  CHECK(TextOf(tree_of("oci:foreign@sha256:" + std::string(64, '0'), "d")) ==
        "error: the base's blob sha256:" + std::string(64, '0') + " is missing\n");

  World world;
  world.project.environment.base = foreign;
  world.project.root = scratch.path();
  const ImagePlan plan = world.Plan();
  CHECK(plan.layers[0].what == "base");
  CHECK(plan.layers[0].debs.empty());
  world.project.environment.base.replace(4, 7, "another");  // elsewhere, the same artefact
  CHECK(world.Plan().layers[0].key == plan.layers[0].key);
}

TEST_CASE("what is no base is refused, in these words") {
  Scratch scratch;
  QuietTerminal quiet;
  const fs::path layout = scratch / "layout", blobs = layout / "blobs/sha256";
  const auto said = [&](const std::string& manifest) {
    REQUIRE(WriteFileAtomic(blobs / Sha256Of(manifest), manifest));
    return TextOf(MakeBaseTree("oci:layout@sha256:" + Sha256Of(manifest), scratch.path(), 0,
                               scratch / "work", scratch / "fs", quiet.terminal));
  };
  CHECK(TextOf(MakeBaseTree("debian:trixie", scratch.path(), 0, scratch / "work", scratch / "fs",
                            quiet.terminal)) ==
        "error: base = \"debian:trixie\" is no OCI image\n");
  CHECK(said("[]") == "error: the base's blob sha256:" + Sha256Of("[]") + " is not JSON\n");
  CHECK(said("{\"a\": \"" + std::string(16 << 20, 'a') + "\"}") ==
        "error: the base's manifest is too large\n");
  CHECK(said("{}") == "error: the base has no layers\n");
  CHECK(said("{\"layers\": 7}") == "error: the base has no layers\n");
  CHECK(said(R"({"layers": [{"digest": "md5:0"}]})") ==
        "error: a descriptor of the base has no sha256 digest\n");
  CHECK(said(R"({"manifests": [1, {"digest": "sha256:0", "platform": {"os": "plan9"}}]})") ==
        "error: the base has no image for linux/" + DebianArchitecture(HostArchitecture()) + "\n");
}

TEST_CASE("names of images in registries") {
  const auto text = [](std::string_view given) {
    const auto parsed = ParseReference(given);
    return parsed ? parsed->Text() + (parsed->loopback ? " loopback" : "") : "no";
  };
  const std::string digest(64, 'a');
  CHECK(text("registry.example/team/mnist") == "registry.example/team/mnist");
  CHECK(text("docker://localhost:5000/mnist:train-cpu") ==
        "localhost:5000/mnist:train-cpu loopback");
  CHECK(text("127.0.0.1:5000/m@sha256:" + digest) ==
        "127.0.0.1:5000/m@sha256:" + digest + " loopback");
  CHECK(text("r.example/m:tag@sha256:" + digest) == "r.example/m@sha256:" + digest);
  for (const char* wrong :
       {"", "mnist", "/mnist", "r.example/", "r.example/m:", "r.example/m@sha256:12", "-o/m",
        "r.example/-m", "r.example/m n", "r.example/m:a;b"}) {
    CAPTURE(wrong);
    CHECK(text(wrong) == "no");
  }
  CHECK(TextOf(ParseReference("mnist")) ==
        "error: \"mnist\" names no image in a registry\n  It looks like "
        "registry.example/team/mnist:train-cpu, or ends in @sha256:…\n");
}

}  // namespace envkit

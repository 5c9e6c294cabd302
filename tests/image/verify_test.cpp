#include "image/verify_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "image/record.h"
#include "image/sbom.h"
#include "image/stored.h"
#include "image/wheel_papers.h"
#include "image/world.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSite = "usr/local/lib/python3.13/dist-packages";
constexpr const char* kLibraryHash = "uGpHyz3bQC4rtXBY4tjMZL5gKS4Cp_Fpm5V3Zz5xIpM";  // of "cpu\n"

Terminal& Quiet() {
  static Terminal terminal([] {
    Terminal::Options options;
    options.verbosity = Verbosity::kQuiet;
    return options;
  }());
  return terminal;
}

// An image that is in the store, made of wheels with RECORDs and a Debian system of one package.
struct Built {
  World world;
  ImagePlan plan;
  Image image;

  Built() {
    const std::string content = "cpu\n";
    const std::string hash = Base64(Sha256Of(content));
    const std::string metadata =
        "Metadata-Version: 2.4\nName: torch\nLicense-Expression: BSD-3-Clause\n\nText\n";
    world.AddWheel("torch", 500'000'000,
                   {{"torch/lib/libtorch_cpu.so", content},
                    {"torch/lib/libtorch_cuda.so", "cuda"},
                    {"torch/include/torch.h", "// torch\n"},
                    {"torch-1.0.dist-info/METADATA", metadata},
                    {"torch-1.0.dist-info/RECORD",
                     "torch/lib/libtorch_cpu.so,sha256=" + hash + ",4\n" +
                         Line("torch/lib/libtorch_cuda.so", "cuda") +
                         Line("torch/include/torch.h", "// torch\n") +
                         Line("torch-1.0.dist-info/METADATA", metadata) +
                         "\"a,b\",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"
                         "torch-1.0.dist-info/RECORD,,\n"}});
    world.AddWheel(
        "nvidia-cuda-runtime", 2'000'000,
        {{"nvidia/cu13/lib/libcudart.so.13", "cudart"},
         {"nvidia_cuda_runtime-1.0.dist-info/RECORD",
          "nvidia/cu13/lib/libcudart.so.13,sha256=" + Base64(Sha256Of("cudart")) + ",6\n"}});
    plan = world.Plan();
    ProvideDebian();
    image = Build();
  }

  Image Build() {
    const RunInRoot compile = [](const BuildSandbox& sandbox) -> Result<BuildSandboxResult> {
      for (const auto& bind : sandbox.binds) {
        if (bind.container == "/out") WriteFiles(bind.host, {{"opt/envkit/bin/envkit-train", "x"}});
      }
      return BuildSandboxResult{0, ""};
    };
    auto built = BuildImage(world.project, world.lock, world.recipes, "train", "cpu", world.store,
                            compile, Quiet());
    REQUIRE_MESSAGE(built, built.error().Text());
    return *built;
  }

  void ProvideDebian() const {
    const LayerPlan& os = *FindKind(plan, "os");
    const fs::path directory = world.scratch / "os";
    WriteFiles(
        directory / "fs",
        {{"usr/lib/libc.so.6", "libc"},
         {"etc/libc.conf", "conf"},
         {"var/lib/dpkg/status",
          "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n"
          "Version: 2.41-12\nConffiles:\n /etc/libc.conf 7e9d9e0b36a4ff1d3b9ae5a3f3fd6b0c\n"
          " /etc/old d41d8cd98f00b204e9800998ecf8427e obsolete\n\n"
          "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"},
         {"var/lib/dpkg/info/libc6:amd64.list", "/.\n/usr/lib/libc.so.6\n"},
         {"var/lib/dpkg/info/libc6:amd64.md5sums", Md5OfText("libc") + "  usr/lib/libc.so.6\n"}});
    std::string status = ReadFile(directory / "fs/var/lib/dpkg/status").value();
    status.replace(status.find("7e9d9e0b36a4ff1d3b9ae5a3f3fd6b0c"), 32, Md5OfText("conf"));
    WriteFiles(directory / "fs/var/lib/dpkg", {{"status", status}});
    auto layer = FinishTree(directory / "fs", os.mtime, Modes::kKeep);
    REQUIRE(layer);
    REQUIRE(PublishLayer(world.store, os, directory, *layer));
    WriteFiles(world.store.data / "roots" / PlanBuilder(plan).root_key / "fs",
               {{"usr/bin/g++", "g++"}});
  }

  std::string Md5OfText(const std::string& text) const {
    WriteFiles(world.scratch / "md5", {{"x", text}});
    return Md5OfFile(world.scratch / "md5/x").value();
  }

  static std::string Line(const std::string& path, const std::string& content) {
    return path + ",sha256=" + Base64(Sha256Of(content)) + "," + std::to_string(content.size()) +
           "\n";
  }

  static std::string Base64(const std::string& hex) {
    constexpr const char* kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    std::string text;
    unsigned value = 0, bits = 0;
    for (std::size_t at = 0; at < hex.size(); at += 2) {
      value = (value << 8 | static_cast<unsigned>(std::stoul(hex.substr(at, 2), nullptr, 16))) &
              0xffffff;
      for (bits += 8; bits >= 6; bits -= 6) text += kAlphabet[value >> (bits - 6) & 63];
    }
    if (bits > 0) text += kAlphabet[value << (6 - bits) & 63];
    return text;
  }

  fs::path InTorch(const std::string& path) const {
    return image.layers[1].tree / kSite / "torch" / path;
  }
  StoreCheck Look(bool quick = false) const { return CheckStore(image, quick, Quiet()); }
  std::vector<Check> LookAtLock(const StoreCheck& store, bool quick = false) const {
    return CheckLock(image, plan, world.lock, world.store, store, quick);
  }
};

Check Find(const std::vector<Check>& checks, const std::string& id) {
  const auto found =
      std::find_if(checks.begin(), checks.end(), [&](const Check& one) { return one.id == id; });
  REQUIRE_MESSAGE(found != checks.end(), id);
  return *found;
}

std::string Text(const Check& check) {
  std::string text = check.what;
  for (const std::string& line : check.evidence) text += "\n" + line;
  return text;
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an untouched image passes, with and without hashing") {
  const Built built;
  const StoreCheck store = built.Look();
  REQUIRE(store.checks.size() == 1);
  CHECK(store.checks[0].verdict == Verdict::kPass);
  CHECK(store.damaged.empty());
  CHECK(store.scans.size() == built.image.layers.size());
  for (const Check& check : built.LookAtLock(store)) {
    CAPTURE(Text(check));
    CHECK(check.verdict == (check.id == "lock.built" ? Verdict::kSkipped : Verdict::kPass));
  }
  const StoreCheck quick = built.Look(true);
  CHECK(quick.checks[0].verdict == Verdict::kPass);
  CHECK(Contains(quick.checks[0].what, "not hashed"));
  CHECK(Find(built.LookAtLock(quick, true), "lock.wheels").verdict == Verdict::kSkipped);
}

TEST_CASE("what differs in a layer is named, with the package that it belongs to") {
  Built built;
  struct Case {
    const char* what;
    std::function<void()> damage;
    std::string said;
  };
  const fs::path library = built.InTorch("lib/libtorch_cpu.so");
  const std::vector<Case> cases = {
      {"a flipped byte", [&] { std::ofstream(library) << "cpU\n"; },
       "libtorch_cpu.so (torch-1.0-py3-none-any.whl): other content: sha256 "},
      {"another length", [&] { std::ofstream(library) << "cpu, and more\n"; },
       "has 14 bytes instead of 4; other content"},
      {"another mode", [&] { chmod(library.c_str(), 0777); }, "mode 0777 instead of 0755"},
      {"missing", [&] { fs::remove(library); },
       "libtorch_cpu.so (torch-1.0-py3-none-any.whl): is missing"},
      {"one more file", [&] { std::ofstream(built.InTorch("lib/evil.so")) << "x"; },
       "/torch/lib/evil.so: does not belong there (a file)"},
      {"a symlink instead",
       [&] {
         fs::remove(library);
         fs::create_symlink("/elsewhere", library);
       },
       "is a symlink instead of a file"}};
  for (const Case& one : cases) {
    CAPTURE(one.what);
    const fs::path saved = built.world.scratch / "saved";
    fs::copy(built.image.layers[1].tree, saved, fs::copy_options::recursive);
    one.damage();
    const StoreCheck store = built.Look();
    REQUIRE(store.damaged.size() == 1);
    CHECK(store.damaged[0]->what == "torch");
    const Check check = Find(store.checks, "store.layer.torch");
    CHECK(check.verdict == Verdict::kFail);
    CAPTURE(Text(check));
    CHECK(Contains(Text(check), one.said));
    CHECK(Contains(check.next, "rm -rf " + built.image.layers[1].tree.parent_path().string()));
    // The others are sound, and that is said.
    CHECK(Contains(Find(store.checks, "store.layers").what, "4 layers"));
    REQUIRE(RemoveTree(built.image.layers[1].tree));
    fs::copy(saved, built.image.layers[1].tree, fs::copy_options::recursive);
    REQUIRE(RemoveTree(saved));
    REQUIRE(built.Look().damaged.empty());
  }
}

TEST_CASE("a layer without its list is still found, and noted once it is sound") {
  Built built;
  const fs::path list = built.image.layers[1].tree.parent_path() / kManifestName;
  const std::string text = ReadFile(list).value();
  fs::remove(list);
  CHECK(built.Look().damaged.empty());
  CHECK(ReadFile(list).value() == text);
  fs::remove(list);
  std::ofstream(built.InTorch("lib/libtorch_cpu.so")) << "cpU\n";
  const StoreCheck store = built.Look();
  CHECK(
      Contains(Text(Find(store.checks, "store.layer.torch")), "has no list of this layer's files"));
  CHECK(!fs::exists(list));
}

TEST_CASE("the hash of a file is that of the build, whatever the tree holds now") {
  Built built;
  const std::string path = std::string("/") + kSite + "/torch/lib/libtorch_cpu.so";
  std::ofstream(built.InTorch("lib/libtorch_cpu.so")) << "cpU\n";
  CHECK(ImageFiles(built.image).HashOf(path) == Sha256Of("cpu\n"));
  CHECK(ImageFiles(built.image).HashOf("/nothing").empty());
  // The recipe's file, not Debian's below it.
  CHECK(ImageFiles(built.image).HashOf("/etc/hosts") == Sha256Of("127.0.0.1 localhost\n"));
  fs::remove(built.image.layers[1].tree.parent_path() / kManifestName);
  CHECK(ImageFiles(built.image).HashOf(path) == Sha256Of("cpU\n"));
}

TEST_CASE("removing the damaged layers is what a build needs to make them anew") {
  Built built;
  std::ofstream(built.InTorch("lib/libtorch_cpu.so")) << "cpU\n";
  REQUIRE(RemoveDamaged(built.Look(), built.world.store));
  CHECK(!fs::exists(built.image.layers[1].tree));
  CHECK(Contains(Text(Find(built.Look().checks, "store.layer.torch")), "is missing"));
  CHECK(built.Build().config_digest == built.image.config_digest);
  CHECK(built.Look().damaged.empty());
  CHECK(fs::is_empty(built.world.store.Temp()));
}

TEST_CASE("a damaged record of an image is no image, and a build writes it anew") {
  Built built;
  const fs::path file = built.world.store.data / "images" / (built.image.config_digest + ".json");
  const std::string text = ReadFile(file).value();
  CHECK(TextOf(LoadImageRecord(built.world.store, std::string(64, '0'))) ==
        "error: the store has no image " + std::string(64, '0') + "\n  envkit build\n");
  nlohmann::json changed = nlohmann::json::parse(text);
  std::vector<std::string> damages = {text.substr(0, text.size() / 2), "{}"};
  changed["config"] = changed["config"].get<std::string>() + " ";
  damages.push_back(changed.dump());
  changed = nlohmann::json::parse(text);
  std::swap(changed["layers"][0], changed["layers"][1]);
  damages.push_back(changed.dump());
  for (const std::string& damage : damages) {
    WriteFiles(file.parent_path(), {{file.filename().string(), damage}});
    const auto record = LoadImageRecord(built.world.store, built.image.config_digest);
    REQUIRE(!record);
    CHECK(Contains(record.error().what, " is damaged: "));
    CHECK(record.error().next == "A build writes it anew:  envkit build");
    CHECK(!FindImage(built.plan, built.world.store).value());
    CHECK(built.Build().config_digest == built.image.config_digest);
    CHECK(ReadFile(file).value() == text);
  }
  CHECK(BuiltDigest(built.plan, built.world.store) == built.image.config_digest);
}

TEST_CASE("a file that is not what RECORD says is named") {
  // As if the layer had been made from other bytes than the wheel's RECORD promises, which a build
  // refuses.
  const Built built;
  const fs::path record =
      built.image.layers[1].tree.parent_path() / "wheels/torch-1.0-py3-none-any.whl" / "RECORD";
  std::string text = ReadFile(record).value();
  const std::string honest = Built::Base64(Sha256Of("cpu\n"));
  REQUIRE(text.find(honest) != std::string::npos);
  REQUIRE(WriteFileAtomic(record, text.replace(text.find(honest), honest.size(), kLibraryHash)));
  const StoreCheck store = built.Look();
  CHECK(store.damaged.empty());
  const Check check = Find(built.LookAtLock(store), "lock.wheels");
  CHECK(check.verdict == Verdict::kFail);
  CHECK(Contains(Text(check), "/torch/lib/libtorch_cpu.so (torch-1.0-py3-none-any.whl): sha256 " +
                                  Sha256Of("cpu\n") + " instead of RECORD's b86a47cb3d"));
}

TEST_CASE("without the kept RECORD the download serves, and without that nothing is claimed") {
  Built built;
  REQUIRE(RemoveTree(built.image.layers[1].tree.parent_path() / "wheels"));
  const StoreCheck store = built.Look();
  CHECK(Find(built.LookAtLock(store), "lock.wheels").verdict == Verdict::kPass);
  const auto wheel = std::find_if(built.world.lock.wheels.begin(), built.world.lock.wheels.end(),
                                  [](const LockedWheel& one) { return one.name == "torch"; });
  const fs::path file = built.world.store.DownloadPath(wheel->sha256, wheel->file);
  std::ofstream(file, std::ios::app) << "x";
  CHECK(Contains(Text(Find(built.LookAtLock(store), "lock.wheels")), "is damaged: sha256 "));
  fs::remove(file);
  const Check check = Find(built.LookAtLock(store), "lock.wheels");
  CHECK(check.verdict == Verdict::kSkipped);
  CHECK(Contains(Text(check), "neither the layer nor the downloads have torch-1.0"));
}

TEST_CASE("packages, versions and files of Debian against the lock") {
  Built built;
  const fs::path tree = built.image.layers[0].tree;
  auto debs = FindKind(built.plan, "os")->debs;
  auto look = [&] {
    return Text(CheckDebs(built.image.layers[0], debs, built.world.store, false));
  };
  CHECK(Contains(look(), "1 packages, 2 files by their MD5 lists"));
  std::ofstream(tree / "usr/lib/libc.so.6") << "liBc";
  CHECK(Contains(look(), "/usr/lib/libc.so.6 (libc6): md5 "));
  fs::remove(tree / "usr/lib/libc.so.6");
  CHECK(Contains(look(), "/usr/lib/libc.so.6 (libc6): is missing"));
  std::ofstream(tree / "etc/libc.conf") << "other";
  CHECK(Contains(look(), "/etc/libc.conf (libc6): md5 "));
  debs[0].version = "2.42-1";
  CHECK(Contains(look(), "libc6 2.41-12 amd64 is installed instead of 2.42-1 amd64"));
  debs[0].name = "libc7";
  CHECK(Contains(look(),
                 "libc7 2.42-1 is not installed\nlibc6 2.41-12 is installed and not in the "
                 "lock"));
}

TEST_CASE("an image of another lock, and one that the lock has on record") {
  Built built;
  const StoreCheck store = built.Look();
  built.world.lock.built = {
      {"train", "cpu", "amd64", built.image.config_digest, {built.image.layers[0].diff_id}}};
  CHECK(Find(built.LookAtLock(store), "lock.built").verdict == Verdict::kPass);
  built.world.lock.built[0].config_digest = std::string(64, '1');
  const Check recorded = Find(built.LookAtLock(store), "lock.built");
  CHECK(recorded.verdict == Verdict::kFail);
  CHECK(Contains(Text(recorded),
                 "layer torch: " + built.image.layers[1].diff_id + " instead of none"));
  built.image.lock_digest = std::string(64, '2');
  built.image.packages[0].version = "9";
  const Check packages = Find(built.LookAtLock(store), "lock.packages");
  CHECK(packages.verdict == Verdict::kFail);
  CHECK(Contains(Text(packages), "its lock has digest 2222"));
  CHECK(Contains(Text(packages), "only in the lock: libc6 2.41-12 sha256 "));
}

TEST_CASE("lists of files survive the round trip, and damaged ones are refused") {
  const std::vector<TreeEntry> entries = {{"a b%\n\tc", 'f', 04755, 12, std::string(64, 'a'), ""},
                                          {"d", 'd', 0755, 0, "", ""},
                                          {"l", 'l', 0777, 0, "", "../x y"}};
  std::string text;
  for (const TreeEntry& entry : entries) text += ManifestLine(entry);
  CHECK(ParseManifest(text).value() == entries);
  for (const char* bad :
       {"f 0755 1 -", "f 0755 1 - x", "f 08 1 - x\n", "f 0755 one - x\n", "x\n"}) {
    CAPTURE(bad);
    CHECK(TextOf(ParseManifest(bad)) == "error: the list of a layer's files is damaged\n");
  }
}

TEST_CASE("a licence counts only as an SPDX expression") {
  CHECK(LicenceOf("Name: x\nLicense-Expression: MIT\n\nLicense-Expression: no\n") == "MIT");
  CHECK(LicenceOf("Name: x\nLicense: free text\n").empty());
}

TEST_CASE("bills of materials name what is in the image and nothing of the builder") {
  const Built built;
  const Bill bill = MakeBill(built.image, built.plan, built.world.lock, built.world.store, "0.1.0");
  REQUIRE(bill.items.size() == 3);
  CHECK(bill.items[0].Purl() == "pkg:deb/debian/libc6@2.41-12?arch=amd64");
  CHECK(bill.items[2].Purl() == "pkg:pypi/torch@1.0?file_name=torch-1.0-py3-none-any.whl");
  CHECK(bill.items[2].licence == "BSD-3-Clause");
  CHECK(bill.items[1].licence.empty());
  const auto spdx = SpdxOf(bill);
  CHECK(spdx["packages"].size() == 5);
  CHECK(spdx["creationInfo"]["created"] == "2023-11-14T22:13:20Z");
  CHECK(spdx["packages"][4]["licenseDeclared"] == "BSD-3-Clause");
  CHECK(spdx["packages"][3]["licenseDeclared"] == "NOASSERTION");
  CHECK(spdx.dump().find("g++") == std::string::npos);
  CHECK(!spdx.contains("hasExtractedLicensingInfos"));
  Bill own = bill;
  own.items[1].licence = "(LicenseRef-Own OR MIT)";
  CHECK(SpdxOf(own)["hasExtractedLicensingInfos"][0]["licenseId"] == "LicenseRef-Own");
  const auto cyclone = CycloneDxOf(bill);
  CHECK(cyclone["components"].size() == 4);
  CHECK(cyclone["components"][3]["hashes"][0]["content"] == bill.items[2].sha256);
  // The same image, the same bytes.
  const Bill again =
      MakeBill(built.image, built.plan, built.world.lock, built.world.store, "0.1.0");
  CHECK(SpdxOf(again).dump() == spdx.dump());
  CHECK(CycloneDxOf(again).dump() == cyclone.dump());
}

TEST_CASE("a statement of provenance is held against the image and the lock") {
  const Built built;
  const Bill bill = MakeBill(built.image, built.plan, built.world.lock, built.world.store, "0.1.0");
  nlohmann::json statement = nlohmann::json::parse(ProvenanceOf(bill).dump());
  CHECK(ProvenanceDifferences(statement, bill).empty());
  CHECK(statement["subject"][0]["digest"]["sha256"] == built.image.config_digest);
  const nlohmann::json::json_pointer materials("/predicate/buildDefinition/resolvedDependencies");
  CHECK(statement.at(materials).size() == 5);  // lock, libc6, g++, two wheels
  statement.at(materials)[1]["digest"]["sha256"] = std::string(64, '0');
  const auto wrong = ProvenanceDifferences(statement, bill);
  REQUIRE(wrong.size() == 2);
  CHECK(wrong[0].starts_with("it does not name "));
  CHECK(wrong[1].find(", which the lock has not") != std::string::npos);
  statement["subject"][0]["digest"]["sha256"] = std::string(64, '0');
  CHECK(ProvenanceDifferences(statement, bill)[0] ==
        "its subject is not mnist:train-cpu, sha256:" + built.image.config_digest);
  CHECK(ProvenanceDifferences({}, bill)[0] ==
        "it is no in-toto statement with a SLSA 1 provenance");
}

}  // namespace envkit

#include "image/plan.h"

#include "image/system_tree.h"
#include "image/world.h"

namespace envkit {
namespace {

std::string Whats(const ImagePlan& plan) {
  std::string whats;
  for (const LayerPlan& layer : plan.layers) whats += layer.what + " ";
  return whats;
}

}  // namespace

TEST_CASE("layers come in the order of how rarely they change") {
  World world;
  const ImagePlan plan = world.Plan("cuda");
  CHECK(Whats(plan) == "debian torch libraries recipe runtime ");
  CHECK(plan.lock_digest == world.lock.Digest());
  CHECK(plan.source_date_epoch == 1'700'000'000);
  CHECK(plan.layers[0].debs.size() == 1);  // g++ is the builder's alone
  CHECK(plan.layers[1].members[0] ==
        std::vector<std::string>{"torch/lib/libtorch_cpu.so", "torch/lib/libtorch_cuda.so"});
  CHECK(plan.layers[2].wheels[0].name == "nvidia-cuda-runtime");
  CHECK(plan.layers[4].debs.size() == 2);
  CHECK(world.Plan("cpu").layers[1].members[0] ==
        std::vector<std::string>{"torch/lib/libtorch_cpu.so"});
}

TEST_CASE("many small wheels share a few layers, by their names") {
  World world;
  std::map<std::string, std::string> layer_of;
  for (const int version : {1, 2}) {
    for (int number = 0; number < 40; ++number) {
      const std::string name = "wheel-" + std::to_string(number);
      world.lock.wheels.push_back({name, std::to_string(version), name + ".whl",
                                   Sha256Of(name + std::to_string(version)), 1000});
      if (version == 1) world.recipes["train"].wheels.push_back({name, "both", {}});
    }
    const ImagePlan plan = world.Plan();
    CHECK(plan.layers.size() == 2 + 8 + 2);
    for (const LayerPlan& layer : plan.layers) {
      if (layer.kind != "wheel") continue;
      for (const LockedWheel& wheel : layer.wheels) {
        const auto [there, added] = layer_of.emplace(wheel.name, layer.what);
        CHECK(there->second == layer.what);
        if (version == 2) CHECK(!added);
      }
    }
    std::erase_if(world.lock.wheels,
                  [](const LockedWheel& wheel) { return wheel.name.starts_with("wheel-"); });
  }
}

TEST_CASE("a new version of a small wheel changes its layer and that layer's bytecode alone") {
  World world;
  Recipe& recipe = world.recipes["train"];
  recipe.closure = true;
  recipe.chain = {"train"};
  WriteFiles(world.share / "images/scripts", {{kBytecodeScript, "# compiles\n"}});
  const auto add = [&](const std::string& name, std::uint64_t size) {
    LockedWheel wheel{name, "1", name + ".whl", Sha256Of(name), size};
    wheel.roots = {"train"};
    world.lock.wheels.push_back(wheel);
  };
  for (int number = 0; number < 40; ++number) add("wheel-" + std::to_string(number), 1000);
  for (LockedWheel& wheel : world.lock.wheels) wheel.roots = {"train"};
  add("triton", 200'000'000);
  add("cublas", 400'000'000);
  const auto keys = [&] {
    const ImagePlan plan = world.Plan("cuda");
    std::map<std::string, std::string> keys;
    for (const LayerPlan& layer : plan.layers) keys[layer.what] = layer.key;
    return keys;
  };
  const auto before = keys();
  CHECK(before.contains("torch-bytecode"));
  CHECK(before.contains("train-bytecode"));  // of cublas and triton
  for (LockedWheel& wheel : world.lock.wheels) {
    if (wheel.name == "wheel-7") wheel.sha256 = Sha256Of("wheel-7 2");
  }
  std::string changed;
  const auto after = keys();
  REQUIRE(after.size() == before.size());
  for (const auto& [what, key] : after) {
    if (before.at(what) != key) changed += what + " ";
  }
  CHECK(changed == "train-libraries-3 train-libraries-3-bytecode ");
}

TEST_CASE("a key changes with what shapes its layer and with nothing else") {
  World world;
  const ImagePlan before = world.Plan();
  const auto changed = [&] {
    const ImagePlan after = world.Plan();
    std::string whats;
    for (std::size_t index = 0; index < after.layers.size(); ++index) {
      if (after.layers[index].key != before.layers[index].key)
        whats += after.layers[index].what + " ";
    }
    return whats;
  };
  CHECK(changed() == "");
  CHECK(PlanKey(world.Plan()) == PlanKey(before));
  world.project.name = "other";
  CHECK(changed() == "");
  CHECK(PlanKey(world.Plan()) != PlanKey(before));
  world.project.name = "mnist";

  world.lock.debs[0].sha256 = std::string(64, 'c');
  CHECK(changed() == "debian runtime ");
  world.lock.debs[0].sha256 = std::string(64, 'a');
  world.lock.debs[1].sha256 = std::string(64, 'c');
  CHECK(changed() == "runtime ");
  world.lock.debs[1].sha256 = std::string(64, 'b');

  world.lock.source_date_epoch += 1;
  CHECK(changed() == "debian recipe runtime ");  // wheel layers are shared between locks
  world.lock.source_date_epoch -= 1;

  WriteFiles(world.share / "runtime", {{"src/new.cpp", "int x;\n"}});
  CHECK(changed() == "runtime ");
  REQUIRE(RemoveTree(world.share / "runtime/src"));
  WriteFiles(world.share / "runtime", {{".hidden", "editor's\n"}});
  CHECK(changed() == "");
  WriteFiles(world.share / "toolkit", {{"launch/main.cpp", "// changed\n"}});
  CHECK(changed() == "runtime ");
  WriteFiles(world.share / "toolkit", {{"launch/main.cpp", "// main\n"}});
  WriteFiles(world.share / "images/rootfs", {{"etc/hosts", "changed\n"}});
  CHECK(changed() == "recipe ");
  WriteFiles(world.share / "images/rootfs", {{"etc/hosts", "127.0.0.1 localhost\n"}});

  world.AddWheel("torch", 500'000'000, {{"torch/lib/libtorch_cpu.so", "new"}});
  CHECK(changed() == "torch runtime ");
}

TEST_CASE("what an architecture alone needs, and the names of its packages") {
  World world;
  world.recipes["train"].wheels.push_back({"torch", "aarch64", {"torch/lib/libarm*.so"}});
  CHECK(world.Plan("cpu").architecture == "amd64");
  CHECK(world.Plan("cpu").layers[1].members[0] ==
        std::vector<std::string>{"torch/lib/libtorch_cpu.so"});
  world.project.architecture = world.lock.inputs.architecture = "aarch64";
  CHECK(world.Plan("cpu").architecture == "arm64");
  CHECK(world.Plan("cpu").layers[1].members[0] ==
        std::vector<std::string>{"torch/lib/libarm*.so", "torch/lib/libtorch_cpu.so"});
}

TEST_CASE("the wheels' CUDA compiler is where build systems look for one") {
  World world;
  world.recipes["dev"] = world.recipes["train"];
  world.recipes["dev"].profile = "dev";
  for (LockedDeb& deb : world.lock.debs) deb.roots.push_back("dev");
  world.project.environment.cuda_compiler = true;
  world.lock.cuda = "13.2";
  const auto plan = [&](const std::string& profile, const std::string& variant) {
    auto made = PlanImage(world.project, world.lock, world.recipes, profile, variant);
    REQUIRE_MESSAGE(made.has_value(), (made ? "" : made.error().Text()));
    return *made;
  };
  const ImagePlan dev = plan("dev", "cuda");
  const auto& files = FindKind(dev, "recipe")->files;
  const std::string home = "usr/local/lib/python3.13/dist-packages/nvidia/cu13";
  CHECK(files.at("usr/local/cuda@") == "/" + home);
  CHECK(files.at(home + "/lib/libcudart.so@") == "libcudart.so.13");
  CHECK(dev.env.at("CUDA_HOME") == "/usr/local/cuda");
  for (const auto& [profile, variant] : {std::pair{"train", "cuda"}, std::pair{"dev", "cpu"}}) {
    CHECK_FALSE(plan(profile, variant).env.contains("CUDA_HOME"));
  }
  world.lock.cuda = "12.8";  // its wheels have a directory each
  for (LockedWheel& wheel : world.lock.wheels) {
    if (wheel.name.starts_with("nvidia-")) wheel.name += "-cu12";
  }
  CHECK_FALSE(plan("dev", "cuda").env.contains("CUDA_HOME"));
}

TEST_CASE("the builder has what the image's layers lack") {
  World world;
  const BuilderPlan builder = PlanBuilder(world.Plan());
  const auto content = OpenWheels(builder.torch, world.store, builder.except);
  REQUIRE_MESSAGE(content, content.error().Text());
  REQUIRE(content->files.size() == 1);
  CHECK(content->files[0].entry.name == "torch/include/torch.h");
  CHECK(PlanBuilder(world.Plan("cuda")).torch.key != builder.torch.key);
  CHECK(PlanBuilder(world.Plan("cuda")).root_key == builder.root_key);
}

TEST_CASE("what cannot be planned") {
  World world;
  const auto text = [&](const std::string& profile, const std::string& variant) {
    return TextOf(PlanImage(world.project, world.lock, world.recipes, profile, variant));
  };
  CHECK(text("python", "cpu") ==
        "error: there is no image profile \"python\"\n  This envkit has train.\n");
  CHECK(text("builder", "cpu") ==
        "error: there is no image profile \"builder\"\n  This envkit has train.\n");
  CHECK(text("train", "gpu") == "error: there is no image variant \"gpu\"\n  It is cpu or cuda.\n");
  world.recipes["train"].wheels.push_back({"nvidia-cudnn-cu13", "cuda", {}});
  CHECK(text("train", "cpu") == "no error");
  CHECK(text("train", "cuda") ==
        "error: the train image needs the wheel nvidia-cudnn-cu13, and envkit.lock has none\n"
        "  envkit lock\n");
  // A wheel that not every torch asks for, and the names of an older CUDA.
  world.recipes["train"].wheels.back().if_locked = true;
  CHECK(text("train", "cuda") == "no error");
  world.recipes["train"].wheels.back().if_locked = false;
  world.lock.cuda = "12.8";
  CHECK(
      text("train", "cuda") ==
      "error: the train image needs the wheel nvidia-cuda-runtime-cu12, and envkit.lock has none\n"
      "  envkit lock\n");
  world.lock.cuda = "13.2";
  world.lock.inputs.cuda = "cpu";
  CHECK(text("train", "cuda") ==
        "error: the project is for CPUs alone: envkit.toml has cuda = \"cpu\"\n"
        "  Set cuda = \"auto\" in [environment], then envkit lock.\n");
  world.recipes["train"].closure = true;
  CHECK(text("train", "cpu") ==
        "error: envkit.lock does not say which wheels the train image needs\n"
        "  It was made by an older envkit. Make it anew: envkit lock\n");
  world.recipes["train"].closure = false;
  world.lock.debs.clear();
  CHECK(text("train", "cpu") ==
        "error: envkit.lock has no Debian packages for the train image\n  envkit lock\n");
  world.recipes.erase("builder");
  CHECK(text("train", "cpu") ==
        "error: the recipe images/profiles/builder.toml is missing\n"
        "  This envkit is not completely installed.\n");
}

TEST_CASE("nothing of the host and no trace of the installation gets into a system") {
  for (const char* path :
       {"etc/ssh/ssh_host_ed25519_key", "etc/resolv.conf", "etc/hostname", "etc/machine-id",
        "etc/apt/sources.list", "etc/apt/sources.list.d/main.sources", "var/log/dpkg.log",
        "var/log/apt/history.log", "var/cache/apt/archives/lock", "var/lib/apt/lists/lock",
        "var/lib/dpkg/status-old", "dev/null", "etc/passwd-", "tmp/x", "run/lock/x"}) {
    CAPTURE(path);
    CHECK(!BelongsInSystemTree(path));
  }
  for (const char* path :
       {"etc/passwd", "etc/ssh/sshd_config", "var/log", "var/cache", "var/lib/dpkg/status", "dev",
        "tmp", "etc/apt/apt.conf.d/01autoremove", "usr/share/doc/libc6/copyright"}) {
    CAPTURE(path);
    CHECK(BelongsInSystemTree(path));
  }
}

}  // namespace envkit

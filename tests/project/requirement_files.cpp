#include "project/requirement_files.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <random>

#include "base/digest.h"
#include "base/files.h"
#include "base/scratch.h"
#include "project/project.h"

using namespace envkit;
using Texts = std::vector<std::string>;

namespace {

class Files {
 public:
  void Write(const std::string& name, const std::string& text) {
    REQUIRE(WriteFileAtomic(scratch / name, text));
  }
  RequirementFile Read(const std::string& text) {
    const auto entry = ParseRequirementEntry(text);
    REQUIRE_MESSAGE(entry, entry.error().Text());
    auto file = ReadRequirementFile(scratch.path(), *entry);
    REQUIRE_MESSAGE(file, file.error().Text());
    return *file;
  }
  std::string Failure(const std::string& text) {
    const auto entry = ParseRequirementEntry(text);
    REQUIRE_MESSAGE(entry, entry.error().Text());
    const auto file = ReadRequirementFile(scratch.path(), *entry);
    REQUIRE_FALSE(file);
    CHECK(file.error().code == ExitCode::kUsage);
    return file.error().Text();
  }
  Scratch scratch;
};

Texts Names(const RequirementFile& file) {
  Texts names;
  for (const auto& [name, requirement] : file.asks) names.push_back(name);
  return names;
}

const std::string kWheelHint =
    "  Make a wheel of it once (pip wheel --no-deps), and name that in [environment] packages:\n"
    "  packages = [\"./wheels/NAME-….whl\"]\n";

}  // namespace

TEST_CASE("the kinds of requirement files, and what is none") {
  CHECK(ParseRequirementEntry("requirements.txt")->kind == RequirementEntry::Kind::kRequirements);
  CHECK(ParseRequirementEntry("reqs/base.in")->path == "reqs/base.in");
  const auto pyproject = ParseRequirementEntry("a/pyproject.toml[Dev, test_all]");
  REQUIRE(pyproject);
  CHECK(pyproject->kind == RequirementEntry::Kind::kPyproject);
  CHECK(pyproject->extras == Texts{"dev", "test-all"});
  CHECK(ParseRequirementEntry("pylock.toml")->kind == RequirementEntry::Kind::kPylock);
  CHECK(ParseRequirementEntry("pylock.gpu.toml")->kind == RequirementEntry::Kind::kPylock);
  const auto hint = [](const char* text) {
    const auto entry = ParseRequirementEntry(text);
    REQUIRE_FALSE(entry);
    CHECK(entry.error().what ==
          "requirements holds the names of requirements.txt, pyproject.toml or pylock.toml files");
    return entry.error().next;
  };
  CHECK(hint("uv.lock") == "uv export --format pylock.toml -o pylock.toml, and name that");
  CHECK(hint("x/Pipfile") == "pipenv requirements > requirements.txt, and name that");
  CHECK(hint("environment.yml") ==
        "conda's packages are not Python's: list those of the pip section");
  CHECK(hint("numpy") == "a package's name belongs into packages = [\"numpy\"]");
  CHECK(hint("requirements.txt[dev]") == "extras belong to pyproject.toml alone");
  CHECK(hint("https://example.com/requirements.txt") ==
        "keep a copy of the file in the project, so that it stays what it was");
  for (const char* text : {"", "a\n.txt", "pyproject.toml[", "pyproject.toml[]", "x.toml"}) {
    CHECK(hint(text) == "such as \"requirements.txt\" or \"pyproject.toml[dev]\"");
  }
}

TEST_CASE("requirements.txt: what it asks for, what it includes, where it wants to look") {
  Files files;
  setenv("ENVKIT_TEST_TOKEN", "secret", 1);
  const std::string sha(64, 'a');
  files.Write("req/all.txt",
              "# comment\n-r more.txt\n--constraint=limits.txt\n"
              "--extra-index-url https://ana:${ENVKIT_TEST_TOKEN}@example.com/x\n"
              "-i https://example.com/y\n-f ./wheels\n"
              "Num_Py[fast]>=2 \\\n   --hash=sha256:" +
                  sha + " \\\n   --hash=sha256:" + std::string(64, 'b') +
                  "\nsix ; python_version < '4'  # why\n./wheels/mine-1.0-py3-none-any.whl\n");
  files.Write("req/more.txt", "einops\r\n-r all.txt\n");
  files.Write("req/limits.txt", "attrs<3\n");
  const RequirementFile file = files.Read("req/all.txt");
  CHECK(file.read_by_uv);
  CHECK(file.lines.empty());
  CHECK(Names(file) == Texts{"einops", "mine", "num-py", "six"});
  CHECK(file.asks.at("num-py") == "Num_Py[fast]>=2");
  CHECK(file.hashes.at("num-py") == std::set<std::string>{sha, std::string(64, 'b')});
  CHECK(file.indexes == Texts{"https://ana:secret@example.com/x", "https://example.com/y"});
  Texts inputs;
  for (const InputFile& input : file.inputs) inputs.push_back(input.path);
  CHECK(inputs == Texts{"req/all.txt", "req/more.txt", "req/limits.txt"});
  CHECK(file.inputs[2].sha256 == Sha256Of("attrs<3\n"));
  unsetenv("ENVKIT_TEST_TOKEN");
}

TEST_CASE("what a lock cannot name is refused, with what to do") {
  Files files;
  const auto failure = [&](const std::string& line) {
    files.Write("r.txt", line + "\n");
    return files.Failure("r.txt");
  };
  CHECK(failure("x @ git+https://example.com/x") ==
        "error: r.txt asks for a repository: x @ git+https://example.com/x\n" + kWheelHint);
  CHECK(failure("git+https://example.com/x").starts_with("error: r.txt asks for a repository: "));
  CHECK(failure("./source[more]") ==
        "error: r.txt asks for what is no wheel: ./source[more]\n" + kWheelHint);
  CHECK(failure(".").starts_with("error: r.txt asks for what is no wheel: .\n"));
  CHECK(failure("x @ ../x.tar.gz").starts_with("error: r.txt asks for what is no wheel: "));
  CHECK(failure("-e .") ==
        "error: r.txt asks for an editable install: -e .\n"
        "  The project itself is mounted at /workspace in every run: leave the line out. Of other\n"
        "  sources make a wheel (pip wheel --no-deps), and name that in [environment] packages.\n");
  CHECK(failure("x @ https://ana:secret@example.com/x-1-py3-none-any.whl") ==
        "error: r.txt has a user name or password in a requirement\n"
        "  Write credentials into ~/.netrc.\n");
  CHECK(failure("-r https://example.com/r.txt") ==
        "error: r.txt includes a file from the network: -r https://example.com/r.txt\n"
        "  Keep a copy of it in the project, so that it stays what it was.\n");
  CHECK(failure("-r sub/no.txt").starts_with("error: sub/no.txt: "));
  for (int at = 0; at < 200; ++at) {
    files.Write(fmt::format("n{}.txt", at), fmt::format("-r n{}.txt\n", at + 1));
  }
  CHECK(failure("-r n0.txt").find("n199.txt includes too many files\n") != std::string::npos);
}

TEST_CASE("pyproject.toml: dependencies, extras, groups, and extras of itself") {
  Files files;
  files.Write("pyproject.toml",
              "[project]\nname = \"Me\"\ndependencies = [\"six>1; sys_platform == 'linux'\"]\n"
              "[project.optional-dependencies]\nall = [\"me[dev]\", \"attrs\"]\ndev = [\"ruff\"]\n"
              "loop = [\"me[loop]\"]\n"
              "[dependency-groups]\ntest = [\"pytest\"]\n");
  CHECK(files.Read("pyproject.toml").lines == Texts{"six>1; sys_platform == 'linux'"});
  CHECK_FALSE(files.Read("pyproject.toml").read_by_uv);
  CHECK(files.Read("pyproject.toml[all]").lines ==
        Texts{"six>1; sys_platform == 'linux'", "ruff", "attrs"});
  CHECK(Names(files.Read("pyproject.toml[test,loop]")) == Texts{"pytest", "six"});
  CHECK(files.Failure("pyproject.toml[tset]") ==
        "error: pyproject.toml has no extra \"tset\"\n  did you mean \"test\"?\n");
  CHECK(files.Failure("pyproject.toml[documentation]") ==
        "error: pyproject.toml has no extra \"documentation\"\n"
        "  It has all, dev, loop and test.\n");

  files.Write("pyproject.toml", "[tool.poetry]\nname = \"x\"\n");
  CHECK(files.Failure("pyproject.toml") ==
        "error: pyproject.toml has no [project]\n"
        "  Only what PEP 621 standardises is read. Let the tool that wrote it export "
        "requirements.txt\n  or pylock.toml, and name that.\n");
  files.Write("pyproject.toml", "[project]\nname = \"x\"\ndynamic = [\"dependencies\"]\n");
  CHECK(files.Failure("pyproject.toml") ==
        "error: pyproject.toml computes its dependencies while it is built (dynamic)\n"
        "  Name the file that they come from, such as requirements.txt.\n");
  files.Write("pyproject.toml",
              "[project]\ndependencies = [\"my_lib\"]\n[tool.uv.sources]\nmy-lib = { path = "
              "\"../lib\" }\n");
  CHECK(files.Failure("pyproject.toml") ==
        "error: pyproject.toml takes my-lib from a path ([tool.uv.sources]), not from an index\n" +
            kWheelHint);
  files.Write("pyproject.toml", "[project]\ndependencies = [\"-r x\"]\n");
  CHECK(files.Failure("pyproject.toml") ==
        "error: pyproject.toml:2: this is no requirement: \"-r x\"\n");
  files.Write("pyproject.toml", "[project]\ndependencies = 3\n");
  CHECK(files.Failure("pyproject.toml") ==
        "error: pyproject.toml cannot be read\n"
        "  pyproject.toml:2:16: error: dependencies: expected a list of strings, got an integer\n"
        "      2 | dependencies = 3\n"
        "        |                ^\n");
}

TEST_CASE("pylock.toml: exact versions, their markers, and the files that it allows") {
  Files files;
  const std::string sha(64, 'c');
  files.Write("pylock.toml",
              "lock-version = \"1.0\"\n[[packages]]\nname = \"Six\"\nversion = \"1.17\"\n"
              "marker = \"python_version > '3'\"\nwheels = [{ url = "
              "\"https://example.com/six.whl\", hashes = { sha256 = \"" +
                  sha +
                  "\" } }]\n[[packages]]\nname = \"mine\"\nversion = \"1\"\narchive = { path = "
                  "\"w/mine-1-py3-none-any.whl\", hashes = {} }\n");
  const RequirementFile file = files.Read("pylock.toml");
  CHECK(file.lines == Texts{"Six==1.17 ; python_version > '3'",
                            "mine @ " + FileUrl(files.scratch / "w/mine-1-py3-none-any.whl")});
  CHECK(file.hashes.at("six") == std::set<std::string>{sha});
  CHECK_FALSE(file.hashes.contains("mine"));
  files.Write("pylock.toml", "[[packages]]\nname = \"x\"\nvcs = { type = \"git\" }\n");
  CHECK(files.Failure("pylock.toml") ==
        "error: pylock.toml takes x from a repository, not from an index\n" + kWheelHint);
  files.Write("pylock.toml",
              "[[packages]]\nname = \"x\"\nversion = \"1\"\nmarker = \"'dev' in extras\"\n");
  CHECK(files.Failure("pylock.toml") ==
        "error: pylock.toml locks extras or groups that are chosen when it is installed (x)\n"
        "  Export it anew for those that you want, without choices.\n");
  files.Write("pylock.toml", "[[packages]]\nname = \"x\\n-r y\"\nversion = \"1\"\n");
  CHECK(files.Failure("pylock.toml").starts_with("error: pylock.toml names a package that cannot"));
}

TEST_CASE("local wheels: by path, by name, with extras and markers") {
  const auto whole = ParseLocalWheel(" mine_lib[a,b] @ ../w/mine_lib-1.0-py3-none-any.whl ; x ");
  REQUIRE(whole);
  CHECK(whole->name == "mine-lib");
  CHECK(whole->extras == "[a,b]");
  CHECK(whole->path == "../w/mine_lib-1.0-py3-none-any.whl");
  CHECK(whole->marker == "x");
  const auto path = ParseLocalWheel("./My.Lib-1.0-py3-none-any.whl[dev]");
  REQUIRE(path);
  CHECK(path->name == "my-lib");
  CHECK(path->extras == "[dev]");
  for (const char* none :
       {"six", "six>=1", "mine @ https://example.com/mine-1-py3-none-any.whl", "./mine.tar.gz",
        "mine-1-py3-none-any.whl", "", "./a.whl.txt", "a[b @ ./a-1.whl", "[x]./a.whl"}) {
    CAPTURE(none);
    CHECK_FALSE(ParseLocalWheel(none));
  }
  CHECK(FileUrl("/a b/ä#1.whl") == "file:///a%20b/%C3%A4%231.whl");
}

TEST_CASE("random texts: lines come out whole, without comments or blanks around them") {
  std::mt19937 random(1);
  const std::string letters = "ab\\\n\r #-=@[];.\"'${}";
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (unsigned size = random() % 40; size > 0; --size) {
      text += letters[random() % letters.size()];
    }
    CAPTURE(text);
    for (const std::string& line : LogicalLines(text)) {
      CHECK_FALSE(line.empty());
      CHECK(line.find('\n') == std::string::npos);
      CHECK(line[0] != '#');
      CHECK(line.find(" #") == std::string::npos);
      CHECK(line.front() != ' ');
      CHECK(line.back() != ' ');
      // Nothing here may fail or hang, whatever a file holds.
      static_cast<void>(ParseLocalWheel(line));
      static_cast<void>(ParseRequirementEntry(line));
      static_cast<void>(RequirementName(line));
      CHECK(ExpandVariables(line) == line);
    }
  }
}

TEST_CASE("names come out as they went in, however they are written") {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    std::string name(1, 'a'), written(1, 'A');
    for (unsigned size = random() % 8; size > 0; --size) {
      if (random() % 3 == 0) {
        name += '-';
        for (unsigned more = random() % 3 + 1; more > 0; --more) written += "-_."[random() % 3];
      }
      name += 'b';
      written += random() % 2 == 0 ? 'b' : 'B';
    }
    for (const char* rest : {"", ">=1", "[x]", " ; m", "==1 --hash=sha256:0", "@ x"}) {
      CHECK(RequirementName(written + rest) == name);
    }
  }
}

TEST_CASE("the project knows its inputs, and says where one is missing") {
  Files files;
  const std::string head = "schema = 1\n[project]\nname = \"p\"\n[environment]\n";
  const std::string wheel = "mine-1.0-py3-none-any.whl";
  files.Write("envkit.toml",
              head + "packages = [\"./w/" + wheel + "\"]\nrequirements = [\"b.txt\", \"a.txt\"]\n");
  files.Write("a.txt", "-r c.txt\n");
  files.Write("b.txt", "-r c.txt\n");
  files.Write("c.txt", "six\n");
  files.Write("w/" + wheel, "wheel");
  const auto project = LoadProject(files.scratch.path());
  REQUIRE_MESSAGE(project, project.error().Text());
  REQUIRE(project->inputs.size() == 4);
  CHECK(project->inputs[0].path == "./w/" + wheel);
  CHECK(project->inputs[0].sha256 == Sha256Of("wheel"));
  CHECK(project->inputs[3].path == "c.txt");
  CHECK(project->requirement_files.size() == 2);

  files.Write("envkit.toml", head + "packages = [\"./w/no-1-py3-none-any.whl\", \"other @ ./w/" +
                                 wheel +
                                 "\"]\nrequirements = [\"c.tx\", \"a.txt\", \"other.txt\"]\n");
  const auto missing = LoadProject(files.scratch.path());
  REQUIRE_FALSE(missing);
  CHECK(missing.error().Text() ==
        "envkit.toml:5:13: error: there is no file ./w/no-1-py3-none-any.whl\n"
        "    5 | packages = [\"./w/no-1-py3-none-any.whl\", \"other @ "
        "./w/mine-1.0-py3-none-any.whl\"]\n"
        "      |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  paths are relative to the project's root\n"
        "envkit.toml:5:42: error: the wheel mine-1.0-py3-none-any.whl is not of other\n"
        "    5 | packages = [\"./w/no-1-py3-none-any.whl\", \"other @ "
        "./w/mine-1.0-py3-none-any.whl\"]\n"
        "      |                                          "
        "^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  a wheel's file name begins with its package's name\n"
        "envkit.toml:6:17: error: requirements holds the names of requirements.txt, pyproject.toml "
        "or pylock.toml files\n"
        "    6 | requirements = [\"c.tx\", \"a.txt\", \"other.txt\"]\n"
        "      |                 ^^^^^^\n"
        "  such as \"requirements.txt\" or \"pyproject.toml[dev]\"\n"
        "envkit.toml:6:34: error: there is no file other.txt\n"
        "    6 | requirements = [\"c.tx\", \"a.txt\", \"other.txt\"]\n"
        "      |                                  ^^^^^^^^^^^\n"
        "  paths are relative to the project's root\n");
}

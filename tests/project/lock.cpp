#include "project/lock.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

using envkit::BuiltImage;
using envkit::ExitCode;
using envkit::InputsOf;
using envkit::Lock;
using envkit::LockDifferences;
using envkit::LockedDeb;
using envkit::LockedWheel;
using envkit::LockInputs;
using envkit::LockToToml;
using envkit::ParseLock;

namespace {

Lock Small() {
  Lock lock;
  lock.inputs = {"2.15", "auto", "3.13", "debian:trixie", {"numpy"}, {}, std::string(64, '0')};
  lock.torch = "2.15.0";
  lock.cuda = "13.2";
  lock.python = "3.13";
  lock.source_date_epoch = 1764000000;
  lock.wheels = {{"torch", "2.15.0", "torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl",
                  std::string(64, 'b'), 538900000},
                 {"numpy", "2.4.0", "numpy-2.4.0-cp313-cp313-manylinux_2_28_x86_64.whl",
                  std::string(64, 'a'), 16000000}};
  lock.debs = {{"zlib1g",
                "1:1.3.dfsg-1",
                "amd64",
                "trixie",
                "pool/main/z/zlib/zlib1g_1.3.dfsg-1_amd64.deb",
                std::string(64, 'c'),
                90000,
                {"train", "builder"}}};
  lock.built = {{"train", "cpu", "amd64", std::string(64, 'd'), {std::string(64, 'e')}}};
  return lock;
}

std::string LockProblems(const std::string& text) {
  const auto lock = ParseLock(text, "/p/envkit.lock");
  if (lock) return "";
  CHECK(lock.error().code == ExitCode::kUsage);
  return lock.error().Text();
}

std::string Replaced(std::string text, const std::string& old, const std::string& with) {
  const std::size_t at = text.find(old);
  REQUIRE(at != std::string::npos);
  return text.replace(at, old.size(), with);
}

std::string Pick(std::mt19937& random, std::string_view letters, std::size_t longest) {
  std::string text(1, 'a');
  for (std::size_t size = random() % longest; size > 0; --size)
    text += letters[random() % letters.size()];
  return text;
}

std::string Digits(std::mt19937& random) {
  std::string text;
  for (int i = 0; i < 64; ++i) text += "0123456789abcdef"[random() % 16];
  return text;
}

Lock Random(unsigned seed) {
  std::mt19937 random(seed);
  Lock lock = Small();
  const auto texts = [&] {
    std::vector<std::string> list;
    for (unsigned i = random() % 4; i > 0; --i)
      list.push_back(Pick(random, "ab[]<>=\"\\\n\t ~@;'", 12));
    return list;
  };
  lock.inputs.packages = texts();
  lock.inputs.system = texts();
  lock.wheels.clear();
  lock.debs.clear();
  lock.built.clear();
  for (unsigned i = random() % 6; i > 0; --i) {
    const std::string unique = std::to_string(i);
    lock.wheels.push_back({Pick(random, "abc-1", 8), Pick(random, "01.+rc", 8),
                           Pick(random, "ab._+-1", 20) + unique + ".whl", Digits(random),
                           1 + random()});
    lock.debs.push_back({Pick(random, "abc+.-1", 8) + "x",
                         Pick(random, "01.+~:-", 8),
                         "amd64",
                         "trixie-updates",
                         "pool/" + Pick(random, "ab_+~%", 9) + unique + ".deb",
                         Digits(random),
                         1 + random(),
                         {"train", "builder", "dev"}});
    lock.built.push_back({"train", "v" + unique, "amd64", Digits(random), {Digits(random)}});
  }
  return lock;
}

}  // namespace

TEST_CASE("the written form: sorted, a line a file") {
  const std::string zeros(64, '0'), a(64, 'a'), b(64, 'b'), c(64, 'c'), d(64, 'd'), e(64, 'e');
  CHECK(LockToToml(Small()) ==
        "# Written by `envkit lock`; not to be edited. One resolution for every profile and both\n"
        "# variants. Files are named by name, size and sha256, wherever they are fetched from.\n"
        "schema = 1\n"
        "torch = \"2.15.0\"\n"
        "cuda = \"13.2\"\n"
        "python = \"3.13\"\n"
        "source_date_epoch = 1764000000\n"
        "\n"
        "# What it was made from.\n"
        "inputs.torch = \"2.15\"\n"
        "inputs.cuda = \"auto\"\n"
        "inputs.python = \"3.13\"\n"
        "inputs.base = \"debian:trixie\"\n"
        "inputs.packages = [\n"
        "  \"numpy\",\n"
        "]\n"
        "inputs.system = []\n"
        "inputs.recipes = \"" +
            zeros +
            "\"\n"
            "\n"
            "wheels = [\n"
            "  { name = \"numpy\", version = \"2.4.0\", size = 16000000, sha256 = \"" +
            a +
            "\", file = \"numpy-2.4.0-cp313-cp313-manylinux_2_28_x86_64.whl\" },\n"
            "  { name = \"torch\", version = \"2.15.0\", size = 538900000, sha256 = \"" +
            b +
            "\", file = \"torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl\" },\n"
            "]\n"
            "\n"
            "debs = [\n"
            "  { name = \"zlib1g\", version = \"1:1.3.dfsg-1\", architecture = \"amd64\", "
            "roots = [\"builder\", \"train\"], size = 90000, sha256 = \"" +
            c +
            "\", suite = \"trixie\", file = \"pool/main/z/zlib/zlib1g_1.3.dfsg-1_amd64.deb\" },\n"
            "]\n"
            "\n"
            "[[built]]\n"
            "profile = \"train\"\n"
            "variant = \"cpu\"\n"
            "architecture = \"amd64\"\n"
            "config_digest = \"" +
            d +
            "\"\n"
            "diff_ids = [\n"
            "  \"" +
            e +
            "\",\n"
            "]\n");
}

TEST_CASE("what is written is read back, and written again in the same bytes") {
  for (unsigned seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    const Lock lock = Random(seed);
    const std::string text = LockToToml(lock);
    const auto read = ParseLock(text, "envkit.lock");
    if (!read) FAIL(read.error().Text());
    CHECK(LockToToml(*read) == text);
    CHECK(read->Digest() == lock.Digest());
    CHECK(read->wheels.size() == lock.wheels.size());
    CHECK(read->debs.size() == lock.debs.size());
    CHECK(read->built.size() == lock.built.size());
    CHECK(read->source_date_epoch == lock.source_date_epoch);
    CHECK(LockDifferences(*read, lock.inputs).empty());

    Lock shuffled = lock;  // the order of resolution is not part of the result
    std::mt19937 random(seed);
    std::shuffle(shuffled.wheels.begin(), shuffled.wheels.end(), random);
    std::shuffle(shuffled.debs.begin(), shuffled.debs.end(), random);
    CHECK(LockToToml(shuffled) == text);
  }
}

TEST_CASE("the digest covers all but what was built") {
  const Lock lock = Small();
  const std::string digest = lock.Digest();
  CHECK(digest.size() == 64);
  Lock other = lock;
  other.built.clear();
  CHECK(other.Digest() == digest);
  const auto changed = [&](auto&& change) {
    Lock copy = lock;
    change(copy);
    return copy.Digest() != digest;
  };
  CHECK(changed([](Lock& l) { l.inputs.cuda = "cpu"; }));
  CHECK(changed([](Lock& l) { l.inputs.recipes = std::string(64, '1'); }));
  CHECK(changed([](Lock& l) { l.torch = "2.15.1"; }));
  CHECK(changed([](Lock& l) { l.source_date_epoch = 1; }));
  CHECK(changed([](Lock& l) { l.wheels[0].sha256[0] = '0'; }));
  CHECK(changed([](Lock& l) { l.debs[0].roots = {"train"}; }));
  CHECK(changed([](Lock& l) { l.debs[0].size += 1; }));
}

TEST_CASE("requirement files and origins of wheels are written only where there are any") {
  Lock lock = Small();
  const std::string plain = LockToToml(lock);
  CHECK(plain.find("requirements") == std::string::npos);
  CHECK(plain.find("from = ") == std::string::npos);
  lock.inputs.requirements = {"pyproject.toml[dev]"};
  lock.inputs.files = {{"pyproject.toml", std::string(64, 'f')}};
  lock.wheels[1].from = "wheels/numpy.whl";
  const std::string text = LockToToml(lock);
  CHECK(text.find("inputs.requirements = [\n  \"pyproject.toml[dev]\",\n]\ninputs.files = [\n"
                  "  { path = \"pyproject.toml\", sha256 = \"" +
                  std::string(64, 'f') + "\" },\n]\n\nwheels") != std::string::npos);
  CHECK(text.find("x86_64.whl\", from = \"wheels/numpy.whl\" },") != std::string::npos);
  const auto read = ParseLock(text, "envkit.lock");
  REQUIRE_MESSAGE(read, read.error().Text());
  CHECK(LockToToml(*read) == text);
  CHECK(read->inputs == lock.inputs);
  CHECK(LockProblems(Replaced(text, "from = \"wheels", "from = \"https://ana:secret@example.com"))
            .find("from is not a path or a URL") != std::string::npos);

  LockInputs inputs = lock.inputs;
  inputs.files[0].sha256 = std::string(64, '0');
  CHECK(LockDifferences(lock, inputs) ==
        std::vector<std::string>{"pyproject.toml: its content changed"});
  inputs.files = {{"b.txt", std::string(64, '0')}};
  inputs.requirements = {"b.txt"};
  CHECK(LockDifferences(lock, inputs) ==
        std::vector<std::string>{"environment.requirements: - \"pyproject.toml[dev]\"",
                                 "environment.requirements: + \"b.txt\"",
                                 "pyproject.toml: no longer asked for", "b.txt: not yet locked"});
}

TEST_CASE("sources are written with what their builds need, and read back") {
  Lock lock = Small();
  CHECK(LockToToml(lock).find("sources") == std::string::npos);
  lock.wheels[1].from = "sdist:numpy-2.4.0.tar.gz";
  lock.sources = {{"numpy",
                   lock.wheels[1].file,
                   "numpy-2.4.0.tar.gz",
                   std::string(64, '1'),
                   5,
                   {"b-1-py3-none-any.whl", "a-1-py3-none-any.whl"}}};
  lock.build_wheels = {{"b", "1", "b-1-py3-none-any.whl", std::string(64, '2'), 7},
                       {"a", "1", "a-1-py3-none-any.whl", std::string(64, '3'), 7}};
  const std::string text = LockToToml(lock);
  CHECK(text.find("sources = [\n  { name = \"numpy\", size = 5, sha256 = \"" +
                  std::string(64, '1') +
                  "\", file = \"numpy-2.4.0.tar.gz\", requires = [\"a-1-py3-none-any.whl\", "
                  "\"b-1-py3-none-any.whl\"], wheel = \"" +
                  lock.wheels[1].file + "\" },\n]\nbuild_wheels = [\n  { name = \"a\"") !=
        std::string::npos);
  const auto read = ParseLock(text, "envkit.lock");
  REQUIRE_MESSAGE(read, read.error().Text());
  CHECK(LockToToml(*read) == text);
  CHECK(read->build_wheels.size() == 2);
  CHECK(LockProblems(
            Replaced(text, "file = \"numpy-2.4.0.tar.gz\"", "file = \"../numpy-2.4.0.tar.gz\""))
            .find("file is not an sdist's file name") != std::string::npos);
}

TEST_CASE("a damaged lock is refused at the place of the damage") {
  const std::string text = LockToToml(Small());
  CHECK(LockProblems(text).empty());
  const std::string next = "  The lock is damaged. Write it anew: envkit lock\n";
  CHECK(LockProblems(text.substr(0, text.size() / 2)).ends_with(next));
  CHECK(LockProblems("") ==
        "envkit.lock: error: \"schema\" is missing\n"
        "envkit.lock: error: \"torch\" is missing\n"
        "envkit.lock: error: \"cuda\" is missing\n"
        "envkit.lock: error: \"python\" is missing\n"
        "envkit.lock: error: \"source_date_epoch\" is missing\n"
        "envkit.lock: error: [inputs] is missing\n" +
            next);
  CHECK(LockProblems(Replaced(text, "schema = 1", "schema = 2")) ==
        "envkit.lock:3:10: error: schema 2 is not known here\n"
        "    3 | schema = 2\n"
        "      |          ^\n"
        "  It was written by a newer envkit: use that one, or write the lock anew: envkit lock\n");

  const std::string a(64, 'a'), b(64, 'b'), c(64, 'c'), d(64, 'd'), e(64, 'e');
  struct Row {
    std::string old, with, message;
  };
  const std::string numpy = "numpy-2.4.0-cp313-cp313-manylinux_2_28_x86_64.whl";
  const Row rows[] = {
      {"torch = \"2.15.0\"", "torch = \"-v\"", "torch is not a version"},
      {"cuda = \"13.2\"", "cuda = \"13\"", "cuda is not a version such as \"13.2\""},
      {"python = \"3.13\"", "python = \"three\"", "python is not a version such as \"3.13\""},
      {"epoch = 1764000000", "epoch = -1", "source_date_epoch: -1 is too small; it is at least 0"},
      {std::string(64, '0'), "0", "recipes is not 64 hexadecimal digits"},
      {"inputs.system = []\n", "", "\"system\" is missing"},
      {"name = \"numpy\"", "name = \"../numpy\"", "name is not a package's name"},
      {"version = \"2.4.0\"", "version = \"2 4\"", "version is not a version"},
      {a, "A" + a.substr(1), "sha256 is not 64 hexadecimal digits"},
      {a, a.substr(1), "sha256 is not 64 hexadecimal digits"},
      {numpy, "../../" + numpy, "file is not a wheel's file name"},
      {numpy, "-" + numpy, "file is not a wheel's file name"},
      {numpy, "numpy.tar.gz", "file is not a wheel's file name"},
      {numpy, "torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl",
       "\"torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl\" is listed twice"},
      {"size = 16000000", "size = -1", "size: -1 is out of range; it is from 0 to 1000000000000"},
      {"size = 90000", "size = 0", "size: 0 is out of range; it is from 1 to 1000000000000"},
      {"size = 16000000", "size = 9e9", "size: expected an integer, got a number with a point"},
      {"size = 16000000, ", "", "[wheels[0]] has no \"size\""},
      {"size = 16000000", "size = 1, url = \"https://example.com\"",
       "unknown key \"url\" in [wheels[0]]"},
      {"pool/main", "pool/../..", "file is not a .deb's path below its archive"},
      {"\"pool/main", "\"/pool/main", "file is not a .deb's path below its archive"},
      {"\"pool/main", "\"pool//main", "file is not a .deb's path below its archive"},
      {"\"pool/main", "\"pool main", "file is not a .deb's path below its archive"},
      {"name = \"zlib1g\"", "name = \"Zlib\"", "name is not a package's name"},
      {"architecture = \"amd64\", ", "architecture = \"a/b\", ",
       "architecture is not an architecture"},
      {"suite = \"trixie\"", "suite = \"../sid\"", "suite is not a suite"},
      {"roots = [\"builder\", \"train\"]", "roots = [\"a/b\"]",
       "roots holds what is not a root's name"},
      {d, "d", "config_digest is not 64 hexadecimal digits"},
      {e, "e", "diff_ids holds what is not 64 hexadecimal digits"},
      {"profile = \"train\"", "profile = \"\"", "profile is not a profile"},
      {"variant = \"cpu\"", "variant = \"a b\"", "variant is not a variant"},
  };
  for (const Row& row : rows) {
    const std::string shown = LockProblems(Replaced(text, row.old, row.with));
    CAPTURE(row.with);
    CAPTURE(shown);
    CHECK(shown.find(": error: " + row.message + "\n") != std::string::npos);
    CHECK(shown.starts_with("envkit.lock:"));
    CHECK(shown.ends_with(next));
  }
}

TEST_CASE("a difference to the project is named") {
  envkit::Project project;
  project.environment.packages = {"numpy", "b", "a", "a"};
  project.environment.system = {"git"};
  const LockInputs inputs = InputsOf(project, std::string(64, '0'));
  CHECK(inputs.packages == std::vector<std::string>{"a", "b", "numpy"});
  CHECK(inputs.torch == "2.15");

  Lock lock;
  lock.inputs = inputs;
  CHECK(LockDifferences(lock, inputs).empty());
  lock.inputs.torch = "2.14";
  lock.inputs.cuda = "cpu";
  lock.inputs.python = "3.11";
  lock.inputs.base = "debian:bookworm";
  lock.inputs.packages = {"a", "c\x1b", "numpy"};
  lock.inputs.system = {};
  lock.inputs.recipes = std::string(64, '1');
  CHECK(LockDifferences(lock, inputs) ==
        std::vector<std::string>{"environment.torch: \"2.14\" → \"2.15\"",
                                 "environment.cuda: \"cpu\" → \"auto\"",
                                 "environment.python: \"3.11\" → \"3.13\"",
                                 "environment.base: \"debian:bookworm\" → \"debian:trixie\"",
                                 "environment.packages: - \"c\\u001B\"",
                                 "environment.packages: + \"b\"", "environment.system: + \"git\"",
                                 "the image profiles of this envkit ask for other packages"});
}

TEST_CASE("no damage to the lock ends in anything but a lock or a diagnostic") {
  const std::string whole = LockToToml(Small());
  constexpr std::string_view kBytes = "\"'[]{}=.,#\n\r\t\\ -a1/\x00\xff\xc3";
  int refused = 0;
  for (unsigned seed = 0; seed < 5'000; ++seed) {
    std::mt19937 random(seed);
    std::string text = whole;
    for (unsigned edits = 1 + random() % 3; edits > 0 && !text.empty(); --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = kBytes[random() % kBytes.size()];
          break;
        case 1:
          text.erase(at, 1 + random() % 30);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 300));
          break;
        default:
          text.resize(at);
          break;
      }
    }
    const auto lock = ParseLock(text, "envkit.lock");
    CAPTURE(seed);
    if (!lock) {
      ++refused;
      CHECK(lock.error().Text().starts_with("envkit.lock:"));
      continue;
    }
    for (const LockedWheel& wheel : lock->wheels) {
      CHECK(wheel.sha256.size() == 64);
      CHECK(wheel.size > 0);
      CHECK(wheel.file.find('/') == std::string::npos);
    }
    for (const LockedDeb& deb : lock->debs)
      CHECK(("/" + deb.file + "/").find("/../") == std::string::npos);
  }
  CHECK(refused > 2'000);
}

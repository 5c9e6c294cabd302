#include "matrix/matrix.h"

#include <set>

#include "base/files.h"
#include "base/scratch.h"
#include "matrix/data.h"

using namespace envkit;
namespace fs = std::filesystem;

TEST_CASE("the matrix of this envkit covers what it says") {
  const Matrix& matrix = Own();
  std::set<std::string> lines, confirmed;
  for (const TorchBuild& build : matrix.builds) {
    CAPTURE(build.torch);
    CAPTURE(build.cuda);
    lines.insert(MajorMinor(build.torch));
    if (build.confirmed) confirmed.insert(MajorMinor(build.torch));
    CHECK_FALSE(build.python.empty());
    CHECK(build.cudnn);
    CHECK(build.nccl);
    CHECK(build.from.date.size() == 10);
    // A row that was read names its wheel; another one never claims an index.
    CHECK(build.confirmed == build.from.source.ends_with(".whl"));
    CHECK(build.confirmed == !build.indexes.empty());
    if (build.confirmed) CHECK(build.sass);
  }
  const std::set<std::string> all = {"2.6",  "2.7",  "2.8",  "2.9",  "2.10",
                                     "2.11", "2.12", "2.13", "2.14", "2.15"};
  CHECK(lines == all);
  CHECK(confirmed == all);
  CHECK(matrix.releases.size() == 14);
  CHECK(matrix.families.size() == 3);
  for (const KnownBad& bad : matrix.known_bad) CHECK_FALSE(bad.from_where.source.empty());
}

TEST_CASE("rows are sorted, whatever the file's order is") {
  MatrixTexts texts = SmallTexts();
  const std::size_t at = texts.torch.find("\"3.1.0\"");
  texts.torch.replace(at, 7, "\"2.9.0\"");
  const auto matrix = ParseMatrix(texts);
  REQUIRE(matrix);
  CHECK(matrix->builds[0].torch == "2.9.0");
  CHECK(matrix->builds[1].cuda == "12.6");
}

TEST_CASE("damaged data is named, never half believed") {
  const auto damaged = [](const std::string& old, const std::string& now) {
    MatrixTexts texts = SmallTexts();
    const std::size_t at = texts.torch.find(old);
    REQUIRE(at != std::string::npos);
    texts.torch.replace(at, old.size(), now);
    const auto matrix = ParseMatrix(texts);
    REQUIRE_FALSE(matrix);
    CHECK(matrix.error().code == ExitCode::kMissing);
    return matrix.error().what;
  };
  CHECK(damaged("{", "") == "images/matrix/torch.json: this is not JSON");
  CHECK(damaged(R"("schema": 1)", R"("schema": 2)") ==
        "images/matrix/torch.json: its schema is not 1");
  CHECK(damaged(R"("builds": [)", R"("built": [)") ==
        "images/matrix/torch.json: it has no list \"builds\"");
  CHECK(damaged(R"("torch": "3.0.0", )", "") ==
        "images/matrix/torch.json: builds[0] has no \"torch\"");
  CHECK(damaged(R"("3.0.0")", R"("three")") ==
        "images/matrix/torch.json: builds[0] \"torch\": three is not a version");
  CHECK(damaged(R"("3.0.0")", "3") ==
        "images/matrix/torch.json: builds[0] \"torch\" is not a text");
  CHECK(damaged(R"(["7.0"])", R"(["seven"])") ==
        "images/matrix/torch.json: builds[0] \"sass\": seven is not a compute capability");
  CHECK(damaged(R"(["7.0"])", "7") == "images/matrix/torch.json: builds[0] \"sass\" is not a list");
  CHECK(damaged(R"("cuda": "12.8")", R"("cuda": "12.6")") ==
        "images/matrix/torch.json: torch 3.0.0 for CUDA 12.6 is there twice");
  CHECK(damaged(R"("source": "a test", )", "") ==
        "images/matrix/torch.json: builds[0] has no \"source\"");
  CHECK(damaged(R"("confirmed": true)", R"("confirmed": "yes")") ==
        "images/matrix/torch.json: builds[1] \"confirmed\" is not a bool");
  CHECK(damaged(R"(["3.1"])", R"([3.1])") ==
        "images/matrix/torch.json: it \"incomplete\" is not a list of texts");
  MatrixTexts texts = SmallTexts();
  texts.torch = R"({"schema": 1, "builds": []})";
  CHECK(ParseMatrix(texts).error().what == "images/matrix/torch.json: it has no builds");
  const auto damaged_cuda = [](const std::string& old, const std::string& now) {
    MatrixTexts other = SmallTexts();
    other.cuda.replace(other.cuda.find(old), old.size(), now);
    return ParseMatrix(other).error().what;
  };
  CHECK(damaged_cuda(R"("major": 12)", R"("major": "12")") ==
        "images/matrix/cuda.json: families[0] \"major\" is not a whole number");
  CHECK(
      damaged_cuda(R"("forward_compatibility": [])",
                   R"("forward_compatibility": [{"cuda": "13.0", "driver": "580", "branches": [5.5],
                        "source": "a test", "date": "2026-11-25"}])") ==
      "images/matrix/cuda.json: forward_compatibility[0] \"branches\" is not a list of whole "
      "numbers");
  texts = SmallTexts();
  texts.cuda = "[]";
  CHECK(ParseMatrix(texts).error().what == "images/matrix/cuda.json: this is not an object");
  texts = SmallTexts();
  texts.known_bad = R"({"schema": 1, "rows": [7]})";
  CHECK(ParseMatrix(texts).error().what ==
        "images/matrix/known-bad.json: rows[0] is not an object");
}

TEST_CASE("a matrix that is cut off anywhere is an error, not a crash") {
  const MatrixTexts whole = SmallTexts();
  for (std::size_t size = 0; size < whole.torch.size(); ++size) {
    MatrixTexts texts = whole;
    texts.torch.resize(size);
    CHECK_FALSE(ParseMatrix(texts));
  }
}

TEST_CASE("files that are missing say what they are part of") {
  Scratch scratch;
  const auto matrix = LoadMatrix(scratch.path());
  REQUIRE_FALSE(matrix);
  CHECK(matrix.error().code == ExitCode::kMissing);
  CHECK(matrix.error().what.starts_with("images/matrix/torch.json: "));
  CHECK(
      matrix.error().next ==
      "It is part of envkit: install it again, or run tools/matrix.py --write in the source tree.");
}

// The matrix that comes with envkit, and a small one whose rows the tests choose.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "matrix/matrix.h"

inline const envkit::Matrix& Own() {
  static const envkit::Matrix matrix = [] {
    auto loaded =
        envkit::LoadMatrix(std::filesystem::path(std::getenv("ENVKIT_SOURCE_DIR")) / "images");
    if (!loaded) MESSAGE(loaded.error().Text());
    REQUIRE(loaded);
    return *loaded;
  }();
  return matrix;
}

inline envkit::MatrixTexts SmallTexts() {
  const std::string from = R"("source": "a test", "date": "2026-11-25")";
  const auto build = [&](const std::string& head, const std::string& tail) {
    return "{" + head + R"(, "python": ["3.12", "3.13"], "cudnn": "9.1.0", "nccl": "2.20.1", )" +
           tail + ", " + from + "}";
  };
  envkit::MatrixTexts texts;
  texts.torch =
      R"({"schema": 1, "incomplete": ["3.1"], "builds": [)" +
      build(R"("torch": "3.0.0", "cuda": "12.6", "indexes": [])",
            R"("sass": ["7.0"], "ptx": ["8.0"])") +
      "," +
      build(R"("torch": "3.0.0", "cuda": "12.8", "indexes": ["default"], "confirmed": true)",
            R"("sass": ["7.5", "9.0"], "ptx": [])") +
      "," +
      build(R"("torch": "3.1.0", "cuda": "13.0", "indexes": ["default"], "confirmed": true)",
            R"("sass": ["9.0"], "ptx": ["12.0"])") +
      "]}";
  texts.cuda = R"({"schema": 1, "releases": [{"cuda": "13.0", "driver": "580.65.06", )" + from +
               R"(}], "families": [{"major": 12, "driver": "525.60.13", )" + from +
               R"(}, {"major": 13, "driver": "580", )" + from +
               R"(}], "forward_compatibility": [], "branches": [], "generations": []})";
  texts.known_bad = R"({"schema": 1, "rows": []})";
  return texts;
}

inline envkit::Matrix Small() {
  auto matrix = envkit::ParseMatrix(SmallTexts());
  if (!matrix) MESSAGE(matrix.error().Text());
  REQUIRE(matrix);
  return *matrix;
}

// The matrix for people and for programs: what `envkit matrix` answers.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "matrix/advise.h"

namespace envkit {

struct MatrixAnswer {
  Question question;
  std::string driver_from;  // "--driver", "this machine"; empty: no driver is known
  Judgement verdict;
  std::vector<const TorchBuild*> rows;  // newest first: what was asked for, as far as it runs
};
MatrixAnswer AnswerMatrix(const Matrix& matrix, const Question& question, std::string driver_from);

std::string MatrixText(const Matrix& matrix, const MatrixAnswer& answer);
nlohmann::ordered_json MatrixToJson(const Matrix& matrix,
                                    const MatrixAnswer& answer);  // as docs/schemas/matrix.json

}  // namespace envkit

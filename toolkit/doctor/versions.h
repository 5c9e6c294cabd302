// Versions as programs print them, with words around their numbers: the matrix compares clean ones
// alone. And what a GPU is where only PCI or its name tells.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "matrix/judge.h"

namespace envkit::doctor {

// -1, 0, 1 by the leading numbers: "5.15.0-101-generic" is 5.15.0.
int CompareNumbers(std::string_view a, std::string_view b);
// The first COUNT numbers: Leading("2.11.0+cu130", 2) is "2.11".
std::string Leading(std::string_view version, int count);
// What the matrix may be asked with: "2.11.0" of "2.11.0+cu130"; "" where it is no version.
std::string CleanVersion(std::string_view version);
int Branch(std::string_view driver);  // 580; 0 where it is no version

// By the PCI device id ("0x2330"), which is there before any driver is. Grace Hopper has Hopper's
// compute capability and is told by its id alone: it needs the open kernel modules.
std::optional<GpuGeneration> GenerationOfPciId(const Matrix& matrix, std::string_view id);

bool DataCentre(std::string_view gpu_name);  // of the families that cuda-compat serves

}  // namespace envkit::doctor

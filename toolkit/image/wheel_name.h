// Names of wheels and what they run on: "torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl".
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace envkit {

// PEP 503: runs of "-", "_" and "." become "-", letters lower case.
std::string NormaliseName(std::string_view name);

// NVIDIA's wheels have other names for each generation of CUDA, and ours are CUDA 13's: for MAJOR
// 12 "nvidia-cublas" is "nvidia-cublas-cu12", "nvidia-cudnn-cu13" is "nvidia-cudnn-cu12", and the
// headers of "nvidia-cuda-crt" are in "nvidia-cuda-nvcc-cu12". Other projects' names stay.
std::string NameForCuda(const std::string& name, int major);

struct WheelName {
  std::string project;  // normalised
  std::string version;
  std::string build;  // build tag, mostly empty
  std::vector<std::string> pythons, abis, platforms;
};
std::optional<WheelName> ParseWheelName(std::string_view file);

// What CPython PYTHON ("3.13") on MACHINE ("x86_64") with glibc 2.GLIBC_MINOR runs, best first, in
// the order that PEP 425's reference implementation and uv have.
std::vector<std::string> CompatibleTags(std::string_view python, std::string_view machine,
                                        int glibc_minor);

// The index in FILES of the one that such a Python prefers; nullopt where none fits.
std::optional<std::size_t> BestWheel(const std::vector<std::string>& files,
                                     const std::vector<std::string>& tags);

}  // namespace envkit

#include "matrix/matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/files.h"

namespace envkit {
namespace {

using nlohmann::json;

// One row of a file. The first thing that is wrong stays in PROBLEM.
class Row {
 public:
  Row(const json& row, std::string name) : row_(row), name_(std::move(name)) {
    if (!row.is_object()) Bad("is not an object");
  }

  std::optional<std::string> Text(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_string() && !value->get_ref<const std::string&>().empty()) {
      return value->get<std::string>();
    }
    Bad(fmt::format("\"{}\" is not a text", key));
    return std::nullopt;
  }
  std::string Required(const char* key) {
    auto text = Text(key);
    if (!text) Bad(fmt::format("has no \"{}\"", key));
    return text.value_or("");
  }
  std::optional<std::string> Version(const char* key) {
    auto text = Text(key);
    if (text && !IsVersion(*text)) Bad(fmt::format("\"{}\": {} is not a version", key, *text));
    return text;
  }
  std::string RequiredVersion(const char* key) {
    auto text = Version(key);
    if (!text) Bad(fmt::format("has no \"{}\"", key));
    return text.value_or("0");
  }
  std::optional<int> Number(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_number_integer()) return value->get<int>();
    Bad(fmt::format("\"{}\" is not a whole number", key));
    return std::nullopt;
  }
  bool Flag(const char* key) {
    const json* value = Find(key);
    if (value != nullptr && !value->is_boolean()) Bad(fmt::format("\"{}\" is not a bool", key));
    return value != nullptr && value->is_boolean() && value->get<bool>();
  }
  std::optional<std::vector<std::string>> Texts(const char* key) {
    const json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    std::vector<std::string> texts;
    if (!value->is_array()) Bad(fmt::format("\"{}\" is not a list", key));
    for (const json& one : *value) {
      if (!one.is_string()) {
        Bad(fmt::format("\"{}\" is not a list of texts", key));
        break;
      }
      texts.push_back(one.get<std::string>());
    }
    return texts;
  }
  std::vector<int> Numbers(const char* key) {
    std::vector<int> numbers;
    if (const json* value = Find(key)) {
      for (const json& one : *value) {
        if (!one.is_number_integer()) {
          Bad(fmt::format("\"{}\" is not a list of whole numbers", key));
          break;
        }
        numbers.push_back(one.get<int>());
      }
    }
    return numbers;
  }
  std::optional<Capability> Gpu(const char* key) { return ToCapability(key, Text(key)); }
  std::optional<std::vector<Capability>> Gpus(const char* key) {
    const auto texts = Texts(key);
    if (!texts) return std::nullopt;
    std::vector<Capability> capabilities;
    for (const std::string& text : *texts) {
      if (const auto one = ToCapability(key, text)) capabilities.push_back(*one);
    }
    return capabilities;
  }
  Provenance From() { return {Required("source"), Required("date")}; }

  const std::string& problem() const { return problem_; }

 private:
  const json* Find(const char* key) {
    if (!row_.is_object()) return nullptr;
    const auto found = row_.find(key);
    return found == row_.end() || found->is_null() ? nullptr : &*found;
  }
  std::optional<Capability> ToCapability(const char* key, const std::optional<std::string>& text) {
    if (!text) return std::nullopt;
    const auto capability = ParseCapability(*text);
    if (!capability) Bad(fmt::format("\"{}\": {} is not a compute capability", key, *text));
    return capability;
  }
  void Bad(const std::string& what) {
    if (problem_.empty()) problem_ = fmt::format("{} {}", name_, what);
  }

  const json& row_;
  std::string name_, problem_;
};

TorchBuild ReadBuild(Row& row) {
  TorchBuild build;
  build.torch = row.RequiredVersion("torch");
  build.cuda = row.RequiredVersion("cuda");
  build.indexes = row.Texts("indexes").value_or(std::vector<std::string>{});
  build.released = row.Text("released");
  build.glibc = row.Version("glibc");
  build.cudnn = row.Version("cudnn");
  build.nccl = row.Version("nccl");
  build.triton = row.Version("triton");
  build.torchvision = row.Version("torchvision");
  build.torchaudio = row.Version("torchaudio");
  build.python = row.Texts("python").value_or(std::vector<std::string>{});
  build.sass = row.Gpus("sass");
  build.ptx = row.Gpus("ptx");
  build.confirmed = row.Flag("confirmed");
  build.unconfirmed = row.Texts("unconfirmed").value_or(std::vector<std::string>{});
  build.from = row.From();
  return build;
}

CudaRelease ReadRelease(Row& row) {
  return {row.RequiredVersion("cuda"), row.RequiredVersion("driver"), row.From()};
}
CudaFamily ReadFamily(Row& row) {
  return {row.Number("major").value_or(0), row.RequiredVersion("driver"), row.From()};
}
ForwardCompatibility ReadForward(Row& row) {
  return {row.RequiredVersion("cuda"), row.RequiredVersion("driver"), row.Numbers("branches"),
          row.From()};
}
DriverBranch ReadBranch(Row& row) {
  return {row.Number("branch").value_or(0), row.Required("kind"), row.Required("end"), row.From()};
}
GpuGeneration ReadGeneration(Row& row) {
  GpuGeneration generation;
  generation.name = row.Required("name");
  generation.capabilities = row.Gpus("capabilities").value_or(std::vector<Capability>{});
  generation.first_cuda = row.Version("first_cuda");
  generation.last_cuda = row.Version("last_cuda");
  generation.first_branch = row.Number("first_branch");
  generation.last_branch = row.Number("last_branch");
  generation.kernel_module = row.Text("kernel_module");
  generation.from = row.From();
  return generation;
}
KnownBad ReadKnownBad(Row& row) {
  KnownBad bad;
  bad.id = row.Required("id");
  bad.library = row.Required("library");
  bad.from = row.Version("from");
  bad.below = row.Version("below");
  bad.gpu_from = row.Gpu("gpu_from");
  bad.gpu_below = row.Gpu("gpu_below");
  bad.driver_branch = row.Number("driver_branch");
  bad.architecture = row.Text("architecture");
  bad.when = row.Text("when");
  bad.what = row.Required("what");
  bad.remedy = row.Required("remedy");
  bad.from_where = row.From();
  return bad;
}

Unexpected Damaged(const std::string& file, const std::string& what) {
  return Missing(fmt::format("images/matrix/{}: {}", file, what),
                 "It is part of envkit: install it again, or run tools/matrix.py --write in the "
                 "source tree.");
}

Result<json> ParseFile(const std::string& file, const std::string& text) {
  json document = json::parse(text, nullptr, false);
  if (document.is_discarded()) return Damaged(file, "this is not JSON");
  if (!document.is_object()) return Damaged(file, "this is not an object");
  const auto schema = document.find("schema");
  if (schema == document.end() || *schema != 1) return Damaged(file, "its schema is not 1");
  return document;
}

template <class T>
Result<std::vector<T>> ReadRows(const std::string& file, const json& document, const char* key,
                                T (*read)(Row&)) {
  const auto list = document.find(key);
  if (list == document.end() || !list->is_array()) {
    return Damaged(file, fmt::format("it has no list \"{}\"", key));
  }
  std::vector<T> rows;
  for (std::size_t index = 0; index < list->size(); ++index) {
    Row row((*list)[index], fmt::format("{}[{}]", key, index));
    rows.push_back(read(row));
    if (!row.problem().empty()) return Damaged(file, row.problem());
  }
  return rows;
}

}  // namespace

bool TorchBuild::OnDefaultIndex() const {
  return std::find(indexes.begin(), indexes.end(), "default") != indexes.end();
}

Result<Matrix> ParseMatrix(const MatrixTexts& texts) {
  Matrix matrix;
  ENVKIT_TRY(const json torch, ParseFile("torch.json", texts.torch));
  ENVKIT_TRY(matrix.builds, ReadRows("torch.json", torch, "builds", ReadBuild));
  if (matrix.builds.empty()) return Damaged("torch.json", "it has no builds");
  std::set<std::pair<std::string, std::string>> seen;
  for (const TorchBuild& build : matrix.builds) {
    if (!seen.emplace(build.torch, build.cuda).second) {
      return Damaged("torch.json",
                     fmt::format("torch {} for CUDA {} is there twice", build.torch, build.cuda));
    }
  }
  std::stable_sort(matrix.builds.begin(), matrix.builds.end(),
                   [](const TorchBuild& a, const TorchBuild& b) {
                     const auto order = CompareVersions(a.torch, b.torch);
                     return order != 0 ? order < 0 : CompareVersions(a.cuda, b.cuda) < 0;
                   });
  Row head(torch, "it");
  matrix.incomplete = head.Texts("incomplete").value_or(std::vector<std::string>{});
  if (!head.problem().empty()) return Damaged("torch.json", head.problem());
  ENVKIT_TRY(const json cuda, ParseFile("cuda.json", texts.cuda));
  ENVKIT_TRY(matrix.releases, ReadRows("cuda.json", cuda, "releases", ReadRelease));
  ENVKIT_TRY(matrix.families, ReadRows("cuda.json", cuda, "families", ReadFamily));
  ENVKIT_TRY(matrix.forward, ReadRows("cuda.json", cuda, "forward_compatibility", ReadForward));
  ENVKIT_TRY(matrix.branches, ReadRows("cuda.json", cuda, "branches", ReadBranch));
  ENVKIT_TRY(matrix.generations, ReadRows("cuda.json", cuda, "generations", ReadGeneration));
  ENVKIT_TRY(const json bad, ParseFile("known-bad.json", texts.known_bad));
  ENVKIT_TRY(matrix.known_bad, ReadRows("known-bad.json", bad, "rows", ReadKnownBad));
  return matrix;
}

Result<Matrix> LoadMatrix(const std::filesystem::path& images) {
  MatrixTexts texts;
  for (auto& [name, text] :
       {std::pair{"torch.json", &texts.torch}, std::pair{"cuda.json", &texts.cuda},
        std::pair{"known-bad.json", &texts.known_bad}}) {
    auto content = ReadFile(images / "matrix" / name);
    if (!content) return Damaged(name, content.error().what);
    *text = std::move(*content);
  }
  return ParseMatrix(texts);
}

}  // namespace envkit

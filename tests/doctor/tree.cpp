#include "doctor/tree.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace envkit {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string Slurp(const fs::path& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error(file.string() + " is missing");
  return {std::istreambuf_iterator<char>(in), {}};
}

void Spill(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  fs::remove(file);
  std::ofstream(file) << text;
}

}  // namespace

fs::path CaseDirectory() {
  return fs::path(std::getenv("ENVKIT_SOURCE_DIR")) / "tests/fixtures/hosts/doctor";
}

std::vector<std::string> CaseNames() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(CaseDirectory()))
    if (entry.path().extension() == ".case") names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

Case LoadCase(const std::string& name) {
  const std::string text = Slurp(CaseDirectory() / (name + ".case"));
  const std::string mark = "@report\n";
  const std::size_t at = text.find(mark);
  if (at == std::string::npos) return {name, "", text};
  return {name, text.substr(at + mark.size()), text.substr(0, at)};
}

void WriteCase(const Case& machine) {
  Spill(CaseDirectory() / (machine.name + ".case"), machine.setup + "@report\n" + machine.report);
}

void MakeTree(const std::string& name, const fs::path& directory) {
  std::istringstream lines(LoadCase(name).setup);
  fs::path file;
  std::string content;
  const auto flush = [&] {
    if (!file.empty()) Spill(directory / file, content);
    file.clear();
    content.clear();
  };
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with('@')) {
      if (!file.empty()) content += line + "\n";
      continue;
    }
    flush();
    std::istringstream words(line);
    std::string verb, path;
    words >> verb >> path;
    std::string rest;
    std::getline(words >> std::ws, rest);
    if (verb == "@base") {
      MakeTree(path, directory);
    } else if (verb == "@file") {
      file = path;
    } else if (verb == "@link") {
      fs::create_directories((directory / path).parent_path());
      fs::remove(directory / path);
      fs::create_symlink(rest, directory / path);
    } else if (verb == "@gone") {
      if (fs::remove_all(directory / path) == 0) throw std::runtime_error(name + ": no " + path);
    } else if (verb == "@set") {
      const std::size_t space = rest.find(' ');
      json document = json::parse(Slurp(directory / path));
      document[json::json_pointer(rest.substr(0, space))] = json::parse(rest.substr(space + 1));
      Spill(directory / path, document.dump(1));
    } else {
      throw std::runtime_error(name + ": what is " + verb);
    }
  }
  flush();
}

const Result<Matrix>& OwnMatrix() {
  static const Result<Matrix> matrix =
      LoadMatrix(std::filesystem::path(std::getenv("ENVKIT_SOURCE_DIR")) / "images");
  return matrix;
}

}  // namespace envkit

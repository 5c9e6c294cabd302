#include "image/index.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <system_error>

#include "base/digest.h"
#include "base/files.h"
#include "base/http.h"
#include "base/text.h"
#include "base/toml.h"
#include "image/wheel_name.h"

extern char** environ;

namespace envkit {
namespace fs = std::filesystem;
namespace {

std::string Get(const ProxyVariables& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() ? "" : found->second;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n\f\v";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

std::vector<std::string> Words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

// "scheme://user:password@host:port" of a URL, in parts.
struct UrlParts {
  std::string scheme, userinfo, host, rest;  // REST begins with "/", "?" or "#", or is empty
};
std::optional<UrlParts> SplitUrl(std::string_view url) {
  const std::size_t colon = url.find("://");
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  UrlParts parts;
  parts.scheme = Lower(url.substr(0, colon));
  const std::size_t begin = colon + 3;
  const std::size_t end = std::min(url.find_first_of("/?#", begin), url.size());
  std::string_view authority = url.substr(begin, end - begin);
  if (const std::size_t at = authority.rfind('@'); at != std::string_view::npos) {
    parts.userinfo = authority.substr(0, at);
    authority.remove_prefix(at + 1);
  }
  parts.host = Lower(authority);
  parts.rest = url.substr(end);
  return parts;
}

std::string PercentEncode(std::string_view text) {
  std::string encoded;
  for (const char letter : text) {
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0 ||
        std::string_view("-._~").find(letter) != std::string_view::npos) {
      encoded += letter;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(letter));
    }
  }
  return encoded;
}

// uv keeps the credentials of an index with a name in UV_INDEX_<NAME>_USERNAME and _PASSWORD.
std::string WithCredentials(const std::string& url, const std::string& name,
                            const ProxyVariables& environment) {
  const auto parts = SplitUrl(url);
  if (name.empty() || !parts || !parts->userinfo.empty()) return url;
  std::string variable = "UV_INDEX_";
  for (const char letter : name) {
    const auto byte = static_cast<unsigned char>(letter);
    variable += std::isalnum(byte) != 0 ? static_cast<char>(std::toupper(byte)) : '_';
  }
  const std::string user = Get(environment, variable + "_USERNAME");
  const std::string password = Get(environment, variable + "_PASSWORD");
  if (user.empty() && password.empty()) return url;
  return fmt::format("{}://{}:{}@{}{}", parts->scheme, PercentEncode(user), PercentEncode(password),
                     parts->host, parts->rest);
}

struct Settings {
  std::string main, origin;
  std::vector<std::string> extra;
};

// uv's own order within a file: what [pip] says, then [[index]], then the older names.
Settings FromUvToml(const fs::path& file, const ProxyVariables& environment) {
  Settings settings;
  const auto text = ReadFile(file);
  if (!text) return settings;
  TomlDocument document(*text, file.string());  // its mistakes are uv's to report
  TomlTable root = document.Root();
  std::string older;
  for (TomlTable table : {root.Table("pip"), root}) {
    if (const auto url = table.String("index-url"); url && older.empty()) older = url->value;
    if (const auto urls = table.Strings("extra-index-url")) {
      for (const TomlString& url : urls->value) settings.extra.push_back(url.value);
    }
  }
  for (TomlTable& index : root.Tables("index")) {
    const auto url = index.String("url");
    const auto name = index.String("name");
    if (!url) continue;
    const std::string full = WithCredentials(url->value, name ? name->value : "", environment);
    if (const auto main = index.Bool("default"); main && main->value) {
      settings.main = full;
    } else if (const auto only = index.Bool("explicit"); !only || !only->value) {
      settings.extra.push_back(full);
    }
  }
  if (settings.main.empty()) settings.main = older;
  settings.origin = file.string();
  return settings;
}

// Python's configparser, as far as pip.conf uses it: [section], key = value or key: value, and
// indented lines that go on with the value.
Settings FromPipConf(const fs::path& file) {
  Settings settings;
  const auto text = ReadFile(file);
  if (!text) return settings;
  std::map<std::string, std::map<std::string, std::string>> sections;
  std::string section;
  std::string* value = nullptr;
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    const std::string_view trimmed = Trim(line);
    if (trimmed.empty() || trimmed[0] == '#' || trimmed[0] == ';') continue;
    if (trimmed[0] == '[' && trimmed.back() == ']') {
      section = Lower(trimmed.substr(1, trimmed.size() - 2));
      value = nullptr;
    } else if ((line[0] == ' ' || line[0] == '\t') && value != nullptr) {
      value->append("\n").append(trimmed);
    } else if (const std::size_t split = trimmed.find_first_of("=:");
               split != std::string_view::npos) {
      std::string key = Lower(Trim(trimmed.substr(0, split)));
      std::replace(key.begin(), key.end(), '_', '-');
      value = &sections[section][key];
      *value = Trim(trimmed.substr(split + 1));
    }
  }
  for (const char* name : {"global", "install"}) {
    const auto& keys = sections[name];
    if (const auto found = keys.find("index-url"); found != keys.end()) {
      settings.main = found->second;
    }
    if (const auto found = keys.find("extra-index-url"); found != keys.end()) {
      settings.extra = Words(found->second);
    }
  }
  settings.origin = file.string();
  return settings;
}

std::vector<fs::path> ConfigDirectories(const ProxyVariables& environment, const fs::path& root) {
  std::vector<fs::path> directories;
  std::istringstream given(Get(environment, "XDG_CONFIG_DIRS"));
  for (std::string directory; std::getline(given, directory, ':');) {
    if (fs::path(directory).is_absolute()) directories.emplace_back(directory);
  }
  if (directories.empty()) directories.push_back(root / "etc/xdg");
  return directories;
}

std::string_view Attribute(std::string_view tag, std::string_view wanted) {
  // TAG is what stands between "<a" and ">": name, name=value, name='value', name="value".
  std::size_t at = 0;
  while (at < tag.size()) {
    at = tag.find_first_not_of(" \t\r\n\f/", at);
    if (at == std::string_view::npos) break;
    const std::size_t name_end = std::min(tag.find_first_of(" \t\r\n\f=/", at), tag.size());
    const std::string_view name = tag.substr(at, name_end - at);
    std::string_view value;
    at = std::min(tag.find_first_not_of(" \t\r\n\f", name_end), tag.size());
    if (at < tag.size() && tag[at] == '=') {
      at = std::min(tag.find_first_not_of(" \t\r\n\f", at + 1), tag.size());
      if (at < tag.size() && (tag[at] == '"' || tag[at] == '\'')) {
        const std::size_t end = std::min(tag.find(tag[at], at + 1), tag.size());
        value = tag.substr(at + 1, end - at - 1);
        at = std::min(end + 1, tag.size());
      } else {
        const std::size_t end = std::min(tag.find_first_of(" \t\r\n\f", at), tag.size());
        value = tag.substr(at, end - at);
        at = end;
      }
    } else if (name.empty()) {
      ++at;  // a stray "="
    }
    if (Lower(name) == wanted) return value;
  }
  return {};
}

std::string UnescapeHtml(std::string_view text) {
  std::string plain;
  while (!text.empty()) {
    bool replaced = false;
    for (const auto& [entity, letter] : {std::pair{"&amp;", '&'},
                                         {"&lt;", '<'},
                                         {"&gt;", '>'},
                                         {"&quot;", '"'},
                                         {"&#39;", '\''},
                                         {"&#x27;", '\''},
                                         {"&#43;", '+'}}) {
      if (text.starts_with(entity)) {
        plain += letter;
        text.remove_prefix(std::string_view(entity).size());
        replaced = true;
        break;
      }
    }
    if (!replaced) {
      plain += text[0];
      text.remove_prefix(1);
    }
  }
  return plain;
}

// Of "…/name.whl#sha256=…": the parts; an index's word for the name of a file is its URL's end.
std::optional<IndexFile> FileOfLink(const std::string& link, std::string_view base) {
  const std::size_t hash = link.find('#');
  const auto url = ResolveUrl(base, std::string_view(link).substr(0, hash));
  if (!url) return std::nullopt;
  IndexFile file;
  file.url = *url;
  const std::size_t path_end = std::min(url->find('?'), url->size());
  const std::size_t slash = url->rfind('/', path_end);
  file.name = PercentDecode(std::string_view(*url).substr(slash + 1, path_end - slash - 1));
  if (hash != std::string::npos) {
    constexpr std::string_view kPrefix = "sha256=";
    const std::size_t at = link.find(kPrefix, hash);
    if (at != std::string::npos) {
      const std::string digest = Lower(std::string_view(link).substr(at + kPrefix.size(), 64));
      if (IsSha256(digest)) file.sha256 = digest;
    }
  }
  return file;
}

bool SafeFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

Result<std::vector<IndexFile>> ParseJsonPage(std::string_view body, std::string_view page_url) {
  const nlohmann::json page = nlohmann::json::parse(body, nullptr, false);
  if (page.is_discarded() || !page.is_object()) return Fail("its JSON is damaged");
  const auto listed = page.find("files");
  if (listed == page.end() || !listed->is_array()) return Fail("its JSON names no files");
  std::vector<IndexFile> files;
  for (const nlohmann::json& entry : *listed) {
    if (!entry.is_object()) continue;
    const auto name = entry.find("filename");
    const auto link = entry.find("url");
    if (name == entry.end() || !name->is_string() || link == entry.end() || !link->is_string()) {
      continue;
    }
    auto file = FileOfLink(link->get<std::string>(), page_url);
    if (!file) continue;
    file->name = name->get<std::string>();
    if (!SafeFileName(file->name)) continue;
    if (const auto size = entry.find("size"); size != entry.end() && size->is_number_unsigned()) {
      file->size = size->get<std::uint64_t>();
    }
    if (const auto hashes = entry.find("hashes"); hashes != entry.end() && hashes->is_object()) {
      const auto sha256 = hashes->find("sha256");
      if (sha256 != hashes->end() && sha256->is_string()) {
        const std::string digest = Lower(sha256->get<std::string>());
        if (IsSha256(digest)) file->sha256 = digest;
      }
    }
    files.push_back(std::move(*file));
  }
  return files;
}

std::vector<IndexFile> ParseHtmlPage(std::string_view body, std::string_view page_url) {
  std::vector<IndexFile> files;
  std::string base(page_url);
  std::size_t at = 0;
  while ((at = body.find('<', at)) != std::string_view::npos) {
    if (body.substr(at, 4) == "<!--") {
      at = std::min(body.find("-->", at), body.size());
      continue;
    }
    const std::size_t end = body.find('>', at);
    if (end == std::string_view::npos) break;
    const std::string_view tag = body.substr(at + 1, end - at - 1);
    at = end + 1;
    const std::size_t name_end = std::min(tag.find_first_of(" \t\r\n\f"), tag.size());
    const std::string name = Lower(tag.substr(0, name_end));
    if (name != "a" && name != "base") continue;
    const std::string link = UnescapeHtml(Attribute(tag.substr(name_end), "href"));
    if (link.empty()) continue;
    if (name == "base") {
      if (const auto url = ResolveUrl(page_url, link)) base = *url;
    } else if (auto file = FileOfLink(link, base); file && SafeFileName(file->name)) {
      files.push_back(std::move(*file));
    }
  }
  return files;
}

// Files on the index's own host are asked for with the index's credentials, as pip does.
std::string WithUserOf(const std::string& index, const std::string& url) {
  const auto from = SplitUrl(index);
  const auto to = SplitUrl(url);
  if (!from || !to || from->userinfo.empty() || !to->userinfo.empty()) return url;
  if (from->scheme != to->scheme || from->host != to->host) return url;
  return fmt::format("{}://{}@{}{}", to->scheme, from->userinfo, to->host, to->rest);
}

}  // namespace

ProxyVariables CurrentEnvironment() {
  ProxyVariables environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return environment;
}

std::vector<std::string> PythonIndexes::All() const {
  std::vector<std::string> all;
  if (!main.empty()) all.push_back(main);
  for (const std::string& url : extra) {
    if (std::find(all.begin(), all.end(), url) == all.end()) all.push_back(url);
  }
  return all;
}

std::string PythonIndexes::Describe() const {
  std::string text = main.empty() ? "uv's default index" : RedactUrl(main);
  if (!origin.empty()) text += fmt::format(" ({})", origin);
  for (const std::string& url : extra) text += fmt::format(", {}", RedactUrl(url));
  return text;
}

ProxyVariables PythonIndexes::ForUv() const {
  ProxyVariables environment;
  if (!main.empty()) environment["UV_DEFAULT_INDEX"] = main;
  std::string others;
  for (const std::string& url : extra) others += (others.empty() ? "" : " ") + url;
  if (!others.empty()) environment["UV_INDEX"] = others;
  return environment;
}

std::string PythonIndexes::Scrub(std::string text) const {
  for (const std::string& url : All()) {
    const auto parts = SplitUrl(url);
    if (!parts || parts->userinfo.empty()) continue;
    const std::string secret = parts->userinfo + "@";
    for (std::size_t at = 0; (at = text.find(secret, at)) != std::string::npos;) {
      text.erase(at, secret.size());
    }
  }
  return text;
}

PythonIndexes ConfiguredIndexes(const std::vector<IndexSetting>& of_project,
                                const ProxyVariables& environment, const fs::path& root) {
  PythonIndexes indexes;
  const auto add = [&indexes](std::string url) {
    if (!url.empty() &&
        std::find(indexes.extra.begin(), indexes.extra.end(), url) == indexes.extra.end()) {
      indexes.extra.push_back(std::move(url));
    }
  };
  const auto take = [&](const Settings& settings) {
    if (indexes.main.empty() && !settings.main.empty()) {
      indexes.main = settings.main;
      indexes.origin = settings.origin;
    }
    for (const std::string& url : settings.extra) add(url);
  };
  // "name=url" where a name is given.
  const auto named = [&environment](const std::string& word) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || equals > word.find("://")) return word;
    return WithCredentials(word.substr(equals + 1), word.substr(0, equals), environment);
  };

  for (const IndexSetting& index : of_project) {
    add(WithCredentials(index.url, index.name, environment));
  }
  for (const char* name : {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"}) {
    const std::vector<std::string> words = Words(Get(environment, name));
    if (!words.empty()) take({named(words.front()), name, {}});
  }
  for (const char* name : {"UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"}) {
    for (const std::string& word : Words(Get(environment, name))) add(named(word));
  }

  const fs::path home = Get(environment, "HOME");
  fs::path user_config = Get(environment, "XDG_CONFIG_HOME");
  if (!user_config.is_absolute() && home.is_absolute()) user_config = home / ".config";
  const std::vector<fs::path> system_config = ConfigDirectories(environment, root);

  if (const std::string given = Get(environment, "UV_CONFIG_FILE"); !given.empty()) {
    take(FromUvToml(given, environment));
  } else if (Get(environment, "UV_NO_CONFIG").empty()) {
    if (!user_config.empty()) take(FromUvToml(user_config / "uv/uv.toml", environment));
    for (const fs::path& directory : system_config) {
      take(FromUvToml(directory / "uv/uv.toml", environment));
    }
    take(FromUvToml(root / "etc/uv/uv.toml", environment));
  }

  // PIP_CONFIG_FILE stands for the user's files; /dev/null there means: no file at all.
  const std::string given = Get(environment, "PIP_CONFIG_FILE");
  if (given == "/dev/null") return indexes;
  std::error_code error;
  const bool replaces_users = !given.empty() && fs::exists(given, error);
  if (replaces_users) take(FromPipConf(given));
  if (const fs::path venv = Get(environment, "VIRTUAL_ENV"); !venv.empty()) {
    take(FromPipConf(venv / "pip.conf"));
  }
  if (!replaces_users) {
    if (!user_config.empty()) take(FromPipConf(user_config / "pip/pip.conf"));
    if (home.is_absolute()) take(FromPipConf(home / ".pip/pip.conf"));
  }
  for (const fs::path& directory : system_config) take(FromPipConf(directory / "pip/pip.conf"));
  take(FromPipConf(root / "etc/pip.conf"));
  return indexes;
}

PythonIndexes IndexesOf(const Project& project, const ProxyVariables& environment) {
  PythonIndexes indexes = ConfiguredIndexes(project.indexes, environment);
  for (const RequirementFile& file : project.requirement_files) {
    for (const std::string& url : file.indexes) {
      if (!SplitUrl(url) || url == indexes.main) continue;
      std::vector<std::string>& extra = indexes.extra;
      if (std::find(extra.begin(), extra.end(), url) == extra.end()) extra.push_back(url);
    }
  }
  return indexes;
}

std::string PercentDecode(std::string_view text) {
  std::string decoded;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto hex = [&](std::size_t place) {
      const char* digits = "0123456789abcdef";
      const char letter = static_cast<char>(std::tolower(static_cast<unsigned char>(text[place])));
      return std::string_view(digits).find(letter);
    };
    if (text[at] == '%' && at + 2 < text.size() && hex(at + 1) != std::string_view::npos &&
        hex(at + 2) != std::string_view::npos) {
      decoded += static_cast<char>(hex(at + 1) * 16 + hex(at + 2));
      at += 2;
    } else {
      decoded += text[at];
    }
  }
  return decoded;
}

std::optional<std::string> ResolveUrl(std::string_view base, std::string_view reference) {
  for (const char letter : reference) {
    if (static_cast<unsigned char>(letter) <= ' ' || letter == '\x7f') return std::nullopt;
  }
  const auto from = SplitUrl(base);
  if (!from) return std::nullopt;
  const auto allowed = [&from](const std::string& scheme) {
    // A page from the network never leads to a local file.
    return scheme == "http" || scheme == "https" || (scheme == "file" && from->scheme == "file");
  };
  const std::size_t colon = reference.find(':');
  const std::size_t slash = reference.find_first_of("/?#");
  if (colon != std::string_view::npos && (slash == std::string_view::npos || colon < slash)) {
    const auto parts = SplitUrl(reference);
    if (!parts || !allowed(parts->scheme)) return std::nullopt;
    if (parts->host.empty() && parts->scheme != "file") return std::nullopt;
    return std::string(reference);
  }
  if (!allowed(from->scheme)) return std::nullopt;
  const std::string authority =
      from->userinfo.empty() ? from->host : from->userinfo + "@" + from->host;
  if (reference.starts_with("//")) return from->scheme + ":" + std::string(reference);

  const std::size_t query = std::min(reference.find_first_of("?#"), reference.size());
  std::string_view relative = reference.substr(0, query);
  std::string path;
  if (!relative.starts_with('/')) {
    path = from->rest.substr(0, from->rest.find_first_of("?#"));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1);
    if (path.empty()) path = "/";
  }
  path += relative;
  std::vector<std::string_view> kept;
  std::string_view rest = path;
  bool directory = false;
  while (!rest.empty()) {
    rest.remove_prefix(1);  // the slash
    const std::size_t end = std::min(rest.find('/'), rest.size());
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(end);
    directory = part.empty() || part == "." || part == "..";
    if (part == ".." && !kept.empty()) kept.pop_back();
    if (!directory) kept.push_back(part);
  }
  std::string clean;
  for (const std::string_view part : kept) clean.append("/").append(part);
  if (directory || clean.empty()) clean += '/';
  return from->scheme + "://" + authority + clean + std::string(reference.substr(query));
}

Result<std::vector<IndexFile>> ParseSimplePage(std::string_view body, std::string_view page_url) {
  const std::string_view text = Trim(body);
  if (text.starts_with('{')) return ParseJsonPage(text, page_url);
  if (text.starts_with('<')) return ParseHtmlPage(text, page_url);
  return Fail("it is neither JSON nor HTML");
}

bool IsNotFound(const Error& error) {
  return error.what.find("HTTP 404") != std::string::npos ||
         error.what.find("HTTP 410") != std::string::npos;
}

namespace {

Result<std::vector<IndexFile>> ReadPage(const std::string& index, const std::string& project,
                                        const std::string& doing) {
  const std::map<std::string, std::string> headers = {
      {"Accept",
       "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
       "text/html;q=0.1"}};
  std::string page_url = index;
  while (page_url.ends_with('/')) page_url.pop_back();
  page_url += "/" + project + "/";
  auto body = HttpGet(page_url, headers);
  if (!body) return Wrap(std::move(body.error()), doing);
  auto files = ParseSimplePage(*body, page_url);
  if (!files) {
    return Wrap(files.error(),
                fmt::format("reading the page of {} on {}", project, RedactUrl(index)));
  }
  return files;
}

}  // namespace

Result<std::vector<IndexFile>> ListProject(const PythonIndexes& indexes, const std::string& name) {
  std::vector<std::string> urls = indexes.extra;
  if (!indexes.main.empty()) urls.push_back(indexes.main);
  for (const std::string& index : urls) {
    auto files = ReadPage(index, name, fmt::format("looking for {} on the Python index", name));
    if (!files && IsNotFound(files.error())) continue;
    if (!files) return Unexpected(std::move(files.error()));
    for (IndexFile& file : *files) file.url = WithUserOf(index, file.url);
    return files;
  }
  return Missing(
      fmt::format("there is no project {} on the Python index {}", name, indexes.Describe()));
}

Result<IndexFile> FindOnIndexes(const PythonIndexes& indexes, const std::string& file,
                                const std::string& sha256) {
  // A data artefact may have a name that is not quite a wheel's: its first part is the project.
  const std::string project = NormaliseName(file.substr(0, file.find('-')));
  std::string seen;
  for (const std::string& index : indexes.All()) {
    auto files = ReadPage(index, project, fmt::format("looking for {} on the Python index", file));
    if (!files && IsNotFound(files.error())) {
      seen += fmt::format("\n{}: no project {}", RedactUrl(index), project);
      continue;
    }
    if (!files) return Unexpected(std::move(files.error()));
    std::string other;
    for (IndexFile& found : *files) {
      if (found.name != file) continue;
      if (found.sha256.empty() || found.sha256 == sha256) {
        found.url = WithUserOf(index, found.url);
        return std::move(found);
      }
      other = found.sha256;
    }
    seen += other.empty()
                ? fmt::format("\n{}: the project has no such file", RedactUrl(index))
                : fmt::format("\n{}: the file has another sha256: {}", RedactUrl(index), other);
  }
  return Missing(fmt::format("{} (sha256 {}) is not on the Python index{}", file, sha256, seen),
                 "Choose an index that has it (UV_DEFAULT_INDEX, or [index] in envkit.toml), or "
                 "lock what this one has: envkit lock --upgrade");
}

}  // namespace envkit

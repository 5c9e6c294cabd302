#include "image/registry.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "image/layer.h"
#include "image/stored.h"

namespace envkit {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

bool Has(const std::string& text, std::string_view words) {
  return text.find(words) != std::string::npos;
}

// skopeo's log lines: time="…" level=fatal msg="…": the last message.
std::string LastMessage(const std::string& text) {
  std::size_t at = text.rfind("msg=\"");
  if (at == std::string::npos) {
    std::string words = text;
    while (!words.empty() && (words.back() == '\n' || words.back() == ' ')) words.pop_back();
    return words.substr(words.rfind('\n') + 1);
  }
  std::string message;
  for (at += 5; at < text.size() && text[at] != '"'; ++at) {
    if (text[at] == '\\' && at + 1 < text.size()) ++at;
    message += text[at];
  }
  return message;
}

Error Explain(const std::string& words, const RegistryReference& reference) {
  Error error;
  error.what = "skopeo: " + LastMessage(words);
  if (Has(words, "unauthorized") || Has(words, "denied") || Has(words, "authentication required")) {
    error.code = ExitCode::kMissing;
    error.next = fmt::format("Log in once:  skopeo login {}", reference.host);
  } else if (Has(words, "connection refused") || Has(words, "no such host") ||
             Has(words, "i/o timeout") || Has(words, "server gave HTTP response")) {
    error.code = ExitCode::kMissing;
    error.next =
        fmt::format("Is {} the right registry, and can this machine reach it?", reference.host);
  } else if (Has(words, "manifest unknown") || Has(words, "name unknown")) {
    error.next = "There is no such image. Look at its name, tag and digest.";
  }
  return error;
}

// skopeo COMMAND OPTIONS, with what REFERENCE's registry needs.
Result<ProcessResult> Skopeo(const std::vector<std::string>& arguments) {
  if (!FindExecutable("skopeo")) {
    return Missing("skopeo is not installed: envkit talks to registries through it",
                   "sudo apt-get install skopeo");
  }
  ProcessSpec spec;
  spec.argv = {"skopeo"};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  return RunProcess(spec);
}

// The registry's manifest (or config) as it is; nullopt: none there, or no answer.
std::optional<std::string> Ask(const RegistryReference& reference, bool config) {
  std::vector<std::string> words = {"inspect", "--raw"};
  if (config) words.emplace_back("--config");
  if (reference.loopback) words.emplace_back("--tls-verify=false");
  words.push_back("docker://" + reference.Text());
  auto result = Skopeo(words);
  if (!result || result->exit_code != 0) return std::nullopt;
  return result->out;
}

std::set<std::string> BlobsOf(const std::string& manifest) {
  std::set<std::string> blobs;
  const json parsed = json::parse(manifest, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("layers") || !parsed["layers"].is_array()) return {};
  for (const json& layer : parsed["layers"]) {
    if (!layer.is_object()) continue;
    const std::string digest = layer.value("digest", "");
    if (digest.starts_with("sha256:")) blobs.insert(digest.substr(7));
  }
  return blobs;
}

Result<void> Copy(const std::string& from, const std::string& to, const char* insecure,
                  const RegistryReference& reference) {
  std::vector<std::string> words = {"copy", "--preserve-digests", "--quiet"};
  if (reference.loopback) words.push_back(fmt::format("--{}-tls-verify=false", insecure));
  words.push_back(from);
  words.push_back(to);
  ENVKIT_TRY(const ProcessResult result, Skopeo(words));
  if (result.exit_code == 0) return {};
  return Unexpected(Explain(result.err + result.out, reference));
}

// Files of the right size, and nothing in them, for the layers that the store has: skopeo takes
// them for fetched, and nobody reads them.
void AddPlaceholders(const std::string& manifest, const std::string& config, const Store& store,
                     const fs::path& layout) {
  const json parsed = json::parse(manifest, nullptr, false);
  const json settings = json::parse(config, nullptr, false);
  const auto pointer = "/rootfs/diff_ids"_json_pointer;
  if (!parsed.is_object() || !parsed.contains("layers") || !parsed["layers"].is_array() ||
      !settings.is_object() || !settings.contains(pointer) || !settings[pointer].is_array() ||
      settings[pointer].size() != parsed["layers"].size()) {
    return;
  }
  for (std::size_t index = 0; index < parsed["layers"].size(); ++index) {
    const json& layer = parsed["layers"][index];
    const json& diff_id = settings[pointer][index];
    if (!layer.is_object() || !diff_id.is_string() || !layer.contains("size") ||
        !layer["size"].is_number_unsigned()) {
      continue;
    }
    const std::string digest = layer.value("digest", ""), id = diff_id.get<std::string>();
    if (!digest.starts_with("sha256:") || !IsSha256(digest.substr(7)) ||
        !id.starts_with("sha256:") || !IsSha256(id.substr(7)) || !LayerBytes(store, id.substr(7))) {
      continue;
    }
    const fs::path blob = layout / "blobs/sha256" / digest.substr(7);
    const int fd = open(blob.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) continue;
    (void)!ftruncate(fd, layer["size"].get<off_t>());
    close(fd);
  }
}

}  // namespace

std::string RegistryReference::Text() const {
  std::string text = host + "/" + repository;
  if (!digest.empty()) return text + "@sha256:" + digest;
  return tag.empty() ? text : text + ":" + tag;
}

Result<RegistryReference> ParseReference(std::string_view text) {
  const std::string given(text);
  const auto wrong = [&] {
    return Usage(fmt::format("\"{}\" names no image in a registry", given),
                 "It looks like registry.example/team/mnist:train-cpu, or ends in @sha256:…");
  };
  if (text.starts_with("docker://")) text.remove_prefix(9);
  RegistryReference reference;
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return wrong();
  reference.host = text.substr(0, slash);
  std::string_view rest = text.substr(slash + 1);
  if (const std::size_t at = rest.find('@'); at != std::string_view::npos) {
    std::string_view digest = rest.substr(at + 1);
    if (!digest.starts_with("sha256:") || !IsSha256(digest.substr(7))) return wrong();
    reference.digest = digest.substr(7);
    rest = rest.substr(0, at);
  }
  if (const std::size_t colon = rest.find(':'); colon != std::string_view::npos) {
    reference.tag = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    if (reference.tag.empty()) return wrong();
    if (!reference.digest.empty()) reference.tag.clear();  // skopeo takes one of them
  }
  reference.repository = rest;
  const auto plain = [](const std::string& word, std::string_view more) {
    return !word.empty() && word.front() != '-' &&
           std::all_of(word.begin(), word.end(), [&](char c) {
             return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    more.find(c) != std::string_view::npos;
           });
  };
  if (!plain(reference.host, ".-:[]") || !plain(reference.repository, "._-/") ||
      (!reference.tag.empty() && !plain(reference.tag, "._-"))) {
    return wrong();
  }
  const std::string name = reference.host.substr(0, reference.host.rfind(':'));
  reference.loopback = name == "localhost" || name == "[::1]" || name.starts_with("127.");
  return reference;
}

Result<PushReport> PushImage(const Image& image, const RegistryReference& to, const Store& store,
                             Compression compression, Terminal& terminal) {
  if (!to.digest.empty()) {
    return Usage("an image is pushed to a name or a tag: its digest follows from what it is");
  }
  const std::string doing = fmt::format("pushing {} to {}", ImageTag(image), to.Text());
  std::set<std::string> known;
  if (const auto manifest = Ask(to, false)) known = BlobsOf(*manifest);
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  const auto attempt = [&]() -> Result<LayoutReport> {
    const fs::path layout = work.path() / "layout";
    ENVKIT_CHECK(RemoveTree(layout));
    ENVKIT_TRY(LayoutReport written,
               WriteOciLayout(image, store, layout, compression, known, terminal));
    auto progress = terminal.StartProgress("push", to.Text(), 0);
    ENVKIT_CHECK(Copy("oci:" + layout.string(), "docker://" + to.Text(), "dest", to));
    return written;
  };
  auto written = attempt();
  if (!written && !known.empty()) {  // the registry may have dropped what its manifest names
    known.clear();
    written = attempt();
  }
  if (!written) return Wrap(std::move(written).error(), doing);
  PushReport report;
  RegistryReference by_digest = to;
  by_digest.digest = written->manifest_digest;
  report.reference = by_digest.Text();
  report.layers = image.layers.size();
  report.skipped = written->left_out;
  std::error_code error;
  for (const fs::directory_entry& blob :
       fs::directory_iterator(work.path() / "layout/blobs/sha256", error)) {
    report.bytes += blob.file_size(error);
  }
  return report;
}

Result<LoadReport> PullImage(const RegistryReference& from, const Store& store,
                             const LoadOptions& options, Terminal& terminal) {
  const std::string doing = fmt::format("pulling {}", from.Text());
  ENVKIT_TRY(const WorkDirectory work, WorkDirectory::Make(store));
  const fs::path layout = work.path() / "layout";
  ENVKIT_CHECK(MakeDirectories(layout / "blobs/sha256"));
  RegistryReference exact = from;
  const auto manifest = Ask(from, false);
  if (manifest) {
    // From here on by digest: the tag may move meanwhile.
    if (exact.digest.empty()) exact.digest = Sha256Of(*manifest);
    if (const auto config = Ask(exact, true)) AddPlaceholders(*manifest, *config, store, layout);
  }
  {
    auto progress = terminal.StartProgress("pull", from.Text(), 0);
    auto copied = Copy("docker://" + exact.Text(), "oci:" + layout.string(), "src", from);
    if (!copied) return Wrap(std::move(copied).error(), doing);
  }
  auto loaded = LoadImage(layout, store, options, terminal);
  if (!loaded) return Wrap(std::move(loaded).error(), doing);
  return loaded;
}

Result<void> FetchLayout(const RegistryReference& from, const fs::path& directory,
                         Terminal& terminal) {
  auto progress = terminal.StartProgress("pull", from.Text(), 0);
  auto copied = Copy("docker://" + from.Text(), "oci:" + directory.string(), "src", from);
  if (!copied) {
    return Wrap(std::move(copied).error(), fmt::format("pulling {}", from.Text()));
  }
  return {};
}

}  // namespace envkit

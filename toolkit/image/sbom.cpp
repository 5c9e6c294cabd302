#include "image/sbom.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <ctime>
#include <filesystem>
#include <set>
#include <sstream>
#include <tuple>

#include "base/digest.h"
#include "image/wheel_papers.h"

namespace envkit {
namespace {

using nlohmann::ordered_json;

constexpr const char* kStatement = "https://in-toto.io/Statement/v1";
constexpr const char* kProvenance = "https://slsa.dev/provenance/v1";
constexpr const char* kBuildType = "urn:envkit:image-build:v1";

std::string Time(std::int64_t epoch) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(epoch)));
}

// What a purl does not take as it is.
std::string Percent(std::string_view text) {
  std::string escaped;
  for (const char byte : text) {
    const auto code = static_cast<unsigned char>(byte);
    if (std::isalnum(code) != 0 || std::string_view(".-_~:").find(byte) != std::string_view::npos) {
      escaped += byte;
    } else {
      escaped += fmt::format("%{:02X}", code);
    }
  }
  return escaped;
}

// The identifiers of SPDX are letters, digits, "." and "-".
std::string SpdxId(const BillItem& item) {
  std::string id = fmt::format("SPDXRef-{}-{}-{}", item.type, item.name, item.version);
  std::replace_if(
      id.begin(), id.end(),
      [](unsigned char byte) { return std::isalnum(byte) == 0 && byte != '.' && byte != '-'; },
      '-');
  return id;
}

// An UUID out of a hash, in the form of version 8: for one's own schemes.
std::string UuidOf(const std::string& text) {
  std::string hex = Sha256Of(text).substr(0, 32);
  hex[12] = '8';
  hex[16] = "89ab"[static_cast<unsigned char>(hex[16]) % 4];
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                     hex.substr(16, 4), hex.substr(20));
}

void Sort(std::vector<BillItem>& items) {
  std::sort(items.begin(), items.end(), [](const BillItem& a, const BillItem& b) {
    return std::tie(a.type, a.name, a.version, a.sha256) <
           std::tie(b.type, b.name, b.version, b.sha256);
  });
  items.erase(std::unique(items.begin(), items.end(),
                          [](const BillItem& a, const BillItem& b) {
                            return a.type == b.type && a.sha256 == b.sha256;
                          }),
              items.end());
}

BillItem ItemOf(const LockedDeb& deb) {
  return {"deb",
          deb.name,
          deb.version,
          deb.sha256,
          std::filesystem::path(deb.file).filename().string(),
          deb.architecture,
          ""};
}

BillItem ItemOf(const LockedWheel& wheel) {
  return {"pypi", wheel.name, wheel.version, wheel.sha256, wheel.file, "", ""};
}

ordered_json SpdxPackage(const BillItem& item) {
  return {{"SPDXID", SpdxId(item)},
          {"name", item.name},
          {"versionInfo", item.version},
          {"packageFileName", item.file},
          {"downloadLocation", "NOASSERTION"},
          {"filesAnalyzed", false},
          {"licenseConcluded", "NOASSERTION"},
          {"licenseDeclared", item.licence.empty() ? "NOASSERTION" : item.licence},
          {"copyrightText", "NOASSERTION"},
          {"checksums", {{{"algorithm", "SHA256"}, {"checksumValue", item.sha256}}}},
          {"externalRefs",
           {{{"referenceCategory", "PACKAGE-MANAGER"},
             {"referenceType", "purl"},
             {"referenceLocator", item.Purl()}}}}};
}

// SPDX wants the licences that are not on its list to be there in words.
ordered_json OwnLicences(const std::vector<BillItem>& items) {
  std::set<std::string> references;
  for (const BillItem& item : items) {
    std::string words = item.licence;
    std::replace_if(
        words.begin(), words.end(), [](char byte) { return byte == '(' || byte == ')'; }, ' ');
    std::istringstream in(words);
    for (std::string word; in >> word;) {
      if (word.starts_with("LicenseRef-")) references.insert(word);
    }
  }
  ordered_json list = ordered_json::array();
  for (const std::string& reference : references) {
    list.push_back({{"licenseId", reference},
                    {"extractedText", "The packages that name this licence have its text."}});
  }
  return list;
}

ordered_json Material(const BillItem& item) {
  return {{"name", item.file}, {"uri", item.Purl()}, {"digest", {{"sha256", item.sha256}}}};
}

}  // namespace

std::string BillItem::Purl() const {
  if (type == "deb") {
    return fmt::format("pkg:deb/debian/{}@{}?arch={}", Percent(name), Percent(version),
                       Percent(architecture));
  }
  return fmt::format("pkg:pypi/{}@{}?file_name={}", Percent(name), Percent(version), Percent(file));
}

Bill MakeBill(const Image& image, const ImagePlan& plan, const Lock& lock, const Store& store,
              const std::string& envkit_version) {
  Bill bill;
  bill.name = ImageTag(image);
  bill.profile = image.profile;
  bill.variant = image.variant;
  bill.codename = lock.inputs.base.substr(lock.inputs.base.find(':') + 1);
  bill.config_digest = image.config_digest;
  bill.lock_digest = image.lock_digest;
  bill.time = plan.source_date_epoch;
  bill.envkit_version = envkit_version;
  for (std::size_t index = 0; index < plan.layers.size(); ++index) {
    const LayerPlan& layer = plan.layers[index];
    const bool built_here = layer.kind == "runtime";
    std::vector<BillItem>& items = built_here ? bill.build_items : bill.items;
    for (const LockedDeb& deb : layer.debs) items.push_back(ItemOf(deb));
    for (const LockedWheel& wheel : layer.wheels) {
      BillItem item = ItemOf(wheel);
      if (index < image.layers.size() && !built_here) {
        if (const auto papers = ReadWheelPapers(store, image.layers[index], wheel)) {
          item.licence = LicenceOf(papers->metadata);
        }
      }
      items.push_back(std::move(item));
    }
    if (built_here && index < image.layers.size()) {
      bill.runtime_diff_id = image.layers[index].diff_id;
    }
  }
  Sort(bill.items);
  Sort(bill.build_items);
  return bill;
}

ordered_json SpdxOf(const Bill& bill) {
  ordered_json packages = ordered_json::array();
  ordered_json relations = ordered_json::array();
  const std::string image = "SPDXRef-image";
  packages.push_back(
      {{"SPDXID", image},
       {"name", bill.name},
       {"versionInfo", "sha256:" + bill.config_digest},
       {"downloadLocation", "NOASSERTION"},
       {"filesAnalyzed", false},
       {"licenseConcluded", "NOASSERTION"},
       {"licenseDeclared", "NOASSERTION"},
       {"copyrightText", "NOASSERTION"},
       {"primaryPackagePurpose", "CONTAINER"},
       {"checksums", {{{"algorithm", "SHA256"}, {"checksumValue", bill.config_digest}}}}});
  packages.push_back({{"SPDXID", "SPDXRef-envkit-runtime"},
                      {"name", "envkit-runtime"},
                      {"versionInfo", bill.envkit_version},
                      {"downloadLocation", "NOASSERTION"},
                      {"filesAnalyzed", false},
                      {"licenseConcluded", "NOASSERTION"},
                      {"licenseDeclared", "NOASSERTION"},
                      {"copyrightText", "NOASSERTION"}});
  relations.push_back({{"spdxElementId", "SPDXRef-DOCUMENT"},
                       {"relationshipType", "DESCRIBES"},
                       {"relatedSpdxElement", image}});
  relations.push_back({{"spdxElementId", image},
                       {"relationshipType", "CONTAINS"},
                       {"relatedSpdxElement", "SPDXRef-envkit-runtime"}});
  for (const BillItem& item : bill.items) {
    packages.push_back(SpdxPackage(item));
    relations.push_back({{"spdxElementId", image},
                         {"relationshipType", "CONTAINS"},
                         {"relatedSpdxElement", SpdxId(item)}});
  }
  ordered_json document = {
      {"spdxVersion", "SPDX-2.3"},
      {"dataLicense", "CC0-1.0"},
      {"SPDXID", "SPDXRef-DOCUMENT"},
      {"name", bill.name},
      {"documentNamespace",
       "urn:uuid:" + UuidOf(fmt::format("spdx {} {}", bill.config_digest, bill.lock_digest))},
      {"creationInfo",
       {{"created", Time(bill.time)}, {"creators", {"Tool: envkit-" + bill.envkit_version}}}},
      {"packages", packages},
      {"relationships", relations}};
  if (ordered_json own = OwnLicences(bill.items); !own.empty()) {
    document["hasExtractedLicensingInfos"] = std::move(own);
  }
  return document;
}

ordered_json CycloneDxOf(const Bill& bill) {
  const std::string image = "sha256:" + bill.config_digest;
  ordered_json components = ordered_json::array();
  ordered_json refs = ordered_json::array();
  components.push_back({{"type", "application"},
                        {"bom-ref", "envkit-runtime"},
                        {"name", "envkit-runtime"},
                        {"version", bill.envkit_version}});
  refs.push_back("envkit-runtime");
  for (const BillItem& item : bill.items) {
    ordered_json component = {{"type", "library"},
                              {"bom-ref", item.Purl()},
                              {"name", item.name},
                              {"version", item.version},
                              {"hashes", {{{"alg", "SHA-256"}, {"content", item.sha256}}}}};
    if (!item.licence.empty()) component["licenses"] = {{{"expression", item.licence}}};
    component["purl"] = item.Purl();
    components.push_back(std::move(component));
    refs.push_back(item.Purl());
  }
  return {{"bomFormat", "CycloneDX"},
          {"specVersion", "1.6"},
          {"serialNumber", "urn:uuid:" + UuidOf(fmt::format("cyclonedx {} {}", bill.config_digest,
                                                            bill.lock_digest))},
          {"version", 1},
          {"metadata",
           {{"timestamp", Time(bill.time)},
            {"tools",
             {{"components",
               {{{"type", "application"}, {"name", "envkit"}, {"version", bill.envkit_version}}}}}},
            {"component",
             {{"type", "container"},
              {"bom-ref", image},
              {"name", bill.name},
              {"version", image},
              {"properties",
               {{{"name", "envkit:lock-digest"}, {"value", bill.lock_digest}},
                {{"name", "envkit:profile"}, {"value", bill.profile}},
                {{"name", "envkit:variant"}, {"value", bill.variant}}}}}}}},
          {"components", components},
          {"dependencies", {{{"ref", image}, {"dependsOn", refs}}}}};
}

ordered_json ProvenanceOf(const Bill& bill) {
  ordered_json materials = ordered_json::array();
  materials.push_back({{"name", "envkit.lock"},
                       {"uri", "urn:envkit:lock:" + bill.lock_digest},
                       {"digest", {{"sha256", bill.lock_digest}}}});
  std::vector<BillItem> all = bill.items;
  all.insert(all.end(), bill.build_items.begin(), bill.build_items.end());
  Sort(all);
  for (const BillItem& item : all) materials.push_back(Material(item));
  return {{"_type", kStatement},
          {"subject", {{{"name", bill.name}, {"digest", {{"sha256", bill.config_digest}}}}}},
          {"predicateType", kProvenance},
          {"predicate",
           {{"buildDefinition",
             {{"buildType", kBuildType},
              {"externalParameters",
               {{"lock", bill.lock_digest}, {"profile", bill.profile}, {"variant", bill.variant}}},
              {"internalParameters", {{"source_date_epoch", bill.time}}},
              {"resolvedDependencies", materials}}},
            {"runDetails",
             {{"builder",
               {{"id", "urn:envkit:local-build"}, {"version", {{"envkit", bill.envkit_version}}}}},
              {"metadata", {{"invocationId", "sha256:" + bill.config_digest}}},
              {"byproducts",
               {{{"name", "the runtime layer, compiled here"},
                 {"digest", {{"sha256", bill.runtime_diff_id}}}}}}}}}}};
}

std::vector<std::string> ProvenanceDifferences(const nlohmann::json& statement, const Bill& bill) {
  using nlohmann::json;
  std::vector<std::string> differences;
  if (!statement.is_object() || statement.value("_type", "") != kStatement ||
      statement.value("predicateType", "") != kProvenance) {
    return {"it is no in-toto statement with a SLSA 1 provenance"};
  }
  const json expected = json::parse(ProvenanceOf(bill).dump());
  if (statement.value("subject", json()) != expected["subject"]) {
    differences.push_back(
        fmt::format("its subject is not {}, sha256:{}", bill.name, bill.config_digest));
  }
  const json::json_pointer materials("/predicate/buildDefinition/resolvedDependencies");
  auto list = [&](const json& from) {
    std::set<std::string> lines;
    const json all = from.value(materials, json::array());
    for (const json& one : all) {
      if (!one.is_object()) continue;
      lines.insert(fmt::format("{} sha256 {}", one.value("name", ""),
                               one.value("/digest/sha256"_json_pointer, "")));
    }
    return lines;
  };
  const std::set<std::string> want = list(expected), have = list(statement);
  for (const std::string& line : want) {
    if (!have.contains(line)) differences.push_back("it does not name " + line);
  }
  for (const std::string& line : have) {
    if (!want.contains(line))
      differences.push_back("it names " + line + ", which the lock has not");
  }
  return differences;
}

}  // namespace envkit

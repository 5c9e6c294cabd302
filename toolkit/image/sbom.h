// What is in an image, and how it came to be, in the formats that other tools read: SPDX 2.3,
// CycloneDX 1.6, an in-toto statement with a SLSA 1 provenance. Pure: the same image gives the same
// bytes, with times from the lock and identifiers from the digests.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "image/build.h"
#include "image/image.h"
#include "image/store.h"

namespace envkit {

struct BillItem {
  std::string type;  // pypi | deb
  std::string name, version, sha256, file;
  std::string architecture;  // deb
  std::string licence;       // an SPDX expression; empty: not said
  std::string Purl() const;
};

struct Bill {
  std::string name;  // "mnist:train-cpu"
  std::string profile, variant, codename;
  std::string config_digest, lock_digest;
  std::int64_t time = 0;  // SOURCE_DATE_EPOCH
  std::string envkit_version;
  std::string runtime_diff_id;        // what was compiled here
  std::vector<BillItem> items;        // in the image, sorted
  std::vector<BillItem> build_items;  // the builder's, which made the runtime layer
};
// Licences from the wheels' METADATA where the store has it.
Bill MakeBill(const Image& image, const ImagePlan& plan, const Lock& lock, const Store& store,
              const std::string& envkit_version);

nlohmann::ordered_json SpdxOf(const Bill& bill);
nlohmann::ordered_json CycloneDxOf(const Bill& bill);
// Unsigned: who built it is this machine's word.
nlohmann::ordered_json ProvenanceOf(const Bill& bill);

// Does STATEMENT, as ProvenanceOf made it, speak of this image and of no other materials? A line
// for each difference.
std::vector<std::string> ProvenanceDifferences(const nlohmann::json& statement, const Bill& bill);

}  // namespace envkit

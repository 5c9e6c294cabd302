// What `envkit lock` did, as data.
#pragma once

#include <nlohmann/json.hpp>

#include "image/resolve.h"

namespace envkit {

nlohmann::json LockReportToJson(const LockReport& report);      // docs/schemas/lock.json
nlohmann::json RecordReportToJson(const RecordReport& report);  // docs/schemas/lock-record.json

}  // namespace envkit

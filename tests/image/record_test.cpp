#include "image/record.h"

#include <doctest/doctest.h>

#include "base/digest.h"
#include "image/world.h"

namespace envkit {

TEST_CASE("RECORD is read as CSV, with quotes and hashes of any padding") {
  const std::string hash = Sha256Of("content");
  const auto record = ParseRecord(
      "a.py,sha256=7XACtDnprIRfIjV9giusFERzD722AW0-yUMil7nsn3M,7\r\n"
      "\n"
      "\"b,\"\"c\"\".py\",sha256=7XACtDnprIRfIjV9giusFERzD722AW0-yUMil7nsn3M=,7\n"
      "d.py,sha512=abc,1\n"
      "x.dist-info/RECORD,,",
      "x");
  REQUIRE(record);
  REQUIRE(record->size() == 4);
  CHECK((*record)[0].path == "a.py");
  CHECK((*record)[0].sha256 == hash);
  CHECK((*record)[0].size == 7);
  CHECK((*record)[1].path == "b,\"c\".py");
  CHECK((*record)[1].sha256 == hash);
  CHECK((*record)[2].sha256.empty());
  CHECK((*record)[3].path == "x.dist-info/RECORD");
  CHECK(TextOf(ParseRecord("\"a.py,sha256=,1", "x.whl")) ==
        "error: x.whl: RECORD has a quote that never ends\n");
  CHECK(TextOf(ParseRecord("a,b\r\nc,,\n", "x.whl")) ==
        "error: x.whl: RECORD has the line \"a,b\"\n");
  CHECK(TextOf(ParseRecord("a,sha256=!,1\n", "x.whl")) ==
        "error: x.whl: RECORD has a hash of a that is none: sha256=!\n");
}

TEST_CASE("RECORD is written as seen from where packages are") {
  const std::string site = "usr/local/lib/python3.13/dist-packages";
  const std::string hash = Sha256Of("content");
  CHECK(RecordText({{site + "/a,b.py", hash, 7},
                    {"usr/local/bin/x", hash, 7},
                    {"usr/local/lib/python3.13/x", hash, 7},
                    {site + "/x.dist-info/RECORD", "", 0}},
                   site) ==
        "\"a,b.py\",sha256=7XACtDnprIRfIjV9giusFERzD722AW0-yUMil7nsn3M,7\n"
        "../../../bin/x,sha256=7XACtDnprIRfIjV9giusFERzD722AW0-yUMil7nsn3M,7\n"
        "../x,sha256=7XACtDnprIRfIjV9giusFERzD722AW0-yUMil7nsn3M,7\n"
        "x.dist-info/RECORD,,\n");
}

TEST_CASE("RECORD is the one at the top") {
  CHECK(DistInfoOfRecord("x-1.dist-info/RECORD") == "x-1.dist-info");
  CHECK(DistInfoOfRecord("a/x-1.dist-info/RECORD").empty());
  CHECK(IsRecordItself("x-1.dist-info/RECORD.jws"));
  CHECK_FALSE(IsRecordItself("x-1.dist-info/METADATA"));
}

}  // namespace envkit

#include "image/installed_wheel.h"

#include <doctest/doctest.h>

#include "base/digest.h"

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
  CHECK(record->at("a.py").sha256 == hash);
  CHECK(record->at("b,\"c\".py").sha256 == hash);
  CHECK(record->at("d.py").sha256.empty());
  CHECK_FALSE(ParseRecord("\"a.py,sha256=,1", "x"));
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

TEST_CASE("commands come from entry points") {
  const auto scripts = ParseEntryPoints(
      "# comment\n[torch.backends]\nno = this:one\n\n[console_scripts]\r\n"
      "torchrun = torch.distributed.run:main\nwith-extra=a.b:C.run [extra]\n"
      "[gui_scripts]\nwindow = w:main\n",
      "x");
  REQUIRE(scripts);
  REQUIRE(scripts->size() == 3);
  CHECK(ScriptText(scripts->at(0)) ==
        "#!/usr/bin/python3\nimport sys\nfrom torch.distributed.run import main\n"
        "if __name__ == \"__main__\":\n    sys.exit(main())\n");
  CHECK(ScriptText(scripts->at(1)).find("from a.b import C\n") != std::string::npos);
  CHECK(ScriptText(scripts->at(1)).find("sys.exit(C.run())\n") != std::string::npos);
  CHECK(scripts->at(2).name == "window");
  for (const char* wrong : {"../x = a:b", "x = a", "x = a:", "x", "x = a;b:c", "x = a:b c"}) {
    CAPTURE(wrong);
    CHECK_FALSE(ParseEntryPoints(std::string("[console_scripts]\n") + wrong + "\n", "x"));
  }
}

TEST_CASE("scripts run the image's Python") {
  CHECK(WithInterpreter("#!python\nx") == "#!/usr/bin/python3\nx");
  CHECK(WithInterpreter("#!pythonw -E\nx") == "#!/usr/bin/python3 -E\nx");
  CHECK(WithInterpreter("#!python") == "#!/usr/bin/python3");
  CHECK(WithInterpreter("#!/bin/sh\nx") == "#!/bin/sh\nx");
  CHECK(WithInterpreter("") == "");
}

TEST_CASE("RECORD is the one at the top") {
  CHECK(DistInfoOfRecord("x-1.dist-info/RECORD") == "x-1.dist-info");
  CHECK(DistInfoOfRecord("a/x-1.dist-info/RECORD").empty());
  CHECK(IsRecordItself("x-1.dist-info/RECORD.jws"));
  CHECK_FALSE(IsRecordItself("x-1.dist-info/METADATA"));
}

TEST_CASE("a wheel that is left out says so") {
  CHECK(LeftOutMetadata("triton", "3.9.0") ==
        "Metadata-Version: 2.1\nName: triton\nVersion: 3.9.0\n"
        "Summary: Left out of this image for CPUs: its files are for GPUs. The cuda variant has "
        "them.\n");
}

}  // namespace envkit

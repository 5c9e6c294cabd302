#include "image/installed_wheel.h"

#include <doctest/doctest.h>

namespace envkit {

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

TEST_CASE("a wheel that is left out says so") {
  CHECK(LeftOutMetadata("triton", "3.9.0") ==
        "Metadata-Version: 2.1\nName: triton\nVersion: 3.9.0\n"
        "Summary: Left out of this image for CPUs: its files are for GPUs. The cuda variant has "
        "them.\n");
}

}  // namespace envkit

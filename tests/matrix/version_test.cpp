#include "matrix/version.h"

#include <doctest/doctest.h>

using namespace envkit;

TEST_CASE("versions compare as numbers") {
  CHECK(CompareVersions("2.9.1", "2.10.0") < 0);
  CHECK(CompareVersions("12.8", "12.8.0") == 0);
  CHECK(CompareVersions("550.54.14", "525.60.13") > 0);
  CHECK(CompareVersions("525.60.13", "525.60.2") > 0);
  CHECK(MajorMinor("13.2.2") == "13.2");
  CHECK(MajorMinor("13.2") == "13.2");
  CHECK(MajorMinor("13") == "13");
  CHECK(MajorOf("570.26") == 570);
}

TEST_CASE("a line has its releases, and none of another") {
  CHECK(InLine("2.15.0", "2.15"));
  CHECK(InLine("2.15.0", "2.15.0"));
  CHECK_FALSE(InLine("2.15.0", "2.1"));
  CHECK_FALSE(InLine("2.1.0", "2.15"));
  CHECK_FALSE(InLine("2.15.1", "2.15.0"));
}

TEST_CASE("what is no version") {
  for (const char* text : {"550", "550.54", "550.54.14", "0"}) CHECK(IsVersion(text));
  for (const char* text :
       {"", ".", "550.", ".550", "550..1", "abc", "550.54-beta", " 550", "550\n", "-1", "1234567",
        "1.1.1.1.1.1.1", "N/A", "550,54", "999999999999999999999999"}) {
    CAPTURE(text);
    CHECK_FALSE(IsVersion(text));
  }
}

TEST_CASE("compute capabilities as people and compilers write them") {
  for (const char* text : {"8.6", "86", "sm_86", "compute_86", "sm_86a"}) {
    CAPTURE(text);
    CHECK(ParseCapability(text) == Capability{8, 6});
  }
  CHECK(ParseCapability("12.0") == Capability{12, 0});
  CHECK(ParseCapability("120") == Capability{12, 0});
  CHECK(ParseCapability("sm_100f") == Capability{10, 0});
  for (const char* text :
       {"", "8", "8.", ".6", "8.66", "8.6.1", "H100", "sm_", "0.5", "1200", "a"}) {
    CAPTURE(text);
    CHECK_FALSE(ParseCapability(text));
  }
  CHECK(Capability{9, 0} < Capability{10, 0});
}

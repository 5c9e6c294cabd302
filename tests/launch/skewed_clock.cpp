// A library to preload: the wall clock is SKEWED_CLOCK seconds off, as on a node without NTP.
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>

extern "C" int clock_gettime(clockid_t id, timespec* now) noexcept {
  const long result = syscall(SYS_clock_gettime, id, now);
  const char* skew = getenv("SKEWED_CLOCK");
  if (id == CLOCK_REALTIME && skew != nullptr) now->tv_sec += atol(skew);
  return static_cast<int>(result);
}

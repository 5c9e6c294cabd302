// Whether the kernel lets this user have namespaces at all, asked without the code under test.
#pragma once

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

namespace envkit {

inline bool NamespacesAllowed(bool as_root = geteuid() == 0) {
  const pid_t pid = fork();
  if (pid == 0) {
    if (!as_root && geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) _exit(1);
    _exit(unshare(CLONE_NEWNS | CLONE_NEWNET | (as_root ? 0 : CLONE_NEWUSER)) == 0 ? 0 : 1);
  }
  int status = 1;
  waitpid(pid, &status, 0);
  if (status != 0) MESSAGE("skipped: the kernel forbids namespaces here");
  return status == 0;
}

}  // namespace envkit

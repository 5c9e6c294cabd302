// The port at which the ranks meet.
//
// Note: a port that was found free and then closed again can be taken before rank 0 listens on it,
// by another job or as the source port of any connection. So we keep it bound, without listening,
// until the job ends. Linux lets rank 0 listen on it all the same as long as both sides set
// SO_REUSEADDR (every TCPStore does), and gives a bound port to nobody who asks for any free one.
// Two launches that name one port would both succeed so; therefore each claims its port under a
// name that only one process can have. What remains is a stranger who names this very port and
// listens before rank 0 does.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "launch/process.h"

namespace envkit {

struct HeldPort {
  Fd socket;
  Fd claim;  // against another launch with the same port
  int port = 0;
};

// WANTED 0: any free one. A taken one is an error that names who has it.
Result<HeldPort> HoldPort(int wanted);

struct PortHolder {
  std::optional<int> pid;  // nullopt: another user's, or not visible in this container
  std::string program;     // "python3"
  std::string arguments;   // "train_old.py --lr 0.1"
  std::string user;        // "ana", or the number
  bool may_stop = true;    // it is ours, or we are root
};
// Who listens on PORT, from PROC/net/tcp{,6} and PROC/*/fd.
std::optional<PortHolder> FindPortHolder(int port, const std::filesystem::path& proc = "/proc");
// The launch that has claimed PORT.
std::optional<PortHolder> FindClaimHolder(int port, const std::filesystem::path& proc = "/proc");
Error PortTaken(int port, const std::optional<PortHolder>& holder);

}  // namespace envkit

// Addresses and connections between the launchers of several nodes.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "launch/process.h"

namespace envkit {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  std::string Text() const;  // "10.0.0.1", without the port
};

std::string HostName();

struct Interface {
  std::string name;
  Address address;
};
std::vector<Interface> Interfaces();  // those that are up, loopback last
std::string InterfacesText(const std::vector<Interface>& interfaces);  // "eth0 10.0.0.1, lo …"

// HOST may be a name; the error says what the resolver said.
Result<std::vector<Address>> Resolve(const std::string& host, int port);

// NAME is an interface ("eth0") or an address of this machine.
Result<Address> LocalAddress(const std::string& name, const std::vector<Interface>& interfaces);

bool IsLocal(const std::vector<Address>& addresses, const std::vector<Interface>& interfaces);

// Listens at PORT of LOCAL, or of every address where it is empty. ERROR is the errno of a failure.
Fd Listen(const Address* local, int port, int& error);
// Starts to connect; poll for writing, then ask ConnectError.
Fd StartConnect(const Address& to, const Address* from, int& error);
int ConnectError(int fd);

}  // namespace envkit

#include "launch/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace envkit {
namespace {

void SetPort(Address& address, int port) {
  const auto number = htons(static_cast<std::uint16_t>(port));
  if (address.storage.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address.storage).sin6_port = number;
  } else {
    reinterpret_cast<sockaddr_in&>(address.storage).sin_port = number;
  }
}

Address Copy(const sockaddr* address, socklen_t length) {
  Address copy;
  copy.length = length;
  std::memcpy(&copy.storage, address, length);
  return copy;
}

Fd Socket(int family) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  if (fd) setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

}  // namespace

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::string Address::Text() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(storage);
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
      inet_ntop(AF_INET, &in6.sin6_addr.s6_addr[12], text, sizeof text);
    } else {
      inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof text);
    }
  } else {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(storage).sin_addr, text, sizeof text);
  }
  return text;
}

std::vector<Interface> Interfaces() {
  std::vector<Interface> found;
  std::vector<Interface> loopback;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return found;
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || (each->ifa_flags & IFF_UP) == 0) continue;
    const int family = each->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    Interface one;
    one.name = each->ifa_name;
    one.address =
        Copy(each->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    ((each->ifa_flags & IFF_LOOPBACK) != 0 ? loopback : found).push_back(std::move(one));
  }
  freeifaddrs(list);
  found.insert(found.end(), loopback.begin(), loopback.end());
  return found;
}

std::string InterfacesText(const std::vector<Interface>& interfaces) {
  std::string text;
  for (const Interface& one : interfaces) {
    const std::string address = one.address.Text();
    if (address.starts_with("fe80:")) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", one.name, address);
  }
  return text.empty() ? "none is up" : text;
}

Result<std::vector<Address>> Resolve(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (error != 0) {
    return Missing(fmt::format("the address of {} is not known: {}", host, gai_strerror(error)),
                   "Check the name, or give node 0's IP address.");
  }
  std::vector<Address> addresses;
  for (const addrinfo* each = list; each != nullptr; each = each->ai_next) {
    if (each->ai_family != AF_INET && each->ai_family != AF_INET6) continue;
    addresses.push_back(Copy(each->ai_addr, each->ai_addrlen));
    SetPort(addresses.back(), port);
  }
  freeaddrinfo(list);
  return addresses;
}

Result<Address> LocalAddress(const std::string& name, const std::vector<Interface>& interfaces) {
  for (const int family : {AF_INET, AF_INET6}) {
    for (const Interface& one : interfaces) {
      if (one.address.storage.ss_family != family) continue;
      if (one.name == name || one.address.Text() == name) return one.address;
    }
  }
  return Usage(fmt::format("this machine has no interface or address {}", name),
               fmt::format("It has {}.", InterfacesText(interfaces)));
}

bool IsLocal(const std::vector<Address>& addresses, const std::vector<Interface>& interfaces) {
  return std::any_of(addresses.begin(), addresses.end(), [&](const Address& address) {
    return address.Text().starts_with("127.") ||
           std::any_of(interfaces.begin(), interfaces.end(),
                       [&](const Interface& one) { return one.address.Text() == address.Text(); });
  });
}

Fd Listen(const Address* local, int port, int& error) {
  const auto listen_at = [&](Address address) {
    SetPort(address, port);
    Fd fd = Socket(address.storage.ss_family);
    const int on = 1;
    const int off = 0;
    if (fd) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd && local == nullptr && address.storage.ss_family == AF_INET6) {
      setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    }
    if (!fd || bind(fd.get(), reinterpret_cast<sockaddr*>(&address.storage), address.length) != 0 ||
        listen(fd.get(), 1024) != 0) {
      error = errno;
      return Fd();
    }
    error = 0;
    return fd;
  };
  if (local != nullptr) return listen_at(*local);
  Address any;
  any.storage.ss_family = AF_INET6;
  any.length = sizeof(sockaddr_in6);
  Fd fd = listen_at(any);
  if (fd || error == EADDRINUSE || error == EACCES) return fd;
  any.storage.ss_family = AF_INET;  // IPv6 is switched off here
  any.length = sizeof(sockaddr_in);
  return listen_at(any);
}

Fd StartConnect(const Address& to, const Address* from, int& error) {
  Fd fd = Socket(to.storage.ss_family);
  error = fd ? 0 : errno;
  if (!fd) return fd;
  if (from != nullptr && from->storage.ss_family == to.storage.ss_family) {
    Address own = *from;
    SetPort(own, 0);
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&own.storage), own.length) != 0) {
      error = errno;
      return {};
    }
  }
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&to.storage), to.length) != 0 &&
      errno != EINPROGRESS) {
    error = errno;
    return {};
  }
  return fd;
}

int ConnectError(int fd) {
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

}  // namespace envkit

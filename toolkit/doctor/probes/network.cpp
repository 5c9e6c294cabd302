#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "doctor/probes/probes.h"

namespace envkit::doctor {
namespace {

// From /etc/hosts, else from the resolver. A resolver that hangs is cut off by the probe's limit.
Text Resolve(const Root& root, const std::string& hostname) {
  Text fact;
  fact.from = "/etc/hosts";
  if (hostname.empty()) {
    fact.unknown = "this machine's name could not be read";
    return fact;
  }
  for (const std::string& line : Lines(root.Read("/etc/hosts"))) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string address, name;
    words >> address;
    while (words >> name) {
      if (name != hostname) continue;
      fact.value = address;
      return fact;
    }
  }
  fact.from = "/etc/hosts, the resolver";
  if (!root.live()) return fact;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(hostname.c_str(), nullptr, &hints, &found) != 0) return fact;
  char text[NI_MAXHOST];
  if (found != nullptr && getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, nullptr,
                                      0, NI_NUMERICHOST) == 0)
    fact.value = text;
  freeaddrinfo(found);
  return fact;
}

// "   0: 00000000:1F90 00000000:0000 0A …": 0A is LISTEN.
void AddListeners(const std::string& table, std::set<std::int64_t>& ports) {
  for (const std::string& line : Lines(table)) {
    std::istringstream words(line);
    std::string number, local, remote, state;
    if (!(words >> number >> local >> remote >> state) || state != "0A") continue;
    const std::size_t colon = local.rfind(':');
    if (colon == std::string::npos) continue;
    ports.insert(std::strtol(local.c_str() + colon + 1, nullptr, 16));
  }
}

}  // namespace

void ProbeNetwork(const Root& root, NetworkFacts& facts) {
  const std::string base = "/sys/class/net";
  for (const std::string& name : root.List(base)) {
    const std::string here = base + "/" + name;
    Interface interface;
    interface.name = name;
    const auto flags = std::strtol(root.ReadLine(here + "/flags").c_str(), nullptr, 16);
    interface.loopback = (flags & 0x8) != 0;
    interface.up = (flags & 0x1) != 0 && root.ReadLine(here + "/operstate") != "down";
    interface.physical = root.Exists(here + "/device");
    interface.speed = ToInteger(root.ReadLine(here + "/speed")).value_or(0);
    facts.interfaces.push_back(std::move(interface));
  }
  for (const std::string& name : root.List("/sys/class/infiniband")) {
    const std::string port = "/sys/class/infiniband/" + name + "/ports/1";
    facts.rdma.push_back(
        {name, root.ReadLine(port + "/link_layer"), root.ReadLine(port + "/state")});
  }
  std::set<std::int64_t> ports;
  AddListeners(root.Read("/proc/net/tcp"), ports);
  AddListeners(root.Read("/proc/net/tcp6"), ports);
  facts.listening.assign(ports.begin(), ports.end());
  facts.firewall.from = "/etc/ufw/ufw.conf, /run/firewalld";
  for (const std::string& line : Lines(root.Read("/etc/ufw/ufw.conf")))
    if (line.starts_with("ENABLED=yes")) facts.firewall.value = "ufw";
  if (root.Exists("/run/firewalld")) facts.firewall.value = "firewalld";
  facts.hostname_address = Resolve(root, root.ReadLine("/proc/sys/kernel/hostname"));
  if (root.List(base).empty()) facts.unknown = "/sys/class/net cannot be read";
}

}  // namespace envkit::doctor

// An HTTP server on 127.0.0.1 that answers from a map; it lives as long as the object.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace envkit {

class LocalServer {
 public:
  // PAGES by path ("/simple/tiny/"); all else is 404.
  explicit LocalServer(std::map<std::string, std::string> pages) : pages_(std::move(pages)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(listener_, 64) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      std::abort();
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  LocalServer(const LocalServer&) = delete;
  LocalServer& operator=(const LocalServer&) = delete;
  ~LocalServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

  std::string Host() const { return "127.0.0.1:" + std::to_string(port_); }
  std::string Url() const { return "http://" + Host(); }
  void Set(const std::string& path, std::string body) {
    const std::lock_guard lock(mutex_);
    pages_[path] = std::move(body);
  }
  // The requests so far: request line and headers of each.
  std::vector<std::string> Requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void Serve() {
    while (true) {
      const int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (peer < 0) return;
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        const ssize_t got = read(peer, buffer, sizeof buffer);
        if (got <= 0) break;
        request.append(buffer, static_cast<std::size_t>(got));
      }
      const std::size_t begin = request.find(' ') + 1;
      const std::string path = request.substr(begin, request.find(' ', begin) - begin);
      std::string answer =
          "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(request);
        if (const auto page = pages_.find(path); page != pages_.end()) {
          answer = "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(page->second.size()) +
                   "\r\nConnection: close\r\n\r\n" + page->second;
        }
      }
      std::size_t sent = 0;
      while (sent < answer.size()) {
        const ssize_t put = send(peer, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
        if (put <= 0) break;
        sent += static_cast<std::size_t>(put);
      }
      close(peer);
    }
  }

  int listener_ = -1;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> pages_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

}  // namespace envkit

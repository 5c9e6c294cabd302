"""A web server with the faults of real ones: http_fixture.py DIRECTORY [CERTIFICATE].

Prints its port; ends with its stdin. /MODE/NAME serves DIRECTORY/NAME. The modes: ok, norange, slow,
fail-N (503 for the first N requests), 429-N, cut-N (the first N bodies stop in the middle), stall-N
(they stop and the connection stays), always-cut, wrong (other bytes), cutwrong (both), longer, liar
(206 of another range), auth, chunked, redirect, to-http, to-file (redirects elsewhere), 403,
404.
/log: the requests so far, one line each: MODE NAME RANGE.
"""

import base64
import http.server
import os
import re
import ssl
import sys
import threading
import time

ROOT = sys.argv[1]
LOCK = threading.Lock()
COUNTS = {}
LOG = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        # A proxy is asked with the whole URL.
        path = re.sub(r"^http://[^/]*", "", self.path).split("?")[0]
        if path == "/log":
            with LOCK:
                return self.answer(200, "".join(LOG).encode())
        mode, name = path.lstrip("/").split("/", 1)
        number = re.search(r"-(\d+)$", mode)
        limit = int(number.group(1)) if number else 0
        with LOCK:
            COUNTS[path] = COUNTS.get(path, 0) + 1
            turn = COUNTS[path]
            LOG.append(f"{mode} {name} {self.headers.get('Range', '-')}\n")
        kind = mode.split("-")[0] if number else mode
        if kind in ("403", "404"):
            return self.answer(int(kind), b"no")
        if kind == "redirect":
            return self.answer(302, headers=[("Location", f"/ok/{name}")])
        if kind == "to-http":
            return self.answer(302, headers=[("Location", "http://127.0.0.1:1/ok/x")])
        if kind == "to-file":
            return self.answer(302, headers=[("Location", "file:///etc/passwd")])
        if kind == "fail" and turn <= limit:
            return self.answer(503, b"later")
        if kind == "429" and turn <= limit:
            return self.answer(429, b"slow down", [("Retry-After", "1")])
        if kind == "auth":
            want = "Basic " + base64.b64encode(b"user:secret").decode()
            if self.headers.get("Authorization") != want:
                return self.answer(401, b"who?", [("WWW-Authenticate", "Basic")])
        try:
            with open(os.path.join(ROOT, name), "rb") as file:
                data = file.read()
        except OSError:
            return self.answer(404, b"no such file")
        if kind in ("wrong", "cutwrong"):
            data = bytes(len(data))
        if kind == "longer":
            data += b"and more"
        if kind == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(data), 10000):
                part = data[at:at + 10000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return None
        status, headers, body = 200, [], data
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and kind != "norange":
            begin = int(wanted.group(1))
            end = min(int(wanted.group(2) or len(data) - 1), len(data) - 1)
            if kind == "liar":
                begin = 0
            if begin >= len(data):
                return self.answer(416, headers=[("Content-Range", f"bytes */{len(data)}")])
            status, body = 206, data[begin:end + 1]
            headers = [("Content-Range", f"bytes {begin}-{end}/{len(data)}")]
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "slow":
            for at in range(0, len(body), 65536):
                self.wfile.write(body[at:at + 65536])
                self.wfile.flush()
                time.sleep(0.02)
            return None
        if kind in ("always-cut", "cutwrong") or (kind in ("cut", "stall") and turn <= limit):
            self.wfile.write(body[:len(body) // 2])
            self.wfile.flush()
            if kind == "stall":
                time.sleep(20)
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        pass


server = Server(("127.0.0.1", 0), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
sys.stdout.write(f"{server.server_address[1]}\n")
sys.stdout.flush()
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()

"""A small package index on 127.0.0.1 that can misbehave: files from a directory, JSON simple API."""

import base64
import hashlib
import http.server
import json
import pathlib
import threading


class Index:
    """with Index(directory, mode) as index: index.url; MODE: ok | truncate | wrong

    CREDENTIALS "user:password" asks for Basic auth. REQUESTS: what was asked for, in order."""

    def __init__(self, directory, mode="ok", credentials=None):
        files = {path.name: path for path in pathlib.Path(directory).iterdir() if path.is_file()}
        hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        outer = self
        self.mode = mode
        self.requests = []
        allowed = credentials and "Basic " + base64.b64encode(credentials.encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def answer(self, body, kind, claimed=None):
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(claimed or len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                if claimed:
                    self.close_connection = True

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                outer.requests.append(self.path)
                if allowed and self.headers.get("Authorization") != allowed:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="index"')
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                parts = self.path.strip("/").split("/")
                if parts[0] == "simple" and len(parts) == 2:
                    listed = [{"filename": name, "url": f"/files/{name}",
                               "hashes": {"sha256": hashes[name]}, "size": files[name].stat().st_size}
                              for name in files
                              if name.split("-")[0].lower().replace("_", "-") == parts[1]]
                    if not listed:
                        return self.send_error(404)
                    body = json.dumps({"meta": {"api-version": "1.1"}, "name": parts[1],
                                       "files": listed}).encode()
                    return self.answer(body, "application/vnd.pypi.simple.v1+json")
                if parts[0] == "files" and parts[1] in files:
                    body = files[parts[1]].read_bytes()
                    if outer.mode == "truncate":
                        return self.answer(body[: len(body) // 2], "application/zip", len(body))
                    if outer.mode == "wrong":
                        body = body[:-1] + bytes([body[-1] ^ 1])
                    return self.answer(body, "application/zip")
                self.send_error(404)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *unused):
        self.server.shutdown()

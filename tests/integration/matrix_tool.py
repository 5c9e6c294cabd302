"""tools/matrix.py against a small index of wheels that the test makes: what it reads, and what it says."""

import http.server
import json
import re
import subprocess
import sys
import threading
import zipfile

import support

CODE = b"\0sm_75 sm_90 compute_90\0GLIBC_2.17\0GLIBC_2.28\0GLIBC_PRIVATE\0"
wheels = support.new_directory()


def make(name, requires, tag="cp313-cp313-manylinux_2_28_x86_64", cuda=None, padding=300_000):
    project, version = name.split("-")[:2]
    path = wheels / f"{name}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("padding"), bytes(padding), zipfile.ZIP_STORED)
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        archive.writestr(f"{project}-{version}.dist-info/METADATA",
                         f"Metadata-Version: 2.1\nName: {project}\n{lines}")
        if project == "torch":
            archive.writestr("torch/version.py", f"__version__ = '{version}'\ncuda: str = {cuda!r}\n")
            archive.writestr("torch/lib/libtorch_python.so", CODE)
    return path


LINUX = '; platform_system == "Linux"'
make("torch-2.6.0", [f"nvidia-cudnn-cu12==9.1.0.70{LINUX}", f"nvidia-nccl-cu12==2.21.5{LINUX}",
                     f"triton==3.2.0{LINUX}", "optree>=0.13; extra == 'optree'"],
     tag="cp313-cp313-manylinux1_x86_64", cuda="12.4")
new = ["nvidia-cudnn-cu13==9.26.0.51" + LINUX, "nvidia-nccl-cu13==2.30.7" + LINUX,
       "triton~=3.9.0" + LINUX, "cuda-toolkit[cublas,cudart]==13.2.2" + LINUX]
for tag in ("cp312-cp312", "cp313-cp313", "cp313-cp313t"):
    make("torch-2.15.0", new, tag=f"{tag}-manylinux_2_28_x86_64", cuda="13.2")
make("torch-2.15.0", [], tag="cp313-cp313-macosx_11_0_arm64")
make("torch-2.15.1rc1", new, cuda="13.2")
make("torch-2.5.0", [], cuda="12.4")  # older than the matrix
make("torchvision-0.21.0", ["numpy", "torch (==2.6.0)"], padding=10)
make("torchvision-0.29.1", ["torch (>=2.14.0)"], padding=10)
make("torchaudio-2.6.0", ["torch==2.6.0"], padding=10)
make("torchaudio-2.11.0", [], padding=10)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ranges, html, sent, authorized = True, False, 0, None

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        kind = type(self)
        kind.authorized = self.headers.get("Authorization")
        _, place, name = self.path.split("/")[:3]
        if place == "files":
            body = (wheels / name).read_bytes()
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if not kind.ranges or not wanted:
                return self.answer(200, body)
            if wanted[1]:
                first, last = int(wanted[1]), int(wanted[2])
            else:
                first, last = max(0, len(body) - int(wanted[2])), len(body) - 1
            kind.sent += last + 1 - first
            return self.answer(206, body[first:last + 1],
                               Content_Range=f"bytes {first}-{last}/{len(body)}")
        listed = sorted(path.name for path in wheels.glob(f"{name}-*.whl"))
        if kind.html:
            links = "".join(f'<a href="/files/{file}#sha256=00">{file}</a>\n' for file in listed)
            return self.answer(200, f"<html>{links}</html>".encode(), Content_Type="text/html")
        files = [{"filename": file, "url": f"/files/{file}", "upload-time": "2026-10-28T02:51:00Z"}
                 for file in listed]
        self.answer(200, json.dumps({"files": files}).encode(),
                    Content_Type="application/vnd.pypi.simple.v1+json")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
file = support.new_directory() / "torch.json"


def tool(*arguments, expect=0):
    done = subprocess.run(
        [sys.executable, "-B", support.SOURCE / "tools" / "matrix.py", "--file", file, *arguments],
        text=True, capture_output=True, env=support.environment(
            UV_DEFAULT_INDEX=f"http://ana:se%20cret@127.0.0.1:{server.server_port}/simple/",
            http_proxy=None, HTTP_PROXY=None))
    print("+ tools/matrix.py", *arguments, done.stdout, done.stderr, sep="\n")
    support.check(done.returncode == expect, f"exit code {done.returncode}, expected {expect}")
    return done


def rows():
    return {(row["torch"], row["cuda"]): row for row in json.loads(file.read_text())["builds"]}


def edit(change):
    matrix = json.loads(file.read_text())
    change(matrix["builds"])
    file.write_text(json.dumps(matrix))


# From nothing: what the wheels say, without more than a few parts of them.
done = tool(expect=1)
support.check(not file.exists(), "it wrote without --write")
done = tool("--write")
support.check(done.stdout == "+ torch 2.6.0 CUDA 12.4\n+ torch 2.15.0 CUDA 13.2\n", done.stdout)
support.check("cret" not in done.stdout + done.stderr, "credentials are printed")
support.check(Handler.authorized == "Basic YW5hOnNlIGNyZXQ=", Handler.authorized)
support.check(Handler.sent < 2_000_000, f"{Handler.sent} bytes were read")
found = rows()
row = found["2.15.0", "13.2"]
expected = {"torch": "2.15.0", "cuda": "13.2", "indexes": ["default"], "released": "2026-10-28",
            "python": ["3.12", "3.13"], "glibc": "2.28", "cudnn": "9.26.0.51", "nccl": "2.30.7",
            "triton": "3.9.0", "torchvision": "0.29.1", "torchaudio": "2.11.0",
            "sass": ["7.5", "9.0"], "ptx": ["9.0"], "confirmed": True, "unconfirmed": ["torchaudio"],
            "source": "torch-2.15.0-cp313-cp313-manylinux_2_28_x86_64.whl", "date": row["date"]}
support.check(row == expected, f"{row}\nis not\n{expected}")
row = found["2.6.0", "12.4"]
support.check((row["torchvision"], row["torchaudio"]) == ("0.21.0", "2.6.0"), row)
support.check(row["glibc"] == "2.28" and "glibc" in row["unconfirmed"], row)  # by its symbols

# Nothing new: nothing is said, the dates stay.
edit(lambda builds: [row.update(date="2020-01-01") for row in builds])
before = rows()
support.check(tool("--write").stdout == "nothing changed\n", "a second run found changes")
support.check(rows() == before, "a second run changed rows")

# What metadata contradicts is corrected and said; rows that no index confirmed are kept, marked.
kept = {"torch": "2.15.0", "cuda": "12.6", "indexes": [], "python": ["3.13"], "confirmed": False,
        "unconfirmed": [], "source": "release notes", "date": "2020-01-01"}


def wrong(builds):
    builds.append(kept)
    for row in builds:
        if row["cuda"] == "13.2":
            row.update(cudnn="9.17.1.4", sass=["7.5"])


edit(wrong)
done = tool("--write")
support.check(done.stdout == "~ torch 2.15.0 CUDA 13.2: cudnn 9.17.1.4 → 9.26.0.51\n"
                             "~ torch 2.15.0 CUDA 13.2: sass 7.5 → 7.5, 9.0\n", done.stdout)
support.check("1 rows are on no index that was read: not confirmed" in done.stderr, done.stderr)
support.check({**kept, **rows()["2.15.0", "12.6"]} == rows()["2.15.0", "12.6"], "a row was lost")
support.check(rows()["2.15.0", "13.2"]["date"] > "2020-01-01", "the date of a changed row")

# Another index: the same rows gain its name.
Handler.html = True
done = tool("--index", "mine", "--torch", "2.6.0", "--no-architectures", "--write")
support.check(done.stdout == "~ torch 2.6.0 CUDA 12.4: indexes default → default, mine\n", done.stdout)
support.check(rows()["2.6.0", "12.4"]["sass"] == ["7.5", "9.0"], "the architectures were lost")
Handler.html = False

# What is gone from the index is said, and kept without it.
for path in wheels.glob("torch-2.6.0*"):
    path.unlink()
done = tool("--write")
support.check(done.stdout == "- torch 2.6.0 CUDA 12.4: not on the index any more\n", done.stdout)
support.check(rows()["2.6.0", "12.4"]["indexes"] == ["mine"], rows()["2.6.0", "12.4"])

# A server without ranges would send half a gigabyte a wheel: refused. So is one that is not there.
Handler.ranges = False
before = file.read_text()
done = tool("--write", expect=3)
support.check("error: " in done.stderr and "whole files alone" in done.stderr, done.stderr)
support.check(file.read_text() == before, "a failed run changed the file")
server.shutdown()
server.server_close()
done = tool("--write", expect=3)
support.check("error: http://127.0.0.1" in done.stderr and "cret" not in done.stderr, done.stderr)

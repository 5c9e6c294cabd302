#!/usr/bin/env python3
"""Renews images/matrix/torch.json from the wheels on your Python index, and says what changed.

    tools/matrix.py            compare: exit code 1 where the file is not what the index says
    tools/matrix.py --write    write the file
    tools/matrix.py --index cu126 --write    the same for an index that serves other builds

Of each wheel only a few parts are read, by HTTP range requests: the zip's directory, METADATA
(Requires-Dist: cuDNN, NCCL, triton, …), torch/version.py (the CUDA it was built for) and one library
that holds the list of GPU architectures (about 10 MB; --no-architectures leaves it out). The index is
the one of your settings: UV_DEFAULT_INDEX, UV_INDEX_URL, PIP_INDEX_URL, uv.toml, pip.conf, else pip's
own default. Rows that no wheel on an index confirmed are kept as they are, marked.
"""

import argparse
import base64
import datetime
import html.parser
import io
import json
import netrc
import os
import pathlib
import re
import ssl
import subprocess
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile

MATRIX = pathlib.Path(__file__).resolve().parent.parent / "images" / "matrix" / "torch.json"
LEAST = (2, 6)  # older releases have no wheels for the Pythons of today's Debian
MACHINE = "x86_64"
FIELDS = ["torch", "cuda", "indexes", "released", "python", "glibc", "cudnn", "nccl", "triton",
          "torchvision", "torchaudio", "sass", "ptx", "confirmed", "unconfirmed", "source", "date"]
SILENT = ("source", "date")  # a change of these alone is none


class Problem(Exception):
    pass


def numbers(version):
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


# The index -----------------------------------------------------------------------------------------

def configured_index():
    """(URL, where it was found)"""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(name, "").strip():
            word = os.environ[name].split()[0]
            return word.split("=", 1)[1] if re.match(r"[\w.-]+=https?:", word) else word, name
    config = pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or pathlib.Path.home() / ".config")
    given = os.environ.get("UV_CONFIG_FILE")
    for file in [given] if given else [config / "uv/uv.toml", "/etc/uv/uv.toml"]:
        try:
            settings = tomllib.loads(pathlib.Path(file).read_text())
        except (OSError, tomllib.TOMLDecodeError):
            continue
        defaults = [entry["url"] for entry in settings.get("index", []) if entry.get("default")]
        url = (defaults or [settings.get("pip", {}).get("index-url") or settings.get("index-url")])[0]
        if url:
            return url, str(file)
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"],
                           text=True, capture_output=True)
    if asked.returncode == 0 and asked.stdout.strip():
        return asked.stdout.strip(), "pip.conf"
    from pip._internal.models.index import PyPI  # where pip itself looks; no name of a host is ours
    return PyPI.simple_url, "pip's default"


class Web:
    """GET with the index's credentials, for its own host alone."""

    def __init__(self, index):
        parts = urllib.parse.urlsplit(index)
        self.host = parts.hostname
        self.index = urllib.parse.urlunsplit(
            parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        user, password = parts.username, parts.password
        if user is None:
            try:
                found = netrc.netrc().authenticators(self.host or "")
            except (OSError, netrc.NetrcParseError):
                found = None
            user, password = (found[0], found[2]) if found else (None, None)
        self.authorization = None
        if user is not None:
            pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password or '')}"
            self.authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        bundle = next((os.environ[name] for name in
                       ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT")
                       if os.environ.get(name)), None)
        self.tls = ssl.create_default_context(cafile=bundle)
        self.bytes = 0

    def get(self, url, **headers):
        request = urllib.request.Request(url, headers=headers)
        if self.authorization and urllib.parse.urlsplit(url).hostname == self.host:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            return urllib.request.urlopen(request, timeout=60, context=self.tls)
        except (urllib.error.URLError, OSError) as error:
            raise Problem(f"{url}: {getattr(error, 'reason', error)}") from error

    def files(self, project):
        """[{filename, url, upload-time, yanked}] of the project's page, JSON or HTML."""
        page = f"{self.index}/{project}/"
        with self.get(page, Accept="application/vnd.pypi.simple.v1+json, text/html;q=0.1") as answer:
            kind, body = answer.headers.get_content_type(), answer.read().decode()
            page = answer.geturl()
        if "json" in kind:
            listed = json.loads(body)["files"]
        else:
            listed = Anchors(body).files
        return [dict(entry, url=urllib.parse.urljoin(page, entry["url"].split("#")[0]))
                for entry in listed if not entry.get("yanked")]


class Anchors(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.files = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        link = dict(attributes)
        if tag == "a" and link.get("href"):
            name = urllib.parse.unquote(link["href"].split("#")[0].rsplit("/", 1)[-1])
            self.files.append({"filename": name, "url": link["href"],
                               "yanked": "data-yanked" in link})


class Remote(io.RawIOBase):
    """A file on a server as zipfile reads one: each read is one range request."""

    def __init__(self, web, url):
        self.web, self.url, self.at, self.start = web, url, 0, 0
        self.tail = self.part("bytes=-65536")
        self.start = self.size - len(self.tail)

    def part(self, wanted):
        with self.web.get(self.url, Range=wanted) as answer:
            total = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if answer.status != 206 or not total:
                raise Problem(f"{self.url}: the server sends whole files alone, which are too large")
            self.size = int(total[1])
            content = answer.read()
        self.web.bytes += len(content)
        return content

    def seekable(self):
        return True

    def readable(self):
        return True

    def seek(self, offset, whence=0):
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self):
        return self.at

    def read(self, count=-1):
        end = self.size if count < 0 else min(self.size, self.at + count)
        if end <= self.at:
            return b""
        if self.at >= self.start:
            content = self.tail[self.at - self.start:end - self.start]
        else:
            content = self.part(f"bytes={self.at}-{end - 1}")
        self.at += len(content)
        return content


# What wheels say -----------------------------------------------------------------------------------

def wheel(entry):
    """(project, version, build, python, abi, platform) of a wheel's file name, else None"""
    parts = entry["filename"].removesuffix(".whl").split("-")
    if not entry["filename"].endswith(".whl") or len(parts) not in (5, 6):
        return None
    build = parts[2] if len(parts) == 6 else ""
    return (parts[0], parts[1], build, *parts[-3:])


def is_release(version):
    return re.fullmatch(r"\d+(\.\d+)+(\+cu\d+)?", version) is not None


def requirements(metadata):
    """{project: specifier} of what Linux on x86-64 gets."""
    found = {}
    for line in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M):
        requirement, _, marker = line.partition(";")
        if "extra" in marker or re.search(r"platform_system == .(Windows|Darwin)", marker):
            continue
        name = re.match(r"[\w.-]+", requirement)[0]
        found[re.sub(r"[-_.]+", "-", name).lower()] = requirement[len(name):].strip(" ()")
    return found


def pinned(specifier):
    exact = re.search(r"(?:==|~=)\s*([\d.]+)", re.sub(r"^\[[^]]*\]", "", specifier or ""))
    return exact[1] if exact else None


def first_pinned(required, *patterns):
    for pattern in patterns:
        for name, specifier in required.items():
            if re.fullmatch(pattern, name):
                return pinned(specifier)
    return None


def dotted(architecture):
    digits = re.search(r"\d+", architecture)[0]
    return f"{digits[:-1]}.{digits[-1]}"


def read_wheel(web, entry, architectures):
    """What METADATA and the files of one torch wheel say."""
    archive = zipfile.ZipFile(Remote(web, entry["url"]))
    names = archive.namelist()
    metadata = next(name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
    required = requirements(archive.read(metadata).decode())
    cuda = None
    if "torch/version.py" in names:
        said = re.search(r"^cuda.*=\s*'([\d.]+)'", archive.read("torch/version.py").decode(), re.M)
        cuda = said[1] if said else None
    if cuda is None:
        runtime = first_pinned(required, r"cuda-toolkit", r"nvidia-cuda-runtime(-cu\d+)?")
        cuda = ".".join(runtime.split(".")[:2]) if runtime else None
    row = {"cuda": cuda,
           "cudnn": first_pinned(required, r"nvidia-cudnn-cu\d+"),
           "nccl": first_pinned(required, r"nvidia-nccl-cu\d+"),
           "triton": first_pinned(required, r"triton|pytorch-triton")}
    library = "torch/lib/libtorch_python.so"
    if architectures and library in names:
        content = archive.read(library)
        lists = re.findall(rb"(?:(?:sm|compute)_\d+[a-z]? ?)+", content)
        longest = max(lists, key=len, default=b"").decode().split()
        # Of the symbols that it asks of libc: more than its name admits, in wheels called manylinux1.
        row["glibc"] = max(re.findall(rb"GLIBC_(2\.\d+)\0", content), key=lambda text: numbers(
            text.decode()), default=b"").decode() or None
        row["sass"] = [dotted(word) for word in longest if word.startswith("sm_")]
        row["ptx"] = [dotted(word) for word in longest if word.startswith("compute_")]
    return row


def torch_rows(web, index, architectures, wanted):
    files = {}
    for entry in web.files("torch"):
        name = wheel(entry)
        if (not name or name[0] != "torch" or not is_release(name[1]) or MACHINE not in name[5]
                or numbers(name[1])[:2] < LEAST or (wanted and name[1] not in wanted)):
            continue
        files.setdefault(name[1], []).append((name, entry))
    companions = {project: companion(web, project) for project in ("torchvision", "torchaudio")}
    rows = []
    for version, listed in sorted(files.items(), key=lambda item: numbers(item[0])):
        # Free-threaded Pythons (cp313t) have wheels of their own.
        pythons = sorted({f"{tag[3][2]}.{tag[3][3:]}" for tag, _ in listed if tag[4] == tag[3]},
                         key=numbers)
        # The newest build of the newest Python: uploads after the first have a build number.
        tag, entry = max((pair for pair in listed if pair[0][4] == pair[0][3]),
                         key=lambda pair: (numbers(pair[0][3]), numbers(pair[0][2] or "0")))
        print(f"reading {entry['filename']}", file=sys.stderr)
        said = read_wheel(web, entry, architectures)
        if said["cuda"] is None:
            continue
        glibc = re.search(r"manylinux_2_(\d+)_", tag[5])
        plain = version.split("+")[0]
        floors = [floor for floor in (f"2.{glibc[1]}" if glibc else None, said.get("glibc")) if floor]
        row = {"torch": plain, "indexes": [index], "python": pythons,
               "released": min((pair[1].get("upload-time", "") for pair in listed))[:10] or None,
               **said, "glibc": max(floors, key=numbers, default=None),
               "confirmed": True, "source": entry["filename"]}
        row["unconfirmed"] = [field for field in ("sass", "ptx") if field not in row]
        if not glibc:  # one library's symbols are a lower bound
            row["unconfirmed"].append("glibc")
        for project, releases in companions.items():
            row[project], named = companion_for(releases, plain)
            if row[project] and not named:
                row["unconfirmed"].append(project)
        rows.append(row)
    return rows


def companion(web, project):
    """[(version, what it asks of torch)] of PROJECT's releases, newest first"""
    newest = {}
    try:
        listed = web.files(project)
    except Problem as problem:
        print(f"warning: {problem}", file=sys.stderr)
        return []
    for entry in listed:
        name = wheel(entry)
        if name and is_release(name[1]) and MACHINE in name[5]:
            kept = newest.get(name[1])
            if kept is None or numbers(name[3]) > numbers(kept[0][3]):
                newest[name[1]] = (name, entry)
    releases = []
    for version in sorted(newest, key=numbers, reverse=True):
        archive = zipfile.ZipFile(Remote(web, newest[version][1]["url"]))
        metadata = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        torch = requirements(archive.read(metadata).decode()).get("torch", "")
        if pinned(torch) and numbers(pinned(torch))[:2] < LEAST:
            break
        releases.append((version.split("+")[0], torch))
    return releases


def companion_for(releases, torch):
    """(version, whether it names this torch): a release that asks for exactly TORCH, else the newest
    that accepts it"""
    for version, asked in releases:
        if pinned(asked) == torch:
            return version, True
    tests = {">=": lambda a, b: a >= b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b,
             "<": lambda a, b: a < b, "!=": lambda a, b: a != b}
    for version, asked in releases:
        clauses = re.findall(r"(==|~=|!=|>=|<=|>|<)\s*([\d.]+)", asked)
        if all(sign in tests and tests[sign](numbers(torch), numbers(bound))
               for sign, bound in clauses):
            return version, bool(clauses)
    return None, False


# The file ------------------------------------------------------------------------------------------

def ordered(row):
    return {field: row.get(field) for field in FIELDS}


def text_of(matrix):
    """One line a row, so that a change is one line of a diff."""
    head = {key: value for key, value in matrix.items() if key != "builds"}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join("  " + json.dumps(ordered(row)) for row in matrix["builds"])
    return "{\n" + "\n".join(lines) + f'\n "builds": [\n{rows}\n ]\n}}\n'


def shown(value):
    return ", ".join(value) if isinstance(value, list) else str(value)


def renew(matrix, rows, index, today, complete):
    """MATRIX with ROWS in it, and what changed, as lines."""
    key = lambda row: (row["torch"], row["cuda"])
    old = {key(row): row for row in matrix["builds"]}
    changes = []
    for row in rows:
        before = old.get(key(row))
        name = f"torch {row['torch']} CUDA {row['cuda']}"
        if before is None:
            changes.append(f"+ {name}")
            old[key(row)] = dict(row, date=today)
            continue
        # What this index or this run does not tell, another one told.
        after = dict(before, **{field: value for field, value in row.items()
                                if value is not None or field not in ("released", "glibc")})
        after["indexes"] = sorted({*before.get("indexes", []), *row["indexes"]})
        if "sass" in row["unconfirmed"] and before.get("sass") and before.get("confirmed"):
            after["unconfirmed"] = before.get("unconfirmed", [])  # they were read another time
        differing = [field for field in FIELDS
                     if field not in SILENT and before.get(field) != after.get(field)]
        for field in differing:
            changes.append(f"~ {name}: {field} {shown(before.get(field))} → {shown(after[field])}")
        old[key(row)] = dict(after, date=today) if differing else before
    served = {key(row) for row in rows}
    for row in old.values():
        if complete and index in row["indexes"] and key(row) not in served:
            changes.append(f"- torch {row['torch']} CUDA {row['cuda']}: not on the index any more")
            row["indexes"] = [name for name in row["indexes"] if name != index]
            row["date"] = today
    builds = sorted(old.values(), key=lambda row: (numbers(row["torch"]), numbers(row["cuda"])))
    return dict(matrix, builds=builds), changes


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file")
    parser.add_argument("--file", type=pathlib.Path, default=MATRIX, help="instead of the repository's")
    parser.add_argument("--index", default="default", metavar="NAME",
                        help="what the rows call this index (default: default)")
    parser.add_argument("--torch", action="append", default=[], metavar="VERSION",
                        help="only this version; may be given several times")
    parser.add_argument("--no-architectures", action="store_true",
                        help="leave the 10 MB a wheel that tell the GPU architectures")
    options = parser.parse_args()
    url, origin = configured_index()
    web = Web(url)
    print(f"index: {web.index} ({origin})", file=sys.stderr)
    before = options.file.read_text() if options.file.exists() else '{"schema": 1, "builds": []}'
    rows = torch_rows(web, options.index, not options.no_architectures, set(options.torch))
    if not rows:
        raise Problem("the index has no wheel of torch with CUDA for this platform")
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    matrix, changes = renew(json.loads(before), rows, options.index, today, not options.torch)
    print("\n".join(changes) if changes else "nothing changed")
    marked = [row for row in matrix["builds"] if not row["confirmed"]]
    print(f"{len(rows)} builds read ({web.bytes / 1e6:.0f} MB), "
          f"{len(marked)} rows are on no index that was read: not confirmed", file=sys.stderr)
    if options.write:
        temporary = options.file.with_name(options.file.name + ".tmp")
        temporary.write_text(text_of(matrix))
        temporary.replace(options.file)
        return 0
    return 1 if changes else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(3)

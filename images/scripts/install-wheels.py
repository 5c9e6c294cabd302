"""Wheels as envkit's layers have them: chosen members, commands, INSTALLER and RECORD; and the metadata of
wheels that are left out. For the Dockerfiles that `envkit render` writes; the same bytes as envkit's
own: tests/image/dockerfile_test.cpp compares.

    install-wheels.py SITE MEMBERS LEFT_OUT [WHEELS]     (in /wheels; hashed when they were fetched)

MEMBERS has lines "OUT NAME FILE PATTERN" (fnmatch; "!" before it leaves out), LEFT_OUT has lines
"OUT NAME VERSION DIST_INFO".
"""

import base64
import configparser
import fnmatch
import hashlib
import io
import os
import re
import sys
import zipfile

PYTHON = "#!/usr/bin/python3"
site = sys.argv[1].strip("/")
wheels = sys.argv[4] if len(sys.argv) > 4 else "/wheels"


def chosen(patterns, name):
    if any(p.startswith("!") and fnmatch.fnmatchcase(name, p[1:]) for p in patterns):
        return False
    wanted = [p for p in patterns if not p.startswith("!")]
    return not wanted or any(fnmatch.fnmatchcase(name, p) for p in wanted)


def place(name, member):
    top, _, rest = member.partition("/")
    if not top.endswith(".data"):
        return f"{site}/{member}"
    scheme, _, rest = rest.partition("/")
    return {"purelib": site, "platlib": site, "scripts": "usr/local/bin", "data": "usr/local",
            "headers": f"usr/local/include/{name}"}[scheme] + "/" + rest


def commands(text):
    """name → script"""
    parser = configparser.ConfigParser(delimiters="=", allow_no_value=True, interpolation=None, strict=False)
    parser.optionxform = str
    parser.read_string(text)
    found = {}
    for section in ("console_scripts", "gui_scripts"):
        for name, target in parser.items(section) if parser.has_section(section) else ():
            module, _, attribute = (part.strip() for part in target.split("[")[0].partition(":"))
            found[name] = (f"{PYTHON}\nimport sys\nfrom {module} import {attribute.split('.')[0]}\n"
                           f'if __name__ == "__main__":\n    sys.exit({attribute}())\n')
    return found


def line_of_record(path, digest, size):
    name = os.path.relpath(path, site)
    if set(name) & set(',"\n\r'):
        name = '"' + name.replace('"', '""') + '"'
    return f"{name},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},{size}\n"


class Wheel:
    def __init__(self, out):
        self.out, self.recorded = out, {}  # path → (digest, size)

    def write(self, path, source, mode):
        target, digest, size = f"{self.out}/{path}", hashlib.sha256(), 0
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
                digest.update(block)
                size += len(block)
        base = os.path.basename(path)
        library = base.endswith(".so") or ".so." in base
        os.chmod(target, 0o755 if mode & 0o111 or library else 0o644)
        self.recorded[path] = digest.digest(), size

    def text(self, path, text, mode=0o644):
        self.write(path, io.BytesIO(text.encode()), mode)

    def finish(self, dist_info):
        lines = [line_of_record(path, *what) for path, what in sorted(
            self.recorded.items(), key=lambda item: os.fsencode(item[0]))]
        self.text(f"{dist_info}/RECORD", "".join(lines) + os.path.relpath(f"{dist_info}/RECORD", site) + ",,\n")


def install(out, name, file, patterns):
    wheel, scripts, dist_info = Wheel(out), {}, ""
    with zipfile.ZipFile(f"{wheels}/{file}") as archive:
        for info in archive.infolist():
            member = info.filename
            if info.is_dir() or not chosen(patterns, member):
                continue
            top, _, inside = member.partition("/")
            if top.endswith(".dist-info"):
                if inside == "RECORD":
                    dist_info = f"{site}/{top}"
                if inside in ("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER"):
                    continue
                if inside == "entry_points.txt":
                    scripts = commands(archive.read(info).decode())
            path, mode = place(name, member), info.external_attr >> 16
            if path.startswith("usr/local/bin/"):
                mode = 0o755
                if info.file_size <= 1_000_000:
                    script = re.sub(rb"\A#!python[^ \r\n]*", PYTHON.encode(), archive.read(info))
                    wheel.write(path, io.BytesIO(script), mode)
                    continue
            with archive.open(info) as source:
                wheel.write(path, source, mode)
    if not dist_info:
        return
    for command, text in scripts.items():
        wheel.text(f"usr/local/bin/{command}", text, 0o755)
    wheel.text(f"{dist_info}/INSTALLER", "envkit\n")
    wheel.finish(dist_info)


members = {}
with open(sys.argv[2]) as lines:
    for line in lines:
        out, name, file, pattern = line.split()
        members.setdefault((out, name, file), []).append(pattern)
for (out, name, file), patterns in members.items():
    install(out, name, file, patterns)
with open(sys.argv[3]) as lines:
    for line in lines:
        out, name, version, dist_info = line.split()
        wheel = Wheel(out)
        wheel.text(f"{site}/{dist_info}/INSTALLER", "envkit\n")
        wheel.text(f"{site}/{dist_info}/METADATA",
                   f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Left out of this image for "
                   "CPUs: its files are for GPUs. The cuda variant has them.\n")
        wheel.finish(f"{site}/{dist_info}")

"""`envkit lock` with the real uv, an index of the test's own that wants a login, and a stand-in for apt."""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile

import support
from index_server import Index


def wheel(directory, name, version, requires=(), tag="py3-none-any", extras=None, files=None):
    """A wheel without code that says what it requires."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = directory / f"{stem}-{tag}.whl"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    for extra, requirements in (extras or {}).items():
        metadata.append(f"Provides-Extra: {extra}")
        metadata += [f'Requires-Dist: {one} ; extra == "{extra}"' for one in requirements]
    members = dict(files or {f"{name}.py": "x = 1\n"})
    members[f"{stem}.dist-info/METADATA"] = "\n".join(metadata) + "\n"
    members[f"{stem}.dist-info/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = ""
    for member, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode()
        record += f"{member},sha256={digest.rstrip('=')},{len(content.encode())}\n"
    members[f"{stem}.dist-info/RECORD"] = record + f"{stem}.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return path


def locked(project):
    return tomllib.loads((project / "envkit.lock").read_text())


def versions(project):
    return {one["name"]: one["version"] for one in locked(project)["wheels"]}


def shows(done, *words):
    for word in words:
        support.check(word in done.stderr, f"'{word}' is not in:\n{done.stderr}")
    support.check("internal error" not in done.stderr, done.stderr)
    support.check("s3cret" not in done.stderr + done.stdout, "a password is shown")


# What the index has: a torch with little CUDA around it, and packages for each case.
files = support.new_directory("envkit-index-")
CUDA = ["nvidia-cuda-runtime==13.2.1", "nvidia-nccl-cu13"]
for version in ("2.14.0", "2.15.0"):
    wheel(files, "torch", version, CUDA, "cp313-cp313-manylinux_2_28_x86_64")
wheel(files, "cuda-toolkit", "13.2.1", extras={"cccl": ["nvidia-cuda-runtime"], "crt": []})
wheel(files, "nvidia-cuda-runtime", "13.2.1")
for version in ("12", "13"):
    wheel(files, f"nvidia-nccl-cu{version}", "2.28", files={"nvidia/nccl.so": version})
wheel(files, "alpha", "1.0", ["beta>=1", "winonly; sys_platform == 'win32'"])
wheel(files, "alpha", "2.0", ["beta>=1"])
wheel(files, "beta", "1.0")
wheel(files, "gamma", "3.0")
wheel(files, "delta", "1.0", ["oldpython; python_version < '3.13'"])
wheel(files, "oldtorch", "1.0", ["torch==2.14.0"])
wheel(files, "flow", "1.0", ["nvidia-nccl-cu12"])
with tarfile.open(files / "srconly-0.5.tar.gz", "w:gz") as archive:
    (files / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: srconly\nVersion: 0.5\n")
    archive.add(files / "PKG-INFO", "srconly-0.5/PKG-INFO")
(files / "PKG-INFO").unlink()

# uv: the tests' store has one after the first real lock; else pip gets the wheel that is pinned.
tools = support.new_directory("envkit-tools-")
found = next(support.STORE.glob("tools/*/uv"), None) or shutil.which("uv")
if found:
    (tools / "uv").symlink_to(found)
else:
    pin = tomllib.loads((support.SOURCE / "images/uv.toml").read_text())["version"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", f"uv=={pin}",
                    "-d", files], check=True)
for name, text in {
    "apt-get": """case $1 in install) echo "'http://example.com/debian/pool/main/x/libc6_1_amd64.deb' \
libc6_1_amd64.deb 10 SHA256:%s";; esac\n""" % ("a" * 64),
    "apt-config": "",
}.items():
    (tools / name).write_text("#!/bin/sh\n" + text)
    (tools / name).chmod(0o755)

# Profiles that ask for no more than this index has.
share = support.new_directory("envkit-share-")
(share / "images/profiles").mkdir(parents=True)
shutil.copytree(support.SOURCE / "images/matrix", share / "images/matrix")
shutil.copy(support.SOURCE / "images/uv.toml", share / "images")
for name in ("train", "builder"):
    shutil.copy(support.SOURCE / f"images/profiles/{name}.toml", share / "images/profiles")

home = support.new_directory("envkit-home-")
store = support.new_directory("envkit-store-")
project = support.new_directory()
HEAD = 'schema = 1\n[project]\nname = "p"\n[environment]\n'


def toml(text, tail=""):
    (project / "envkit.toml").write_text(HEAD + text + "\n" + tail)


index = Index(files, credentials="ana:s3cret")
index.__enter__()
settings = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": home, "ENVKIT_SHARE": share,
            "ENVKIT_DEBIAN_MIRROR": "http://example.com/debian", "UV_DEFAULT_INDEX": index.url,
            "UV_INDEX": None, "UV_EXTRA_INDEX_URL": None, "PIP_CONFIG_FILE": "/dev/null",
            "XDG_CONFIG_HOME": home / ".config", "XDG_CACHE_HOME": home / ".cache",
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "UV_HTTP_RETRIES": "0"}


def lock(*arguments, expect=0, **more):
    return support.envkit("lock", *arguments, project=project, store=store, expect=expect,
                          env={**settings, **more}, timeout=120)


# No credentials, then those of netrc: neither shown nor written.
toml('packages = ["gamma"]')
if found:  # else uv itself could not be fetched
    shows(lock(expect=3), "401 Unauthorized", "~/.netrc", "UV_INDEX_NAME_USERNAME")
    support.check(not (project / "envkit.lock").exists(), "a lock was written")
(home / ".netrc").write_text("machine 127.0.0.1 login ana password s3cret\n")
(home / ".netrc").chmod(0o600)
shows(lock(), "torch 2.15.0 · CUDA 13.2", "kB to download")
text = (project / "envkit.lock").read_text()
support.check("127.0.0.1" not in text and "s3cret" not in text, text)

# Credentials of a named index, from the environment, while another index is the default.
empty = support.new_directory("envkit-index-")
with Index(empty) as other:
    (project / "envkit.lock").unlink()
    (home / ".netrc").rename(home / "netrc")
    toml('packages = ["gamma"]', f'[index]\ncompany = "{index.url}"\n')
    shows(lock(UV_DEFAULT_INDEX=other.url, UV_INDEX_COMPANY_USERNAME="ana",
               UV_INDEX_COMPANY_PASSWORD="s3cret"), "torch 2.15.0")
    support.check("s3cret" not in (project / "envkit.lock").read_text(), "the password is in the lock")
    (home / "netrc").rename(home / ".netrc")

# All kinds of inputs at once, for the image's platform and Python.
(project / "wheels").mkdir()
mine = wheel(project / "wheels", "mine", "1.0", extras={"more": ["gamma"]})
(project / "requirements.txt").write_text("-r more.txt\n-c limits.txt\n")
(project / "more.txt").write_text("alpha\n")
(project / "limits.txt").write_text("alpha<2\n")
(project / "pyproject.toml").write_text(
    '[project]\nname = "p"\nversion = "1"\ndependencies = ["delta; platform_machine == \'x86_64\'"]\n'
    '[project.optional-dependencies]\ndev = ["winonly; os_name == \'nt\'"]\n')
beta = next(files.glob("beta-1.0*"))
(project / "pylock.toml").write_text(
    'lock-version = "1.0"\n[[packages]]\nname = "beta"\nversion = "1.0"\n'
    'wheels = [{ name = "%s", hashes = { sha256 = "%s" } }]\n'
    % (beta.name, __import__("hashlib").sha256(beta.read_bytes()).hexdigest()))
toml('packages = ["./wheels/mine-1.0-py3-none-any.whl[more]"]\n'
     'requirements = ["requirements.txt", "pyproject.toml[dev]", "pylock.toml"]')
done = lock()
have = versions(project)
support.check({"alpha": "1.0", "beta": "1.0", "delta": "1.0", "gamma": "3.0", "mine": "1.0"}.items()
              <= have.items(), f"{have}")
support.check("winonly" not in have and "oldpython" not in have, f"{have}")
shows(done, "+ alpha 1.0", "+ mine 1.0", "to download, of which")
support.check([one["from"] for one in locked(project)["wheels"] if "from" in one]
              == ["wheels/mine-1.0-py3-none-any.whl"], "where the local wheel lies is not locked")

# A check asks nobody, takes no time, and names the file that changed.
asked = len(index.requests)
start = time.monotonic()
lock("--check", UV_DEFAULT_INDEX="http://127.0.0.1:9/simple")
took = time.monotonic() - start
support.check(took < 2, f"--check took {took:.2f} s")
support.check(len(index.requests) == asked, "--check asked the index")
(project / "limits.txt").write_text("alpha<3\n")
shows(lock("--check", expect=1), "limits.txt: its content changed", "envkit lock")
content = mine.read_bytes()
mine.write_bytes(content + b"x")
shows(lock("--check", expect=1), "./wheels/mine-1.0-py3-none-any.whl: its content changed")
mine.write_bytes(content)

# Versions stay where they fit; an upgrade of one takes that one. The JSON is what its schema says.
lock()
support.check(versions(project)["alpha"] == "1.0", "alpha was not kept")
wheel(files, "gamma", "4.0")
index.__exit__()
index = Index(files, credentials="ana:s3cret")
index.__enter__()
settings["UV_DEFAULT_INDEX"] = index.url
done = lock("--upgrade", "alpha", "--json")
answer = json.loads(done.stdout)
support.check([(c["kind"], c["package"], c["before"], c["after"]) for c in answer["changes"]]
              == [("changed", "alpha", "1.0", "2.0")], f"{answer}")
try:
    import jsonschema
    jsonschema.validate(answer, json.loads((support.SOURCE / "docs/schemas/lock.json").read_text()))
    jsonschema.validate(json.loads(lock("--check", "--json").stdout),
                        json.loads((support.SOURCE / "docs/schemas/lock.json").read_text()))
except ImportError:
    print("python3-jsonschema is not installed: the schema was not checked")
shows(lock("--upgrade"), "~ gamma 3.0 → 4.0")

# What cannot be locked says why and what to do; the lock stays as it was.
before = (project / "envkit.lock").read_text()
toml('torch = "2.15"\npackages = ["oldtorch"]')
shows(lock(expect=2), "envkit.toml:5:9: error: oldtorch needs torch==2.14.0", 'torch = "2.14.0"')
(project / "requirements.txt").write_text("torch==2.14.0\n")
toml('requirements = ["requirements.txt"]')
shows(lock(expect=2), "requirements.txt needs torch==2.14.0")
toml('packages = ["srconly"]')
shows(lock(expect=2), "building srconly-0.5.tar.gz", "setuptools was not found",
      "pip wheel --no-deps srconly -w wheels")
toml('packages = ["apex"]')
shows(lock(expect=2), "envkit.toml:5:13: error: apex on the public Python index is not NVIDIA's")
toml('packages = ["flow"]')
shows(lock(expect=2), "nvidia-nccl-cu12 (flow asks for it) and torch's nvidia-nccl-cu13")
toml('packages = ["alpha; sys_plat == \'x\'"]')
shows(lock(expect=2), "in `envkit.toml`")
toml('requirements = ["requirement.txt"]')
shows(lock(expect=2), "envkit.toml:5:17: error: there is no file requirement.txt",
      'did you mean "requirements.txt"?')
(project / "requirements.txt").write_text(f"beta==1.0 --hash=sha256:{'0' * 64}\n")
toml('requirements = ["requirements.txt"]')
shows(lock(expect=2), "requirements.txt has other hashes for beta 1.0")
support.check((project / "envkit.lock").read_text() == before, "a failure changed the lock")

# An index that only requirements.txt names is asked, with its credentials, which stay there.
(home / ".netrc").unlink()
url = index.url.replace("http://", "http://ana:${ENVKIT_TEST_PASSWORD}@")
(project / "requirements.txt").write_text(f"--extra-index-url {url}\nalpha\n")
with Index(empty) as other:
    lock(UV_DEFAULT_INDEX=other.url, ENVKIT_TEST_PASSWORD="s3cret")
text = (project / "envkit.lock").read_text()
support.check("s3cret" not in text and "127.0.0.1" not in text, text)

# Two wheels that own one path, as far as they are at hand.
wheel(project / "wheels", "twin", "1.0", files={"mine.py": "x = 2\n"})
(home / ".netrc").write_text("machine 127.0.0.1 login ana password s3cret\n")
(home / ".netrc").chmod(0o600)
toml('packages = ["./wheels/mine-1.0-py3-none-any.whl", "twin @ ./wheels/twin-1.0-py3-none-any.whl"]')
shows(lock(), "warning: two wheels have different files at", "mine.py")
index.__exit__()

"""The built doctor on this machine: as root and as nobody, without /sys, in namespaces, with a driver
that hangs; its JSON against the published schema; what it saves, read again."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import time

import support

try:
    import jsonschema
except ImportError:
    jsonschema = None

SCHEMA = json.loads((support.SOURCE / "docs" / "schemas" / "doctor.json").read_text())
MOCK = support.BUILD / "mock_nvml" / "whole"
# Away from the sources' own project: what is found must not depend on it.
HERE = support.new_directory()
HERE.chmod(0o755)


def doctor(*arguments, wrap=(), env=None, expect=None, stdin=None):
    begin = time.monotonic()
    done = subprocess.run([*wrap, support.ENVKIT, "doctor", *map(str, arguments)], cwd=HERE, text=True,
                          env={**os.environ, **(env or {})}, input=stdin, capture_output=True, timeout=60)
    done.seconds = time.monotonic() - begin
    support.check("internal error" not in done.stderr, done.stderr)
    if expect is not None:
        support.check(done.returncode == expect, f"{arguments}: exit code {done.returncode}\n"
                                                 f"{done.stdout}{done.stderr}")
    return done


def report(*arguments, **more):
    done = doctor("--json", *arguments, **more)
    answer = json.loads(done.stdout)
    if jsonschema:
        jsonschema.validate(answer, SCHEMA)
    support.check(done.returncode == (1 if answer["verdict"] == "fail" else 0), done.stdout)
    support.check(len(answer["passed"]) + len(answer["not_applicable"]) + len(answer["unknown"]) +
                  sum(1 + len(one["suppresses"]) for one in answer["findings"]) >= 60, "rules were lost")
    answer["seconds"] = done.seconds
    return answer


def found(answer):
    return {one["id"]: one for one in answer["findings"]}


# This machine, as it is: the figures that users feel.
before = resource.getrusage(resource.RUSAGE_CHILDREN)
here = report()
after = resource.getrusage(resource.RUSAGE_CHILDREN)
gpus = any(pathlib.Path("/dev").glob("nvidia[0-9]*")) or "H01" not in found(here)
memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"{here['seconds']:.2f} s, {memory / 1024:.1f} MB, verdict {here['verdict']}: {here['summary']}")
# Generous: other tests run beside this one. The figure for a quiet machine is in docs/doctor.md; what it
# computes itself tells a slow doctor from a busy machine.
support.check(here["seconds"] < 30, "far too slow")
sanitized = b"__asan_init" in pathlib.Path(support.ENVKIT).read_bytes()
# The largest of doctor and what it asks: podman's client alone has 31 MB.
support.check(sanitized or shutil.which("podman") or memory < 30 * 1024, f"{memory} kB")
computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
support.check(sanitized or computed < 0.3, f"{computed} s of processor time")
if not gpus:
    support.check("CPU" in here["summary"]["jobs"], here["summary"]["jobs"])
    support.check(found(here)["H01"]["severity"] == "info", "no GPU is no fault")
text = doctor("-v").stdout
support.check("machine " in text and "engines " in text, text)
support.check("\033" not in text, "colour on a pipe")
support.check(here["verdict"] != "ok" or doctor("--quiet").stdout == "", "--quiet says nothing of a sound machine")

# A driver that hangs or crashes, though there is no GPU: the report still comes, in time.
for scenario in ("hang", "crash", "exit", "eight"):
    answer = report("--save", "mock.json", env={"LD_LIBRARY_PATH": str(MOCK), "MOCK_NVML": scenario})
    nvml = json.loads((HERE / "mock.json").read_text())["nvml"]
    print(f"{scenario}: {answer['seconds']:.2f} s, {nvml['unknown']!r}")
    support.check(answer["seconds"] < 30, "the driver hung the doctor")
    support.check((scenario == "eight") == (nvml["unknown"] == ""), nvml["unknown"])
    support.check((scenario == "eight") == (len(nvml["gpus"]) == 8), "GPUs")

# --save - is facts and nothing else.
support.check(json.loads(doctor("--save", "-", expect=0).stdout)["schema"] == 1, "--save -")

# What is saved is diagnosed the same elsewhere, and names nobody.
doctor("--save", "facts.json", "--quiet")
saved = (HERE / "facts.json").read_text()
hostname = os.uname().nodename
if len(hostname) > 4:
    support.check(f'"{hostname}"' not in saved, "the host's name was saved")
again = report("--from", "facts.json")
support.check(found(again).keys() == found(report()).keys(), "another diagnosis of the same facts")
support.check(report("--from", "-", stdin=saved)["verdict"] == again["verdict"], "stdin")
for bad, words in (("", "no JSON object"), ("{}", "schema"), ('{"schema": 1}', None)):
    done = doctor("--from", "-", stdin=bad, expect=2 if words else 0)
    support.check(words is None or words in done.stderr, done.stderr)
support.check("No such file" in doctor("--from", "none.json").stderr, "a missing file")
support.check("no directory" in doctor("--root", "none", expect=2).stderr, "a missing root")
doctor("--root", "/", "--from", "facts.json", expect=2)

# The remedies are a script that a shell accepts, and that does nothing unasked.
script = doctor("--fix-script", expect=0).stdout
subprocess.run(["sh", "-n"], input=script, text=True, check=True)
subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

# Explanations.
support.check("802" in doctor("explain", "H18", expect=0).stdout, "explain ID")
support.check("D03" in doctor("explain", 'could not select device driver ""', "with capabilities: [[gpu]]",
                              expect=0).stdout, "explain TEXT")
support.check("R03" in doctor("explain", "-", stdin="x\nbind: Address already in use\n", expect=0).stdout, "-")
doctor("explain", "H99", expect=2)
doctor("explain", expect=2)

# Odd surroundings: always an end, and a report.
if os.getuid() == 0:
    program = HERE / "envkit"
    shutil.copy(support.ENVKIT, program)  # nobody may not read the sources' place
    nobody = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", program,
                             "doctor", "--json"], cwd=HERE, capture_output=True, text=True, timeout=60)
    answer = json.loads(nobody.stdout)
    print("nobody:", answer["summary"]["engines"], [one["because"] for one in answer["unknown"]])
    support.check("oci" in answer["summary"]["engines"], nobody.stdout)
    support.check(gpus or not any("matrix" in one["because"] for one in answer["unknown"]),
                  "the matrix, which is not there, was missed without a GPU")
    unshare = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*unshare, "umount -l /sys"], capture_output=True).returncode == 0:
        no_sys = report(wrap=[*unshare, 'umount -l /sys && exec "$@"', "sh"])
        support.check(any("/sys" in one["because"] for one in no_sys["unknown"]),
                      "without /sys nothing was unknown")
        support.check("H01" not in found(no_sys) or gpus, "no GPU was claimed without a PCI bus to look at")
    nothing = doctor(env={"PATH": "/nowhere", "HOME": "/nowhere"})
    support.check(nothing.returncode in (0, 1) and "machine" in nothing.stdout, nothing.stderr)
shutil.rmtree(HERE)

"""Fuzzes the doctor's readers with libFuzzer: SECONDS each (argument), all at once as many as there are
processors. Seeds are the fixtures and what the doctor saves here."""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

import support

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 4
if not shutil.which("clang++"):
    support.skip("clang++ is not installed")
tree = support.SOURCE / "build" / "fuzz"
done = subprocess.run(["cmake", "--preset", "fuzz"], cwd=support.SOURCE, capture_output=True, text=True)
support.check(done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:])
done = subprocess.run(["ninja", "-C", tree, "fuzz_doctor"], capture_output=True, text=True)
if "cannot find" in done.stdout and "libclang_rt.fuzzer" in done.stdout:
    support.skip("clang has no libFuzzer (libclang-rt-dev)")
support.check(done.returncode == 0, done.stdout[-4000:])

work = support.new_directory("envkit-fuzz-")
subprocess.run([support.ENVKIT, "doctor", "--save", work / "facts.json", "--quiet"],
               capture_output=True, cwd=work)
cases = support.SOURCE / "tests" / "fixtures" / "hosts" / "doctor"
server = (cases / "server.case").read_text()
sections = {}
for part in server.split("@file ")[1:]:
    name, _, text = part.partition("\n")
    sections[name.strip()] = text.split("\n@")[0]
facts = (work / "facts.json").read_text()
seeds = {
    "facts": [facts, facts.replace("\n", ""), '{"schema": 1, "nvml": ' + sections[".envkit/nvml.json"] + "}"],
    "log": [path.read_text() for path in cases.glob("H12*.case")],
    "cdi-json": ['{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", '
                 '"containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}]}'],
    "cdi-yaml": [sections["etc/cdi/nvidia.yaml"]],
    "docker": [sections[".envkit/docker-info.json"], '{"features": {"cdi": true}}'],
    "cache": [pathlib.Path("/etc/ld.so.cache").read_bytes()],
}


def fuzz(target):
    corpus = work / target
    corpus.mkdir()
    for number, seed in enumerate(seeds[target]):
        (corpus / f"seed{number}").write_bytes(seed if isinstance(seed, bytes) else seed.encode())
    done = subprocess.run([tree / "bin" / "fuzz_doctor", corpus, f"-max_total_time={SECONDS}", "-timeout=10",
                           "-rss_limit_mb=2048", "-max_len=65536", "-print_final_stats=1",
                           f"-artifact_prefix={work}/{target}-"],
                          env={**os.environ, "FUZZ_TARGET": target}, capture_output=True, text=True,
                          errors="replace")
    return target, done


failed = []
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for target, done in pool.map(fuzz, seeds):
        runs = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        print(f"{target}: {runs[0] if runs else '?'} inputs in {SECONDS} s, exit code {done.returncode}")
        if done.returncode != 0:
            failed.append(f"{target}:\n{done.stderr[-3000:]}")
support.check(not failed, "\n".join(failed) + f"\ninputs: {work}")
shutil.rmtree(work)

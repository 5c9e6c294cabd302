"""Fuzzes the readers of the doctor and of the training runtime with libFuzzer: SECONDS each (argument), as many
at once as there are processors. Seeds are the fixtures, what the doctor saves here, and small whole files.
`fuzz.py SECONDS TARGET…` fuzzes those targets alone."""

import concurrent.futures
import gzip
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import zlib

import support

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 4
if not shutil.which("clang++"):
    support.skip("clang++ is not installed")
tree = support.SOURCE / "build" / "fuzz"
done = subprocess.run(["cmake", "--preset", "fuzz"], cwd=support.SOURCE, capture_output=True, text=True)
support.check(done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:])

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
    "facts": [facts, facts.replace("\n", ""), '{"schema": 1, "nvml": ' + sections[".envkit/nvml.json"] + "}",
              '{"schema": 1, "driver": {"nodes": [{"path": "/dev/nvidia0", "usable": true, "group": ""}]}}'],
    "log": [path.read_text() for path in cases.glob("H12*.case")],
    "cdi-json": ['{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", '
                 '"containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}]}'],
    "cdi-yaml": [sections["etc/cdi/nvidia.yaml"]],
    "docker": [sections[".envkit/docker-info.json"], '{"features": {"cdi": true}}'],
    "cache": [pathlib.Path("/etc/ld.so.cache").read_bytes()],
}


def png(kind, depth, channels):
    """A picture of 4 x 3 pixels."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    line = b"\0" + bytes(range(4 * channels * depth // 8))
    palette = chunk(b"PLTE", bytes(range(48))) if kind == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, depth, kind, 0, 0, 0)) + palette
            + chunk(b"IDAT", zlib.compress(line * 3)) + chunk(b"IEND", b""))


def npy(header, values):
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + values


# A grey JPEG of 16 x 8 pixels, and a progressive one in colour, as libjpeg-turbo wrote them once.
JPEG_GREY = ("ffd8ffe000104a46494600010100000100010000ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a"
             "333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffc0000b080008001001011100ffc4"
             "001500010100000000000000000000000000000506ffc4001810000203000000000000000000000000000004052231ffda000801"
             "0100003f009b5e3b2a28bc7654ffd9")
JPEG_PROGRESSIVE = ("ffd8ffe000104a46494600010100000100010000ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a"
                    "333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffdb0043011112121815182f1a1a2f"
                    "63423842636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363"
                    "6363ffc20011080008001003012200021101031101ffc400160001010100000000000000000000000000000405ffc40015010101"
                    "00000000000000000000000000000001ffda000c030100021003100000019b484fffc40017100101010100000000000000000000"
                    "000003020001ffda000801010001050213d77c03ffc40014110100000000000000000000000000000000ffda0008010301013f01"
                    "7fffc4001511010100000000000000000000000000000001ffda0008010201013f01afffc4001810000203000000000000000000"
                    "000000000001114142ffda0008010100063f0227548fffc400191000020301000000000000000000000000000111213141ffda00"
                    "08010100013f21c28c9e54eeb3ffda000c03010002000300000010f7ffc4001511010100000000000000000000000000000001ff"
                    "da0008010301013f108fffc4001511010100000000000000000000000000000031ffda0008010201013f1087ffc4001a10000202"
                    "03000000000000000000000000011100417191a1ffda0008010100013f10985a4c3ea180d9d5cfffd9")
JPEGS = [bytes.fromhex(text) for text in (JPEG_GREY, JPEG_PROGRESSIVE)]
idx = struct.pack(">IIII", 0x803, 2, 3, 2) + bytes(range(12))
tensors = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
           "b[2:4]": {"dtype": "BOOL", "shape": [2], "data_offsets": [24, 26]},
           "__metadata__": {"shape:b": "3,2"}}
runtime_seeds = {
    "idx": [idx],
    "idx-labels": [struct.pack(">II", 0x801, 2) + bytes([3, 9])],
    "gzip": [gzip.compress(idx)],
    "npy": [npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", bytes(24)),
            npy(b"{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", bytes(2))],
    "tokens": [bytes(64), struct.pack("<3i", 20240520, 1, 8) + bytes(1012) + bytes(range(16))],
    "cifar": [bytes(3073 * 2)],
    "safetensors": [struct.pack(">H", 26) + json.dumps(tensors).encode()],
    "manifest": ['{"schema": 1, "files": {"model.safetensors": {"bytes": 12, "crc32c": "0123abcd"}}}'],
    "state": ['{"schema": 1, "job": "train", "model": "cnn", "step": 3, "epoch": 0, "sample_offset": 384, "seed": 1, '
              '"global_batch": 128, "dataset_samples": 60000, "world_size": 2}'],
    "train-toml": [(support.SOURCE / "train.toml").read_text(), '[model]\nkind = "gpt"\n[data]\nkind = "tokens"\n'],
    "setting": ["data.dir=/data", "optimizer.learning_rate=1e-3", 'model.kind = "mlp"'],
    "image": [*JPEGS, png(2, 8, 3), png(6, 16, 4), png(3, 8, 1), png(4, 8, 2)],
}
programs = {**{target: "fuzz_doctor" for target in seeds}, **{target: "fuzz_runtime" for target in runtime_seeds}}
seeds |= runtime_seeds
if sys.argv[2:]:
    seeds = {target: seeds[target] for target in sys.argv[2:]}

done = subprocess.run(["ninja", "-C", tree, *{programs[target] for target in seeds}], capture_output=True, text=True)
if "cannot find" in done.stdout and "libclang_rt.fuzzer" in done.stdout:
    support.skip("clang has no libFuzzer (libclang-rt-dev)")
support.check(done.returncode == 0, done.stdout[-4000:])



def fuzz(target):
    corpus = work / target
    corpus.mkdir()
    for number, seed in enumerate(seeds[target]):
        (corpus / f"seed{number}").write_bytes(seed if isinstance(seed, bytes) else seed.encode())
    done = subprocess.run([tree / "bin" / programs[target], corpus, f"-max_total_time={SECONDS}", "-timeout=10",
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

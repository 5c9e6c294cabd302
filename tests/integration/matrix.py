"""`envkit matrix` and `envkit init` as people and programs meet them; lock asks the same matrix."""

import json
import os
import pty
import subprocess
import tomllib

import jsonschema

import support


def valid(name, document):
    schema = json.loads((support.SOURCE / "docs" / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    return document


def matrix(*arguments, expect=0):
    done = support.envkit("matrix", *arguments, "--json", project=empty, expect=expect, quiet=True)
    return valid("matrix", json.loads(done.stdout))


empty = support.new_directory()

# What a driver can run, and what was asked for and cannot be.
answer = matrix("--driver", "550.54.14")
support.check(answer["verdict"]["build"]["torch"] == "2.10.0", answer["verdict"])
support.check(answer["verdict"]["build"]["cuda"] == "12.8", answer["verdict"])
support.check(all(float(row["cuda"]) < 13 for row in answer["rows"]), "a CUDA 13 row for driver 550")
answer = matrix("--torch", "2.8", "--cuda", "12.1", expect=1)
support.check(answer["verdict"]["reason"] == "never-existed", answer["verdict"])
support.check(answer["verdict"]["nearest"]["cuda"] == "12.6", answer["verdict"])
support.check(matrix("--torch", "2.14", "--cuda", "13.0", "--gpu", "7.0", expect=1)
              ["verdict"]["reason"] == "gpu", "Volta with CUDA 13")
answer = matrix("--torch", "2.7.0", "--cuda", "12.6")
support.check(any(row["id"] == "torch-device-id-hang" for row in answer["known_bad"]), "known_bad")
matrix()
matrix("--torch", "2.16", expect=1)

# For people: the table on stdout, wrong usage with an example.
done = support.envkit("matrix", "--driver", "550", project=empty, quiet=True)
support.check(done.stdout.startswith("driver   550 (--driver)\nfits     PyTorch 2.10.0 for CUDA 12.8, "
                                     "the newest of the default index\n"), done.stdout[:300])
support.check("* not read from a wheel" in done.stdout and not done.stderr, done.stderr)
for arguments, words in ((("--driver", "N/A"), '"N/A" is not a driver version'),
                         (("--gpu", "H100"), '--gpu is a compute capability, not "H100"'),
                         (("--torch", "new"), '--torch is a version, not "new"')):
    done = support.envkit("matrix", *arguments, project=empty, expect=2, quiet=True)
    support.check(f"error: {words}" in done.stderr, done.stderr)

# A matrix that is damaged is an error of code 3.
share = support.new_directory()
for name in ("profiles", "rootfs", "uv.toml"):
    (share / "images").mkdir(exist_ok=True)
    (share / "images" / name).symlink_to(support.SOURCE / "images" / name)
(share / "images" / "matrix").mkdir()
for name in ("cuda.json", "known-bad.json"):
    (share / "images" / "matrix" / name).symlink_to(support.SOURCE / "images" / "matrix" / name)
(share / "images" / "matrix" / "torch.json").write_text("{")
done = support.envkit("matrix", project=empty, env={"ENVKIT_SHARE": share}, expect=3, quiet=True)
support.check("images/matrix/torch.json: this is not JSON" in done.stderr, done.stderr)

# init: the defaults, and never over a file that is there.
project = support.new_directory() / "My Project"
project.mkdir()
(project / "train.py").write_text("print('hello')\n")
done = support.envkit("init", "--yes", "--json", project=project)
answer = valid("init", json.loads(done.stdout))
written = (project / "envkit.toml").read_text()
settings = tomllib.loads(written)
support.check(settings["project"]["name"] == "my-project", written)
support.check(settings["jobs"]["train"]["command"] == ["train.py"], written)
support.check(settings["environment"]["cuda"] == "auto", written)
support.check(settings["environment"]["torch"] == answer["torch"], written)
done = support.envkit("init", "--torch", "2.9", project=project, expect=2, quiet=True)
support.check("envkit.toml is there already" in done.stderr and "--force" in done.stderr, done.stderr)
support.check((project / "envkit.toml").read_text() == written, "init changed a file that was there")
done = support.envkit("init", "--torch", "2.9", "--force", project=project, quiet=True)
support.check("no terminal to ask on: the defaults hold" in done.stderr, done.stderr)
support.check('torch = "2.9"' in (project / "envkit.toml").read_text(), "--force")
done = support.envkit("init", "--torch", "2.8", "--cuda", "12.1", "--force", project=project, expect=2,
                      quiet=True)
support.check("PyTorch 2.8 has no build for CUDA 12.1" in done.stderr, done.stderr)
support.check(sorted(path.name for path in project.iterdir()) == ["envkit.toml", "train.py"],
              "init left something behind")

# The same pair in envkit.toml: lock refuses it at its place, at once and without a network.
text = (project / "envkit.toml").read_text().replace('"2.9"', '"2.8"').replace('"auto"', '"12.1"', 1)
(project / "envkit.toml").write_text(text)
done = support.envkit("lock", project=project, expect=2, env={"https_proxy": "http://127.0.0.1:9"})
support.check("error: PyTorch 2.8 has no build for CUDA 12.1" in done.stderr, done.stderr)
support.check('cuda = "12.1"' in done.stderr and "^^^^^^" in done.stderr, done.stderr)

# Questions on a terminal: an empty line takes what stands in brackets.
asked = support.new_directory() / "asked"
asked.mkdir()


def on_terminal(command, typed):
    """Runs COMMAND in ASKED with TYPED on a terminal of its own; what was said there."""
    ours, theirs = pty.openpty()
    # A CI runner's own CI=true and TERM=dumb say that nobody is there to answer.
    there = {key: value for key, value in support.environment().items() if key != "CI"} | {"TERM": "xterm"}
    process = subprocess.Popen([support.ENVKIT, *command], cwd=asked, stdin=theirs, stdout=subprocess.PIPE,
                               stderr=theirs, env=there)
    os.close(theirs)
    os.write(ours, typed)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        said += part
    support.check(process.wait(30) == 0, said.decode())
    return said


said = on_terminal(["init"], b"\n2.10\n\nfit.py\ny\nseveral CPU processes\n" + b"\n" * 3 + b"4\nbf16\n")
support.check(b"name of the project and its images [asked]: " in said, said.decode())
settings = tomllib.loads((asked / "envkit.toml").read_text())
support.check(settings["project"]["name"] == "asked", settings)
support.check(settings["environment"]["torch"] == "2.10", settings)
support.check(settings["jobs"]["train"]["command"] == ["fit.py"], settings)
support.check(settings["jobs"]["train"]["processes"] == 4, settings)
support.check(b"processes, on all machines together [2]: " in said, said.decode())
config = (asked / ".accelerate/config.yaml").read_text()
support.check("num_processes: 4\n" in config and "mixed_precision: bf16\n" in config, config)

# The same questions, asked again for the files that are there; a flag answers its own.
said = on_terminal(["launch", "--save-config", "--cpu", "--num-processes", "3"], b"\n" * 3 + b"fp16\n")
support.check(b"optimise the script with torch dynamo [no]: " in said and b"what trains" not in said, said.decode())
support.check(b"saved    envkit.toml: [jobs.train] processes = 3" in said, said.decode())
support.check(tomllib.loads((asked / "envkit.toml").read_text())["jobs"]["train"]["processes"] == 3, said.decode())
support.check("mixed_precision: fp16\n" in (asked / ".accelerate/config.yaml").read_text(), said.decode())
support.envkit("launch", "--save-config", "train.py", project=asked, expect=2, quiet=True)

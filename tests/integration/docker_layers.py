"""Where all of an image's layers but one are in docker, that one alone is sent there."""

import re
import shutil

import support

share = support.new_directory()
for name in ("images", "toolkit", "runtime"):
    shutil.copytree(support.SOURCE / name, share / name)
with support.dockerd() as env:
    project = support.new_project()
    support.envkit("run", "--engine", "docker", "--variant", "cpu", "--", "true", project=project, env=env)
    # Another version of the bundled program is another runtime layer, which is the topmost.
    source = share / "runtime/programs/envkit_train.cpp"
    text = source.read_text()
    source.write_text(text.replace("app.footer(\n      \"Examples:", "app.footer(\n      \"Some examples:"))
    support.check(source.read_text() != text, "the program does not have the words that are changed here")
    done = support.envkit("run", "--engine", "docker", "--variant", "cpu", "--", "true", project=project,
                          env={**env, "ENVKIT_SHARE": share})
    label = re.search(r"docker: (\d+) of (\d+) layers are new", done.stderr)
    support.check(label and label.group(1) == "1", done.stderr[-2000:])
    # Nothing has changed: nothing is sent.
    done = support.envkit("run", "--engine", "docker", "--variant", "cpu", "--", "true", project=project,
                          env={**env, "ENVKIT_SHARE": share})
    support.check("layers are new" not in done.stderr, done.stderr[-2000:])

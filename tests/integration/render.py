"""images/<profile>/Dockerfile*: renderings of the repository's own lock, kept in step. With --write
they are written anew."""

import sys

import support

VARIANTS = {"Dockerfile": "cuda", "Dockerfile.cpu": "cpu"}
store = support.new_directory("envkit-render-")
for profile in sorted((support.SOURCE / "images/profiles").glob("*.toml")):
    if profile.stem == "builder":
        continue
    for name, variant in VARIANTS.items():
        file = support.SOURCE / "images" / profile.stem / name
        text = support.envkit("render", "dockerfile", "--profile", profile.stem, "--variant", variant,
                              project=support.SOURCE, store=store, quiet=True).stdout
        if "--write" in sys.argv:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        support.check(file.exists() and file.read_text() == text,
                      f"{file.relative_to(support.SOURCE)} is not what the lock says: "
                      "python3 tests/integration/render.py --write")

"""Python's own standard library, some MB of text that most machines have, as bytes for a GPT: text/train.bin and, of
every twentieth file, text/val.bin. `prepare.py FILE…` takes other texts."""

import array
import pathlib
import sys
import sysconfig

library = pathlib.Path(sysconfig.get_path("stdlib"))
files = [pathlib.Path(name) for name in sys.argv[1:]] or [
    file for file in sorted(library.rglob("*.py")) if not {"site-packages", "dist-packages", "test"} & set(file.parts)]
out = pathlib.Path(__file__).parent / "text"
out.mkdir(exist_ok=True)
for name, chosen in (("val", files[::20]), ("train", [file for i, file in enumerate(files) if i % 20 or len(files) < 20])):
    text = b"".join(file.read_bytes() for file in chosen)
    with open(out / f"{name}.bin", "wb") as to:
        array.array("H", list(text)).tofile(to)
    print(f"{name}.bin: {len(text):,} bytes of {len(chosen)} files")

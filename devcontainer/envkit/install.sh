#!/bin/sh
# Runs as root while a development container is built. The launcher is one file that needs nothing
# but glibc 2.28; it is copied beside this script (see docs/dev.md), so that nothing is downloaded.
set -eu
here=$(dirname "$0")
if [ ! -f "$here/envkit-launch" ]; then
  echo "envkit: this Feature has no envkit-launch beside install.sh" >&2
  echo "  Copy it there:  cp build/release/bin/envkit-launch .devcontainer/envkit/" >&2
  exit 1
fi
mkdir -p /opt/envkit/bin
cp "$here/envkit-launch" /opt/envkit/bin/envkit-launch
chmod 0755 /opt/envkit/bin/envkit-launch
if ! /opt/envkit/bin/envkit-launch --help > /dev/null; then
  echo "envkit: envkit-launch does not run in this image; it needs glibc 2.28 or newer" >&2
  exit 1
fi

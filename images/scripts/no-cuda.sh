#!/bin/sh
# Libraries in place of NVIDIA's that the CPU variant leaves out, in torch/lib, where torch's RPATH
# ends. Python's torch is linked with them and does not load without; each of their functions, all
# of C, returns 1, which is an error to all of these libraries. torch's own code stays as it is, so
# that it says itself that there is no GPU.
#
# Run by envkit's build in the builder:  no-cuda.sh SITE OUT CUDNN_VERSION
set -eu
export LC_ALL=C
site=$1 out=$2 cudnn=$3
work=$(mktemp -d)
cd "$site"
torch="torch/lib/libtorch_python.so torch/lib/libtorch_cuda.so torch/lib/libc10_cuda.so"
[ ! -e torch/lib/libtorch_nvshmem.so ] || torch="$torch torch/lib/libtorch_nvshmem.so"

find . -name '*.so' -o -name '*.so.*' | sed 's|.*/||' | sort -u > "$work/present"
# shellcheck disable=SC2086
readelf -dW $torch | sed -n 's|.*(NEEDED).*\[\(.*\)\]|\1|p' | grep -E '^lib(cu|nv|nccl)' | sort -u |
  comm -23 - "$work/present" > "$work/gone"
# "name" or "name@version"
# shellcheck disable=SC2086
nm -D --undefined-only $torch | awk 'NF == 2 { print $2 }' | sort -u > "$work/wanted"

# A function belongs to the library whose name it begins with: cublasLtMatmul to libcublasLt.
awk -v dir="$work" -v cudnn="$cudnn" '
  NR == FNR {
    stem = $1
    sub(/^lib/, "", stem)
    sub(/(_host)?\.so.*/, "", stem)
    soname[stem] = $1
    next
  }
  {
    split($1, part, "@")
    best = ""
    for (stem in soname)
      if (index(part[1], stem) == 1 && length(stem) > length(best)) best = stem
    if (best == "") next
    code = dir "/" soname[best] ".c"
    if (part[1] ~ /(String|GetLastError)$/)
      printf "const char* %s() { return \"this image is for CPUs\"; }\n", part[1] > code
    else if (part[1] == "cudnnGetVersion") {
      split(cudnn, v, ".")
      printf "unsigned long %s() { return %d; }\n", part[1], v[1] * 10000 + v[2] * 100 + v[3] > code
    } else if (part[1] == "cudnnGetProperty") {  # torch compares it before it says the version
      split(cudnn, v, ".")
      printf "int %s(int what, int* value) { *value = what == 0 ? %d : what == 1 ? %d : %d; return 0; }\n",
             part[1], v[1], v[2], v[3] > code
    } else
      printf "int %s() { return 1; }\n", part[1] > code
    if (part[2] != "") print part[2], part[1] > (dir "/" soname[best] ".versions")
  }' "$work/gone" "$work/wanted"

mkdir -p "$out/torch/lib"
while read -r soname; do
  touch "$work/$soname.c" "$work/$soname.versions"
  awk '{ names[$1] = names[$1] " " $2 ";" }
       END { for (version in names) printf "%s { global:%s };\n", version, names[version] }' \
    "$work/$soname.versions" | sort > "$work/$soname.map"
  map=
  [ ! -s "$work/$soname.map" ] || map=-Wl,--version-script=$work/$soname.map
  # shellcheck disable=SC2086
  gcc -O1 -fPIC -w -shared -nostdlib -Wl,-soname,"$soname" -Wl,--build-id=none -s $map \
    -o "$out/torch/lib/$soname" "$work/$soname.c"
done < "$work/gone"

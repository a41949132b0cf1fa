#!/usr/bin/env bash
# Makes a small directory that stands for an object store in `make run`. What is there already stays.
set -euo pipefail

target=${1:?usage: sample.sh DIRECTORY}
[[ ! -e "$target/readme.txt" ]] || exit 0
mkdir -p "$target/images" "$target/logs/2026"
for number in 1 2 3; do
    head -c $((number * 1000000)) /dev/urandom >"$target/images/image-$number.bin"
done
for month in 01 02 03; do
    printf '%s started\n%s stopped\n' "2026-$month-01" "2026-$month-28" >"$target/logs/2026/$month.log"
done
head -c 64000000 /dev/urandom >"$target/model.bin"
# Last, because its presence says that the sample is whole.
cat >"$target/readme.txt" <<'TEXT'
This directory is read through Curvine at /sample: a first read comes from here, a second one from the cache.
Change a file here, and within ten seconds the mount shows it.
TEXT

#!/usr/bin/env bash
# Makes sure that what building needs is there, and with the argument `mount` what mounting needs: through apt when root, else
# it says what to install.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v make >/dev/null || missing+=(make)
[[ -e /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)

if ! command -v cargo >/dev/null; then
    echo "cargo is not there: install Rust, see https://rustup.rs" >&2
    exit 1
fi
if ((${#missing[@]})); then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "please install: ${missing[*]}   (on Debian: sudo apt-get install ${missing[*]})" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
[[ ${1:-} == mount ]] || exit 0
if [[ ! -e /dev/fuse && $(id -u) == 0 ]]; then
    modprobe fuse 2>/dev/null || true
    [[ -e /dev/fuse ]] || mknod -m 666 /dev/fuse c 10 229 2>/dev/null || true
fi
if [[ ! -r /dev/fuse || ! -w /dev/fuse ]]; then
    echo "/dev/fuse cannot be opened: mounting needs the kernel's fuse module; in a container, --device /dev/fuse --cap-add SYS_ADMIN" >&2
    exit 1
fi
if [[ $(id -u) != 0 ]]; then
    echo "mounting needs root (CAP_SYS_ADMIN): run this with sudo" >&2
    exit 1
fi

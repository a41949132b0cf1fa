#!/usr/bin/env bash
# Installs what the tests in tests/ run: pjdfstest and fsx, once, into ${CURVINE_TOOLS:-$HOME/.cache/curvine-tools};
# git, sqlite, rsync, tar, Python, stress-ng and a C compiler from Debian, where they are missing.
set -euo pipefail

tools="${CURVINE_TOOLS:-$HOME/.cache/curvine-tools}"

# A version that is wanted and there is not installed again.
install() {
    local name=$1 version=$2
    if [[ -x "$tools/bin/$name" && "$(cat "$tools/$name.version" 2>/dev/null)" == "$version" ]]; then
        return
    fi
    cargo install "$name" --version "$version" --locked --root "$tools"
    echo "$version" >"$tools/$name.version"
}

missing=()

# A command, and the package that has it.
need() {
    command -v "$1" >/dev/null || missing+=("$2")
}

need git git
need sqlite3 sqlite3
need rsync rsync
need tar tar
need stress-ng stress-ng
need cc gcc
need mount mount
[[ -x /usr/bin/python3 ]] || missing+=(python3)
# Debian keeps what a new environment starts with apart.
/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null || ((EUID != 0)); then
        echo "missing: ${missing[*]}; install them (apt-get install ${missing[*]}, as root) and try again" >&2
        exit 1
    fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
fi

mkdir -p "$tools"
install pjdfstest 0.2.2
install fsx 0.3.2

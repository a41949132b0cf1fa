#!/usr/bin/env bash
# Installs pjdfstest and fsx once into ${CURVINE_TOOLS:-$HOME/.cache/curvine-tools}; the tests in tests/posix.rs run them.
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

mkdir -p "$tools"
install pjdfstest 0.2.2
install fsx 0.3.2

#!/bin/bash
# The image's entry point: `master|worker|client start` as manifests for the image of old write it, or arguments of `curvine`.
set -e
conf=/app/curvine/conf/curvine-cluster.toml
case "$1 ${2:-start}" in
"master start" | "worker start" | "client start")
    if [ -n "$FLUID_RUNTIME_CONFIG_PATH" ]; then
        exec /usr/local/bin/curvine fluid "$1"
    fi
    export CURVINE_CONF_FILE="${CURVINE_CONF_FILE:-$conf}"
    role=$1
    [ "$role" != client ] || role=mount
    exec /usr/local/bin/curvine "$role"
    ;;
esac
case "$1" in
/* | sh | bash | cv | curvine | curvine-fuse | sleep)
    exec "$@"
    ;;
*)
    exec /usr/local/bin/curvine "$@"
    ;;
esac

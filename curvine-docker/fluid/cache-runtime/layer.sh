#!/usr/bin/env bash
# What goes on top of the base image: layer.sh DIR BINARY makes it in DIR. The names are those under which manifests look for
# Curvine, old ones among them.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
layer=$1 binary=$2
mkdir -p "$layer"/{usr/local/bin,app/curvine/{bin,lib,conf,logs},etc/curvine/secret,var/lib/curvine,run/curvine}
# A link where that is possible: whoever strips it works on a copy.
ln -f "$binary" "$layer/usr/local/bin/curvine" 2>/dev/null || install -m 755 "$binary" "$layer/usr/local/bin/curvine"
for name in cv curvine-fuse curvine-server; do ln -sf curvine "$layer/usr/local/bin/$name"; done
ln -sf /usr/local/bin/curvine "$layer/app/curvine/bin/cv"
ln -sf /usr/local/bin/curvine "$layer/app/curvine/bin/curvine"
ln -sf /usr/local/bin/curvine "$layer/app/curvine/lib/curvine-fuse"
ln -sf /usr/local/bin/curvine "$layer/app/curvine/lib/curvine-server"
install -m 644 "$here/curvine-cluster.toml" "$layer/app/curvine/conf/curvine-cluster.toml"
install -m 755 "$here/entrypoint.sh" "$layer/entrypoint.sh"
# Scripts that classes written for the image of old execute.
for command in mountUfs:mount-ufs reportSummary:report-summary; do
    printf '#!/bin/sh\nexec /usr/local/bin/curvine fluid %s\n' "${command#*:}" >"$layer/app/curvine/${command%:*}.sh"
    chmod 755 "$layer/app/curvine/${command%:*}.sh"
done

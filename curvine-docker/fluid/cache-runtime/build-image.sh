#!/usr/bin/env bash
# Builds the image of Curvine for Fluid.
#
#   ./build-image.sh                         with docker, podman or buildah, whichever is there; the result is curvine:latest
#   ./build-image.sh --output curvine.tar    an archive that `docker load` and `ctr -n k8s.io images import` take; without any of
#                                            these engines the base is made by debootstrap
#
#   --base IMAGE|DIR|TAR   base image, or a root file system as a directory or archive (default debian:bookworm-slim)
#   --tag NAME             name of the image (default curvine:latest)
#   --output FILE          write an archive
#   --binary FILE          a binary of curvine; else one is built with cargo from this source
#   --engine NAME          docker, podman, buildah or none
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../../.." && pwd)
base=debian:bookworm-slim tag=curvine:latest output='' binary=${CURVINE_BINARY:-} engine=''

die() { echo "build-image.sh: $*" >&2; exit 1; }
usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

while [ $# -gt 0 ]; do
    case $1 in
    --base | --tag | --output | --binary | --engine)
        [ $# -ge 2 ] || die "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift 2
        ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1, see --help" ;;
    esac
done

works() { command -v "$1" >/dev/null && "$@" >/dev/null 2>&1; }
if [ -z "$engine" ]; then
    if works docker info; then engine=docker
    elif works podman info; then engine=podman
    elif command -v buildah >/dev/null; then engine=buildah
    elif [ -n "$output" ]; then engine=none
    else die "none of docker, podman and buildah works here; install one, or write an archive with --output FILE"
    fi
fi
case $engine in
docker | podman | buildah) command -v "$engine" >/dev/null || die "$engine is not installed" ;;
none) [ -n "$output" ] || die "without an engine the image can only be written with --output FILE" ;;
*) die "unknown engine $engine: docker, podman, buildah or none" ;;
esac
case $tag in *:*) ;; *) tag=$tag:latest ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "$binary" ]; then
    command -v cargo >/dev/null || die "cargo is not installed; install Rust, or give a binary with --binary FILE"
    echo "building curvine (release) ..." >&2
    (cd "$top" && cargo build --release --locked -p curvine >&2)
    binary=${CARGO_TARGET_DIR:-$top/target}/release/curvine
fi
[ -x "$binary" ] || die "there is no binary $binary"

layer=$work/rootfs
mkdir -p "$layer"
"$here/layer.sh" "$layer" "$binary"
# Not the one that was given, which may be linked to it.
install -m 755 "$binary" "$work/curvine"
if command -v strip >/dev/null; then strip "$work/curvine"; fi
mv -f "$work/curvine" "$layer/usr/local/bin/curvine"

human() { numfmt --to=iec-i --suffix=B --format=%.1f "$1"; }

if [ "$engine" != none ]; then
    cp "$here/Dockerfile" "$work/Dockerfile"
    # A root file system becomes an image to build on.
    if [ -e "$base" ]; then
        echo "importing the base $base ..." >&2
        from=$base base=curvine-base:local
        if [ "$engine" = buildah ]; then
            container=$(buildah from scratch)
            buildah add -q "$container" "$from" / >/dev/null
            buildah commit -q "$container" "$base" >/dev/null
            buildah rm "$container" >/dev/null
        elif [ -d "$from" ]; then
            tar -C "$from" --numeric-owner --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* -c . | "$engine" import - "$base" >/dev/null
        else
            "$engine" import "$from" "$base" >/dev/null
        fi
    fi
    case $engine in
    buildah) buildah build --layers=false --build-arg BASE="$base" -t "$tag" "$work" ;;
    *) "$engine" build --build-arg BASE="$base" -t "$tag" "$work" ;;
    esac
    case $engine in
    buildah) size=$(buildah images --format '{{.Size}}' "$tag" | head -1) ;;
    *) size=$(human "$("$engine" image inspect --format '{{.Size}}' "$tag")") ;;
    esac
    if [ -n "$output" ]; then
        case $engine in
        buildah) rm -f "$output"; buildah push "$tag" "docker-archive:$output:$tag" ;;
        *) "$engine" save -o "$output" "$tag" ;;
        esac
        echo "archive: $output, $(human "$(stat -c %s "$output")")"
    fi
    echo "image: $tag, $size"
    exit 0
fi

# Without an engine: one archive of two layers, the base and ours, as `docker save` writes it.
base_tar=$work/base.tar
if [ -d "$base" ]; then
    tar -C "$base" --numeric-owner --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* -cf "$base_tar" .
elif [ -f "$base" ]; then
    case $base in *.gz | *.tgz) gzip -dc "$base" >"$base_tar" ;; *.xz) xz -dc "$base" >"$base_tar" ;; *) cp "$base" "$base_tar" ;; esac
else
    command -v debootstrap >/dev/null || die "debootstrap is not installed; install it, or give a root file system with --base DIR"
    [ "$(id -u)" = 0 ] || die "debootstrap needs root"
    suite=${base#debian:}
    case $suite in debian*) die "write the base as debian:SUITE, a directory or an archive" ;; esac
    suite=${suite%-slim}
    echo "making a base of Debian $suite ..." >&2
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
    # What no container of ours needs.
    (cd "$work/base" && rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/{doc,man,info,locale,lintian,linda,i18n,zoneinfo}/* \
        usr/lib/x86_64-linux-gnu/gconv usr/lib/aarch64-linux-gnu/gconv usr/share/perl* usr/lib/*/perl* usr/bin/perl* tmp/* \
        var/cache/debconf/* && find . -name '*.pyc' -delete)
    tar -C "$work/base" --numeric-owner --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* -cf "$base_tar" .
fi
tar -C "$layer" --numeric-owner --owner=0 --group=0 -cf "$work/layer.tar" .

case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
sum() { sha256sum "$1" | cut -d' ' -f1; }
base_id=$(sum "$base_tar") layer_id=$(sum "$work/layer.tar")
image=$work/image
mkdir -p "$image"
mv "$base_tar" "$image/$base_id.tar"
mv "$work/layer.tar" "$image/$layer_id.tar"
cat >"$work/config.json" <<JSON
{"architecture":"$arch","os":"linux","created":"$(date -u +%Y-%m-%dT%H:%M:%SZ)",
"config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Entrypoint":["/entrypoint.sh"],"Cmd":["--help"],"WorkingDir":"/app/curvine"},
"rootfs":{"type":"layers","diff_ids":["sha256:$base_id","sha256:$layer_id"]},
"history":[{"created_by":"base $base"},{"created_by":"curvine"}]}
JSON
config_id=$(sum "$work/config.json")
mv "$work/config.json" "$image/$config_id.json"
# `ctr` names images in full.
case $tag in */*) full=$tag ;; *) full=docker.io/library/$tag ;; esac
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s.tar","%s.tar"]}]\n' "$config_id" "$full" "$base_id" "$layer_id" >"$image/manifest.json"
tar -C "$image" -cf "$output" .
size=$(($(stat -c %s "$image/$base_id.tar") + $(stat -c %s "$image/$layer_id.tar")))
echo "image: $tag, $(human $size) ($(human "$(stat -c %s "$image/$layer_id.tar")") of it Curvine)"
echo "archive: $output, $(human "$(stat -c %s "$output")")"

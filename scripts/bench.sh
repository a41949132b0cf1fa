#!/usr/bin/env bash
# Measures this machine: mounts with and without passthrough against the local file system below them, the library, and a second
# host (a network namespace) against iperf3. Usage: bench.sh CURVINE DIRECTORY [options of cv bench]
set -euo pipefail

curvine=$(realpath "${1:?usage: bench.sh CURVINE DIRECTORY [OPTIONS]}")
mkdir -p "${2:?a directory on the disk that is to be measured}"
dir=$(realpath "$2")
shift 2

# What is missing is installed where that is possible.
missing=()
command -v iperf3 >/dev/null || missing+=(iperf3)
command -v ip >/dev/null || missing+=(iproute2)
if ((${#missing[@]})); then
    apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        echo "without ${missing[*]} the rows of a second host are left out" >&2
fi

work=$(mktemp -d "$dir/bench.XXXXXX")
near=cvb-near-$$ far=cvb-far-$$
pids=()
finish() {
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null || true
    done
    for mount in "$work"/mnt-*; do
        if mountpoint -q "$mount"; then umount -l "$mount"; fi
    done
    ip netns del "$near" 2>/dev/null || true
    ip netns del "$far" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# Runs something in the background and waits until a command succeeds.
start() {
    local ready=$1
    shift
    "$@" >>"$work/log" 2>&1 &
    pids+=($!)
    for ((tries = 0; tries < 300; tries++)); do
        if eval "$ready" >/dev/null 2>&1; then return; fi
        if ! kill -0 "${pids[-1]}" 2>/dev/null; then break; fi
        sleep 0.1
    done
    echo "did not start: $*" >&2
    tail -n 20 "$work/log" >&2
    exit 1
}

mkdir "$work"/{local,mnt-passthrough,mnt-plain,mnt-remote,far}
conf=$work/cluster/curvine-cluster.toml
start "$curvine --conf $conf report" "$curvine" standalone --data "$work/cluster"
start "mountpoint -q $work/mnt-passthrough" "$curvine" mount --conf "$conf" --mnt-path "$work/mnt-passthrough"
start "mountpoint -q $work/mnt-plain" "$curvine" mount --conf "$conf" --mnt-path "$work/mnt-plain" --no-passthrough
"$curvine" --conf "$conf" bench "passthrough=$work/mnt-passthrough" "no-passthrough=$work/mnt-plain" \
    --baseline "$work/local" --library --output "$work/here.json" "$@"
parts=("$work/here.json")

# A second host: master and worker in one namespace, the mount in another, a cable between them.
if command -v iperf3 >/dev/null && ip netns add "$far" && ip netns add "$near"; then
    ip link add "vf$$" netns "$far" type veth peer name "vn$$" netns "$near"
    for side in "$far vf$$ 10.213.0.1" "$near vn$$ 10.213.0.2"; do
        read -r ns link address <<<"$side"
        ip -n "$ns" addr add "$address/24" dev "$link"
        ip -n "$ns" link set "$link" up
        ip -n "$ns" link set lo up
    done
    (umask 077 && head -c 32 /dev/urandom | base64 >"$work/secret")
    cat >"$work/far.toml" <<TOML
[master]
hostname = "10.213.0.1"
[journal]
hostname = "10.213.0.1"
journal_dir = "$work/far/journal"
[worker]
hostname = "10.213.0.1"
data_dir = ["[SSD]$work/far/data"]
socket_path = "none"
[client]
hostname = "near"
master_addrs = ["10.213.0.1:8995"]
[fuse]
mnt_path = "$work/mnt-remote"
[security]
secret_file = "$work/secret"
TOML
    # Only the network is another one: mounts stay visible here.
    in_far=(nsenter "--net=/run/netns/$far") in_near=(nsenter "--net=/run/netns/$near")
    start "${in_near[*]} $curvine --conf $work/far.toml report" "${in_far[@]}" "$curvine" master --conf "$work/far.toml"
    start "${in_near[*]} $curvine --conf $work/far.toml --json report | grep -q '\"live\": true'" \
        "${in_far[@]}" "$curvine" worker --conf "$work/far.toml"
    start "mountpoint -q $work/mnt-remote" "${in_near[@]}" "$curvine" mount --conf "$work/far.toml"
    start "${in_near[*]} iperf3 -c 10.213.0.1 -t 1" "${in_far[@]}" iperf3 -s
    "${in_near[@]}" "$curvine" bench remote "remote=$work/mnt-remote" --iperf 10.213.0.1 --size 256MB --output "$work/remote.json"
    parts+=("$work/remote.json")
fi

mapfile -t earlier < <(ls docs/benchmarks/*.json 2>/dev/null)
"$curvine" bench show "${parts[@]}" ${earlier[@]:+--earlier "${earlier[@]}"} --output "$dir/bench.json" --html "$dir/bench.html"

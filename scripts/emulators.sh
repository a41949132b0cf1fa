#!/usr/bin/env bash
# Runs a command beside emulators of Azure Blob (Azurite, from npm) and GCS (gcp-storage-emulator, from PyPI), and ends both after it:
#   scripts/emulators.sh COMMAND...    with AZURITE_TEST_URL and GCS_TEST_URL in its environment; both have a container `data`
# They are kept in ${CURVINE_TOOLS:-$HOME/.cache/curvine-tools}/emulators. Needs npm and Python.
set -euo pipefail

tools="${CURVINE_TOOLS:-$HOME/.cache/curvine-tools}/emulators"
mkdir -p "$tools"
[[ -x $tools/node_modules/.bin/azurite-blob ]] || npm install --prefix "$tools" --no-audit --no-fund --silent azurite@3 >&2
if [[ ! -x $tools/venv/bin/gcp-storage-emulator ]]; then
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" -q install azure-storage-blob gcp-storage-emulator >&2
fi

# shellcheck source=scripts/servers.sh
source "$(dirname "${BASH_SOURCE[0]}")/servers.sh"

azure=$(free_port) gcs=$(free_port)
"$tools/node_modules/.bin/azurite-blob" --silent --inMemoryPersistence --skipApiVersionCheck --blobPort "$azure" >"$dir/azure.log" 2>&1 &
pids+=($!)
"$tools/venv/bin/gcp-storage-emulator" start --host=127.0.0.1 --port="$gcs" --in-memory --default-bucket=data >"$dir/gcs.log" 2>&1 &
pids+=($!)
export AZURITE_TEST_URL="http://127.0.0.1:$azure/devstoreaccount1" GCS_TEST_URL="http://127.0.0.1:$gcs"

"$tools/venv/bin/python" - <<'END' || { tail "$dir"/*.log >&2; exit 1; }
import os, time, urllib.request
from azure.storage.blob import BlobServiceClient

key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

def container():
    BlobServiceClient(os.environ["AZURITE_TEST_URL"], credential=key, retry_total=0).create_container("data")

def bucket():
    urllib.request.urlopen(os.environ["GCS_TEST_URL"] + "/storage/v1/b", timeout=5).read()

for ready in (container, bucket):
    for left in range(60, -1, -1):
        try:
            ready()
            break
        except Exception:
            if left == 0:
                raise
            time.sleep(0.5)
END
"$@"

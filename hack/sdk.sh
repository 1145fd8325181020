#!/usr/bin/env bash
# Installs IBM's Node and Python SDKs and an OpenID provider for the tests, and prints the directory: node_modules/, venv/, and the scripts.
# Pinned by package-lock.json and requirements.txt; cached by their contents; safe to run several times at once.
set -euo pipefail

source_directory="$(cd "$(dirname "${BASH_SOURCE[0]}")/../crates/identity-simulator/tests/sdk" && pwd)"
cache="${CLOUD_IDENTITY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cloud-identity-operator}/sdk"
inputs=(package.json package-lock.json requirements.txt app-id.cjs iam.py kms.py oidc-server.mjs)

for tool in node npm python3 flock sha256sum; do
    if ! command -v "$tool" >/dev/null; then
        echo "sdk: $tool is missing" >&2
        exit 2
    fi
done

# A venv is bound to its interpreter, and modules may be built for one version of Node.
hash="$( (cd "$source_directory" && cat "${inputs[@]}"; node --version; python3 --version; command -v python3) | sha256sum | cut -c1-16)"
directory="$cache/$hash"
mkdir -p "$cache"
exec 9>"$cache/$hash.lock"
flock 9

if [ ! -e "$directory/complete" ]; then
    rm -rf "$directory"
    mkdir -p "$directory"
    (cd "$source_directory" && cp "${inputs[@]}" "$directory/")
    echo "sdk: installing ibmcloud-appid and oidc-provider with npm …" >&2
    (cd "$directory" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2 9>&-)
    echo "sdk: installing ibm-cloud-sdk-core with pip …" >&2
    python3 -m venv "$directory/venv" >&2
    "$directory/venv/bin/pip" install --quiet --requirement "$directory/requirements.txt" >&2 9>&-
    touch "$directory/complete"
    echo "sdk: installed in $directory" >&2
fi
echo "$directory"

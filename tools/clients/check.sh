#!/usr/bin/env bash
# Published clients of ComfyUI's API against a server of this program: tools/clients/check.sh [PROGRAM].
# Needs Node with npm, and Python with venv; what else it needs it installs into folders that git ignores.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$(realpath "${1:-target/debug/distorch}")
environment=target/clients/venv
npm ci --prefix tools/clients --no-audit --no-fund --ignore-scripts --silent &
node_packages=$!
if ! cmp --silent tools/clients/requirements.lock "$environment/installed"; then
    python3 -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --no-deps --requirement tools/clients/requirements.lock
    cp tools/clients/requirements.lock "$environment/installed"
fi
wait "$node_packages"
"$environment/bin/python" tools/clients/check.py "$program"

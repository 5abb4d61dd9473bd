#!/usr/bin/env bash
# Asks a server everything that its description allows, and what it does not: tools/server/schemathesis.sh [PROGRAM].
# Fails where an answer is a fault of the server's (5xx), or one that the description does not have.
# Needs schemathesis (`pip install schemathesis`) and curl. The server has folders of its own, but for the models.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:-target/debug/distorch}
port=${PORT:-18188}
work=$(mktemp -d)
"$program" serve --base-dir . --port "$port" --queue "sqlite:$work/queue.sqlite" --max-queue 20 \
    --output-dir "$work/output" --input-dir "$work/input" --grace 0 2>"$work/log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 "http://127.0.0.1:$port/healthz" >/dev/null
python3 -m schemathesis.cli run "http://127.0.0.1:$port/openapi.json" \
    --max-examples "${EXAMPLES:-100}" --checks not_a_server_error,status_code_conformance
curl --silent --fail "http://127.0.0.1:$port/healthz" >/dev/null
! grep -i panic "$work/log"

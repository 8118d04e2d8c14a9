#!/usr/bin/env bash
#
# Takes the pictures of the dashboard that the README shows: of a router with four shards, after a
# minute of load.
#
#   analytics/web-kit/dashboard/pictures.sh
#
# writes analytics/docs/dashboard-{light,dark,phone}.png.
#
# Needs the tools that ./setup.sh tools installs. The programs are not optimised: the pictures show
# the page, not its speed. The font is that of this machine; `fonts-inter` looks best.

set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.."

readonly PROGRAMS=${CARGO_TARGET_DIR:-target}/debug
readonly PICTURES=$PWD/analytics/docs
readonly LOAD_SECONDS=100
# The charts show a minute; what came before it is the filling with rows.
readonly FULL_SECONDS=75

data=$(mktemp -d)
router=''
load=''
trap 'kill $load $router 2>/dev/null || true; wait; rm -rf "$data"' EXIT

cargo build --locked --package api-router --package loadtest
cargo test --locked --package api-router --test dashboard --no-run

"$PROGRAMS/api-router" --bind 127.0.0.1:0 --shards 4 --data-dir "$data/shards" >"$data/banner" 2>"$data/log" &
router=$!
until grep -q 'end ' "$data/banner"; do
    kill -0 "$router" || { cat "$data/log" && exit 1; }
    sleep 0.1
done
url=$(sed -n 's/^ *API *\(http[^ ]*[^/ ]\).*/\1/p' "$data/banner")

"$PROGRAMS/loadtest" --host "$url" --mix a --dist zipf:0.8 --users 6 --run-time "${LOAD_SECONDS}s" >/dev/null 2>&1 &
load=$!
sleep "$FULL_SECONDS"
mkdir -p "$PICTURES"
TESSERA_PICTURES=$PICTURES TESSERA_PICTURES_OF=$url \
    cargo test --locked --package api-router --test dashboard -- --ignored --exact pictures::pictures_of_the_dashboard
ls -l "$PICTURES"

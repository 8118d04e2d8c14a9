#!/usr/bin/env bash
#
# Compares Tessera on PostgreSQL with PostgreSQL itself: the same rows and as many clients, in turn.
#
#   compare.sh writes CLIENTS     point writes against pgbench's prepared INSERT, one process
#                                 per primary
#   compare.sh reads CLIENTS      point reads against pgbench's prepared SELECT, one process
#                                 per replica
#   compare.sh bulk CLIENTS       bulk writes of 1000 rows against COPY of 1000 rows, into
#                                 empty tables
#
# Compares the cost of guarantees within Tessera:
#
#   compare.sh levels CLIENTS     point writes at `quorum` and at `all` against writes at `one`
#   compare.sh tokens CLIENTS     point reads with the token of a write on each shard against
#                                 reads without a token
#   compare.sh idle SECONDS       CPU time of the router without any request, by shard
#
# Needs wrk, pgbench, psql and curl; the variables SHARD_URLS and REPLICA_URLS (`shard-manager
# cluster up` writes them into tessera.env), and a release build of the router on these servers at
# TESSERA_URL (default http://127.0.0.1:3000). Empties the table users. ROUNDS (default 3) and
# SECONDS_EACH (default 4) limit the duration. The result is the median of the rounds.

set -euo pipefail

readonly HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
readonly URL=${TESSERA_URL:-http://127.0.0.1:3000}
readonly ROUNDS=${ROUNDS:-3}
readonly EACH=${SECONDS_EACH:-4}
readonly BULK_REQUESTS=240
IFS=, read -ra PRIMARIES <<<"$SHARD_URLS"
IFS=, read -ra REPLICAS <<<"$REPLICA_URLS"
TEMP=$(mktemp -d)
trap 'rm -rf "$TEMP"' EXIT

main() {
    local clients=${2:?how many clients?}
    case $1 in
        writes | reads) points "${1%s}" "$clients" ;;
        bulk) bulk "$clients" ;;
        levels) levels "$clients" ;;
        tokens) tokens "$clients" ;;
        idle) idle "$clients" ;;
        *) sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    esac
}

on_primaries() {
    for url in "${PRIMARIES[@]}"; do psql --quiet "$url" --command "$1"; done
}

points() {
    local what=$1 clients=$2 round direct ours
    load
    for ((round = 1; round <= ROUNDS; round++)); do
        direct=$(direct "$what" "$clients")
        wrk --threads 1 --connections "$clients" --duration "$EACH" --latency --script "$HERE/$what.lua" "$URL" >"$TEMP/wrk"
        ! grep -E 'Non-2xx|Socket errors' "$TEMP/wrk"
        ours=$(sed -n 's/^Requests\/sec: *//p' "$TEMP/wrk")
        printf '%-6s %4d clients  direct %8.0f/s  tessera %8.0f/s  ratio %.2f  p50 %s  p99 %s\n' "$what" "$clients" \
            "$direct" "$ours" "$(bc -l <<<"$ours/$direct")" \
            "$(awk '$1 == "50%" { print $2 }' "$TEMP/wrk")" "$(awk '$1 == "99%" { print $2 }' "$TEMP/wrk")"
    done
}

# All pgbench processes at once, the clients dealt out among them.
direct() {
    local what=$1 clients=$2 urls=("${PRIMARIES[@]}") count index
    [[ $what == write ]] || urls=("${REPLICAS[@]}")
    count=$((clients < ${#urls[@]} ? clients : ${#urls[@]}))
    for ((index = 0; index < count; index++)); do
        local own=$((clients / count + (index < clients % count ? 1 : 0)))
        pgbench --no-vacuum --protocol prepared --file "$HERE/$what.sql" --client "$own" --jobs 1 --time "$EACH" \
            "${urls[index]}" 2>/dev/null | sed -n 's/^tps = \([0-9.]*\).*/\1/p' >"$TEMP/tps$index" &
    done
    wait
    cat "$TEMP"/tps* | paste -sd+ | bc
}

# As many rows for either side, each where it looks for them.
load() {
    on_primaries "TRUNCATE users; INSERT INTO users SELECT k % 16384, 'd_' || k, 'd_' || k, 'John Doe',
        'd_' || k || '@example.com', 'A', 1, now(), now() FROM generate_series(0, 29999) k"
    seq 0 29999 | awk '{ printf "{\"data\":{\"user_id\":\"u_%d\",\"name\":\"John Doe\",\"email\":\"u_%d@example.com\",\"partition_key\":\"A\"}}\n", $1, $1 }' |
        curl --silent --fail --output /dev/null --header 'content-type: application/x-ndjson' --data-binary @- \
            "$URL/api/bulk-write?table=users"
    on_primaries 'VACUUM ANALYZE users'
    sleep 1 # The replicas replay it.
}

bulk() {
    local clients=$1 round index began copied stored
    for ((index = 0; index < BULK_REQUESTS; index++)); do
        seq $((index * 1000)) $((index * 1000 + 999)) |
            awk '{ printf "%s{\"data\":{\"user_id\":\"u_%d\",\"name\":\"John Doe\",\"email\":\"u_%d@example.com\",\"partition_key\":\"A\"}}", (NR > 1 ? "," : "{\"table\":\"users\",\"rows\":["), $1, $1 } END { print "]}" }' >"$TEMP/bulk$index"
        printf 'next\nurl = "%s/api/bulk-write"\nheader = "content-type: application/json"\ndata-binary = "@%s"\noutput = /dev/null\nfail\nsilent\n' "$URL" "$TEMP/bulk$index"
    done >"$TEMP/requests"
    for ((index = 0; index < ${#PRIMARIES[@]}; index++)); do
        seq "$index" "${#PRIMARIES[@]}" $((BULK_REQUESTS * 1000 - 1)) | awk '
            NR % 1000 == 1 { print (NR > 1 ? "\\.\n" : "") "COPY users FROM STDIN;" }
            { printf "%d\tu_%d\tu_%d\tJohn Doe\tu_%d@example.com\tA\t1\t2026-11-21T10:00:00Z\t2026-11-21T10:00:00Z\n", $1 % 16384, $1, $1, $1 }
            END { print "\\." }' >"$TEMP/copy$index"
    done
    for ((round = 1; round <= ROUNDS; round++)); do
        on_primaries 'TRUNCATE users'
        began=$(date +%s.%N)
        for ((index = 0; index < ${#PRIMARIES[@]}; index++)); do
            psql --quiet "${PRIMARIES[index]}" --file "$TEMP/copy$index" &
        done
        wait
        copied=$(bc -l <<<"$BULK_REQUESTS * 1000 / ($(date +%s.%N) - $began)")
        on_primaries 'TRUNCATE users'
        began=$(date +%s.%N)
        curl --parallel --parallel-immediate --parallel-max "$clients" --config "$TEMP/requests" 2>/dev/null
        stored=$(bc -l <<<"$BULK_REQUESTS * 1000 / ($(date +%s.%N) - $began)")
        printf 'bulk   %4d clients  COPY %8.0f rows/s  tessera %8.0f rows/s  ratio %.2f\n' "$clients" "$copied" "$stored" \
            "$(bc -l <<<"$stored/$copied")"
    done
}

# One run of wrk: requests per second.
rate() {
    local script=$1 clients=$2
    wrk --threads 1 --connections "$clients" --duration "$EACH" --latency --script "$HERE/$script.lua" "$URL" >"$TEMP/wrk"
    ! grep -E 'Non-2xx|Socket errors' "$TEMP/wrk" >&2
    sed -n 's/^Requests\/sec: *//p' "$TEMP/wrk"
}

levels() {
    local clients=$1 round one quorum all
    load
    for ((round = 1; round <= ROUNDS; round++)); do
        one=$(LEVEL=one rate write "$clients")
        quorum=$(LEVEL=quorum rate write "$clients")
        all=$(LEVEL=all rate write "$clients")
        printf 'levels %4d clients  one %8.0f/s  quorum %8.0f/s  ratio %.2f  all %8.0f/s  ratio %.2f\n' "$clients" \
            "$one" "$quorum" "$(bc -l <<<"$quorum/$one")" "$all" "$(bc -l <<<"$all/$one")"
    done
}

tokens() {
    local clients=$1 round plain with token="" key
    load
    for key in {1..40}; do # Enough keys that each shard has one.
        token=$(curl --silent --fail --output /dev/null --dump-header - --header "x-shard-key: t_$key" \
            --header 'content-type: application/json' ${token:+--header "x-session-token: $token"} --data \
            '{"table":"users","data":{"user_id":"t_'"$key"'","name":"J","email":"t_'"$key"'@example.com","partition_key":"A"}}' \
            "$URL/api/write" | tr -d '\r' | sed -n 's/^x-session-token: //ip')
    done
    sleep 1 # The replicas replay it.
    for ((round = 1; round <= ROUNDS; round++)); do
        plain=$(rate read "$clients")
        with=$(TOKEN=$token rate read "$clients")
        printf 'tokens %4d clients  plain %8.0f/s  with a token %8.0f/s  ratio %.2f\n' "$clients" "$plain" "$with" \
            "$(bc -l <<<"$with/$plain")"
    done
}

# Ticks of user and system time of the process that listens there, from Linux.
idle() {
    local seconds=$1 process before after
    process=$(lsof -t -i "TCP:${URL##*:}" -s TCP:LISTEN | head -1)
    before=$(awk '{ print $14 + $15 }' "/proc/$process/stat")
    sleep "$seconds"
    after=$(awk '{ print $14 + $15 }' "/proc/$process/stat")
    printf 'idle   %4d s        %.2f %% of a core by shard\n' "$seconds" \
        "$(bc -l <<<"100 * ($after - $before) / $(getconf CLK_TCK) / $seconds / ${#PRIMARIES[@]}")"
}

main "$@"

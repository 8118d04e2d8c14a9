#!/usr/bin/env bash
#
# Tests failovers by a real manager: Patroni manages a cluster of three PostgreSQL servers, a router
# follows it, and the load tester checks meanwhile that no write is lost or executed twice, and that
# no read is stale.
#
#   patroni.sh [EVENT…]      default: kill switchover freeze
#
#   crash        kill -9 of the leader's postmaster; its Patroni lives and steps back
#   kill         kill -9 of the leader's postmaster and of its Patroni: the manager's lease has to
#                expire
#   hang         like kill, but its Patroni is frozen, and thaws when another node leads
#   switchover   a planned switchover, requested through Patroni's REST API
#   freeze       all processes of the leader and its Patroni are frozen for half a minute, and thaw
#   half-freeze  like freeze, but of its Patroni and the postmaster only: its sessions continue.
#                Without a watchdog Patroni cannot prevent such a node from storing writes that the
#                next leader does not have: these losses are not the router's fault
#
# After each event Patroni brings the old leader back: it is rewound and follows. The report shows
#
#   promoted     time from the event until another node was out of recovery
#   confirmed    time from the event until a transaction on it was confirmed: Patroni requires a
#                synchronous standby
#   router       time from either until the first good answer of the router: to a write at the
#                levels one and quorum, and to a strong read (at level all)
#   longest gap  the longest time without a good answer to these, and to reads at level one
#
# Exit code 0 if no guarantee was violated (refused requests are permitted), every failover was
# followed within ROUTER_MAX, and no answer took longer than ANSWER_MAX; otherwise 1, or 2 if
# nothing was tested.
#
# Variables:
#
#   ROUTER, LOADTEST   the programs (default: target/debug/api-router, target/debug/loadtest)
#   PATRONI            Patroni 4 (default: installed from PyPI into the temporary folder)
#   ETCD               etcd 3.4 or later (default: from PATH; on Debian the package is etcd-server)
#   PG_BIN             PostgreSQL 15 or later (default: that of pg_config, else the newest in
#                      /usr/lib/postgresql)
#   TTL, LOOP_WAIT     settings of Patroni (default 20 and 1 s)
#   USERS, SEED        settings of the load tester (default 4 and 1)
#   ROUTER_MAX         seconds (default 5)
#   ANSWER_MAX         seconds (default 2), for requests with a deadline of 0.1 s
#   KEEP               if not empty, the folder with all logs and the history is kept, as it is
#                      after a failure
#
# Needs curl 7.84, psql, python3 with venv and setpriv. If this runs as root, the servers run as
# `postgres`. It takes two to four minutes; every wait has a limit.

set -euo pipefail

ROOT=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../..")
readonly ROUTER=${ROUTER:-$ROOT/target/debug/api-router}
readonly LOADTEST=${LOADTEST:-$ROOT/target/debug/loadtest}
readonly TTL=${TTL:-20} LOOP_WAIT=${LOOP_WAIT:-1}
readonly ROUTER_MAX=${ROUTER_MAX:-5} ANSWER_MAX=${ANSWER_MAX:-2}
readonly FREEZE_SECONDS=30
readonly START_MAX=90 PROMOTED_MAX=$((TTL * 3)) FOLLOWED_MAX=60 HEALED_MAX=120 JUDGED_MAX=240
readonly LOAD_MAX=3600
readonly NODES=(1 2 3)

TEMP=''      # Folder of all files.
as_user=()   # Command prefix that starts servers as another user.
patronis=()  # Process ids by node.
masters=()   # Last known process ids of the postmasters, by node.
frozen=()    # Process ids to thaw at the end.
jobs=()      # Other process ids to end: etcd, router, load tester, probes.
watches=()   # Process ids of the sessions that poll the nodes.
rows=()      # Rows of the table.
failures=()

main() {
    local event events=("${@:-}")
    [[ -n ${events[0]} ]] || events=(kill switchover freeze)
    for event in "${events[@]}"; do
        case $event in
            crash | kill | hang | switchover | freeze | half-freeze) ;;
            *) usage >&2 && exit 2 ;;
        esac
    done
    prepare
    start_cluster
    start_router
    start_load
    for event in "${events[@]}"; do
        run_event "$event"
    done
    judge
}

usage() {
    sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

say() {
    printf '%(%T)T ==> %s\n' -1 "$*"
}

die() {
    printf 'patroni.sh: %s\n' "$*" >&2
    exit 2
}

# --- Numbers --------------------------------------------------------------------------------------

now() {
    printf '%s' "$EPOCHREALTIME"
}

# Prints the difference of two times, or nothing if one is unknown.
span() {
    awk -v from="$1" -v to="$2" 'BEGIN { if (from != "" && to != "") printf "%.3f", to - from }'
}

more() {
    awk -v one="$1" -v other="$2" 'BEGIN { exit !(one + 0 > other + 0) }'
}

# Waits until a command succeeds, for at most this many seconds.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# --- Requirements ---------------------------------------------------------------------------------

prepare() {
    local program
    [[ -x $ROUTER && -x $LOADTEST ]] || die "build first, or say ROUTER and LOADTEST: no $ROUTER or no $LOADTEST"
    for program in curl psql python3 setpriv pgrep stdbuf; do
        type -P "$program" >/dev/null || die "$program is missing"
    done
    readonly ETCD=${ETCD:-$(type -P etcd || true)}
    [[ -x $ETCD ]] || die 'etcd is missing: apt-get install etcd-server, or say ETCD'
    readonly PG_BIN=${PG_BIN:-$(pg_bin)}
    [[ -x $PG_BIN/initdb ]] || die 'PostgreSQL 15 is missing: apt-get install postgresql, or say PG_BIN'
    exec 3>&1 # A signal may come while the output of something else is dropped.
    # Before the folder is created, so that it is always removed.
    trap 'exit 130' HUP INT TERM
    trap 'clear_away' EXIT
    TEMP=$(mktemp -d)
    if ((EUID == 0)); then
        chown postgres: "$TEMP"
        as_user=(setpriv --reuid postgres --regid "$(id --group postgres)" --clear-groups)
    fi
    as_user+=(env --chdir "$TEMP" "HOME=$TEMP" setsid)
    readonly PATRONI=${PATRONI:-$(install_patroni)}
    choose_ports
}

pg_bin() {
    local folder
    folder=$(pg_config --bindir 2>/dev/null) || true
    [[ -x $folder/initdb ]] || folder=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    printf '%s' "$folder"
}

install_patroni() {
    say 'installing Patroni' >&2
    # Runs as the current user: root's own Python may be inaccessible to other users.
    "${as_user[@]}" python3 -m venv "$TEMP/venv" >&2
    "${as_user[@]}" "$TEMP/venv/bin/pip" install --quiet --quiet 'patroni[etcd3]>=4,<5' psycopg2-binary >&2
    printf '%s' "$TEMP/venv/bin/patroni"
}

# Below the ephemeral ports: a node that restarts must find its port free.
choose_ports() {
    local found=() port
    while ((${#found[@]} < 9)); do
        port=$((20000 + RANDOM % 10000))
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && [[ " ${found[*]-} " != *" $port "* ]]; then
            found+=("$port")
        fi
    done
    readonly ETCD_PORT=${found[0]} ETCD_PEER_PORT=${found[1]} ROUTER_PORT=${found[2]}
    readonly PG_PORTS=(- "${found[@]:3:3}") REST_PORTS=(- "${found[@]:6:3}")
    readonly URL=http://127.0.0.1:$ROUTER_PORT
}

# --- The cluster ----------------------------------------------------------------------------------

start_cluster() {
    local node
    say "etcd $("$ETCD" --version | sed -n 's/etcd Version: //p'), $("$PATRONI" --version)," \
        "$("$PG_BIN/postgres" --version) in $TEMP"
    "${as_user[@]}" "$ETCD" --name etcd --data-dir "$TEMP/etcd" --listen-client-urls "http://127.0.0.1:$ETCD_PORT" \
        --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" --listen-peer-urls "http://127.0.0.1:$ETCD_PEER_PORT" \
        --initial-advertise-peer-urls "http://127.0.0.1:$ETCD_PEER_PORT" \
        --initial-cluster "etcd=http://127.0.0.1:$ETCD_PEER_PORT" </dev/null >"$TEMP/etcd.log" 2>&1 &
    jobs+=($!)
    until_true 20 curl --silent --fail "http://127.0.0.1:$ETCD_PORT/health" || die "etcd does not answer: $TEMP/etcd.log"
    for node in "${NODES[@]}"; do
        configure "$node" >"$TEMP/node$node.yml"
        start_patroni "$node"
    done
    until_true "$START_MAX" leader || die "no node leads: see $TEMP/patroni*.log"
    make_database
    until_true "$START_MAX" is_whole || die "not all nodes follow: see $TEMP/patroni*.log"
    say "node $(leader) leads"
}

configure() {
    cat <<YAML
scope: shard1
name: node$1
restapi: { listen: "127.0.0.1:${REST_PORTS[$1]}", connect_address: "127.0.0.1:${REST_PORTS[$1]}" }
etcd3: { hosts: "127.0.0.1:$ETCD_PORT" }
bootstrap:
  dcs:
    ttl: $TTL
    loop_wait: $LOOP_WAIT
    retry_timeout: 5
    primary_start_timeout: 0
    synchronous_mode: quorum
    synchronous_mode_strict: true
    postgresql:
      use_pg_rewind: true
      parameters: { max_connections: 100, shared_buffers: 16MB, wal_keep_size: 128MB }
  initdb: [{ encoding: UTF8 }, { locale: C }, { auth: scram-sha-256 }, data-checksums]
postgresql:
  listen: "127.0.0.1:${PG_PORTS[$1]}"
  connect_address: "127.0.0.1:${PG_PORTS[$1]}"
  data_dir: "$TEMP/node$1"
  bin_dir: "$PG_BIN"
  pgpass: "$TEMP/pgpass$1"
  remove_data_directory_on_rewind_failure: true
  basebackup: [{ checkpoint: fast }]
  authentication:
    superuser: { username: postgres, password: super }
    replication: { username: replicator, password: copy }
  parameters: { unix_socket_directories: "" }
  pg_hba:
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication replicator 127.0.0.1/32 scram-sha-256
tags: { nofailover: false }
YAML
}

start_patroni() {
    "${as_user[@]}" "$PATRONI" "$TEMP/node$1.yml" </dev/null >>"$TEMP/patroni$1.log" 2>&1 &
    patronis[$1]=$!
    disown # Its end is not reported.
}

# Runs a statement on a node as superuser.
sql() {
    PGPASSWORD=super PGCONNECT_TIMEOUT=2 timeout 10 psql --no-psqlrc --quiet --tuples-only --no-align \
        --host 127.0.0.1 --port "${PG_PORTS[$1]}" --username postgres --dbname "${3:-postgres}" --command "$2"
}

# Creates the user of the router, with the minimal privileges.
make_database() {
    local leader
    leader=$(leader)
    sql "$leader" "CREATE ROLE tessera LOGIN PASSWORD 'secret' IN ROLE pg_monitor"
    sql "$leader" 'CREATE DATABASE shard1 OWNER tessera'
    sql "$leader" 'ALTER SCHEMA public OWNER TO tessera; GRANT EXECUTE ON FUNCTION pg_read_file(text) TO tessera' shard1
}

# Response of a node's Patroni to a path.
patroni() {
    curl --silent --fail --max-time 2 "${@:3}" "http://127.0.0.1:${REST_PORTS[$1]}/$2"
}

# Number of the leader, according to Patroni.
leader() {
    local node
    for node in "${NODES[@]}"; do
        if patroni "$node" leader >/dev/null; then
            printf '%s' "$node"
            return
        fi
    done
    return 1
}

# Waits until one node leads and two confirm its transactions.
is_whole() {
    local node leader
    leader=$(leader)
    [[ $(sql "$leader" "SELECT count(*) FROM pg_stat_replication
            WHERE state = 'streaming' AND sync_state = 'quorum' AND application_name LIKE 'node%'") == 2 ]] || return 1
    for node in "${NODES[@]}"; do
        ((node == leader)) || patroni "$node" replica >/dev/null || return 1
    done
}

postmaster() {
    head -n 1 "$TEMP/node$1/postmaster.pid"
}

# --- The router and its load ----------------------------------------------------------------------

start_router() {
    local hosts
    hosts=$(printf ',127.0.0.1:%s' "${PG_PORTS[@]:1}")
    mkdir "$TEMP/router"
    env --chdir "$TEMP/router" SHARD_URLS="postgres://tessera:secret@${hosts#,}/shard1" \
        "$(realpath "$ROUTER")" --bind "127.0.0.1:$ROUTER_PORT" </dev/null >"$TEMP/router.log" 2>&1 &
    router=$!
    jobs+=("$router")
    until_true 30 curl --silent --fail "$URL/ready" || die "the router is not ready: see $TEMP/router.log"
}

# Starts the load tester, which runs until it is stopped, and clients of one kind of request each.
# For each answer these write a line with its time, status and duration.
start_load() {
    local row='{"table":"users","data":{"user_id":"probe","name":"n","email":"e","partition_key":"A"}}'
    local read='read?table=users&limit=1'
    "$LOADTEST" --verify --host "$URL" --users "${USERS:-4}" --increase-rate 100 --run-time "${LOAD_MAX}s" --no-telnet \
        --seed "${SEED:-1}" --history "$TEMP/history.jsonl" </dev/null >"$TEMP/loadtest.log" 2>&1 &
    tester=$!
    jobs+=("$tester")
    probe one 100 one write --json "$row"
    probe quorum 100 quorum write --json "$row"
    probe strong 50 all "$read"
    probe reads 50 one "$read"
    sleep 4
}

# Starts a client with this name, which sends this many requests per second at a level to a path.
probe() {
    local file=$TEMP/$1.probe answer
    # One process for all requests: a range in the fragment yields many requests to one URL.
    stdbuf --output L curl --silent --rate "$2/s" --max-time 30 --header "x-consistency: $3" --header 'x-deadline-ms: 100' \
        --header 'x-shard-key: probe' "${@:5}" --output /dev/null --write-out '%{http_code} %{time_total}\n' \
        "$URL/api/$4#[1-1000000]" \
        > >(while read -r answer; do printf '%s %s\n' "$EPOCHREALTIME" "$answer"; done >"$file") 2>/dev/null &
    jobs+=($!)
}

# Time of a client's first good answer after a given time.
acknowledged() {
    awk -v after="$2" '$1 > after && $2 ~ /^20/ { print $1; exit }' "$TEMP/$1.probe"
}

is_acknowledged() {
    [[ -n $(acknowledged "$1" "$2") ]]
}

# Longest time between two good answers of a client since a given time.
gap() {
    awk -v since="$2" '$1 < since { if ($2 ~ /^20/) last = $1; next }
        $2 ~ /^20/ { if (last && $1 - last > most) most = $1 - last; last = $1 } END { printf "%.3f", most }' "$TEMP/$1.probe"
}

# Asks a node every 10 ms whether it is in recovery. If it is not, commits a record, which a standby
# has to confirm.
watch() {
    PGPASSWORD=super PGCONNECT_TIMEOUT=2 psql --no-psqlrc --quiet --tuples-only --no-align --field-separator ' ' \
        --host 127.0.0.1 --port "${PG_PORTS[$1]}" --username postgres --dbname postgres >"$TEMP/watch$1" 2>&1 <<'SQL' &
SELECT extract(epoch FROM clock_timestamp()), pg_is_in_recovery(),
       CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(true, 'test', '') END \watch 0.01
SQL
    watches+=($!)
}

# Time at which the first watched node was out of recovery, and its number.
promoted() {
    local node
    for node in "${NODES[@]}"; do
        if [[ -e $TEMP/watch$node ]]; then awk -v node="$node" '$2 == "f" { print $1, node; exit }' "$TEMP/watch$node"; fi
    done | sort | head -n 1
}

is_promoted() {
    [[ -n $(promoted) ]]
}

# Time at which that node's first transaction was confirmed, before the next query.
confirmed() {
    awk '$2 == "f" { if (seen++) { printf "%.6f\n", $1 - 0.01; exit } }' "$TEMP/watch$1"
}

is_confirmed() {
    [[ -n $(confirmed "$1") ]]
}

end_watches() {
    local watch
    for watch in "${watches[@]}"; do
        kill -KILL "$watch" 2>/dev/null || true
        wait "$watch" 2>/dev/null || true
    done
    watches=()
    rm -f "$TEMP"/watch?
}

# --- Events ---------------------------------------------------------------------------------------

run_event() {
    local name=$1 old node began at='' new='' ready='' one='' quorum=''
    old=$(leader)
    for node in "${NODES[@]}"; do
        ((node == old)) || watch "$node"
    done
    sleep 0.5
    say "$name of node $old"
    began=$(now)
    strike "$name" "$old"
    if until_true "$PROMOTED_MAX" is_promoted; then
        read -r at new < <(promoted)
        say "node $new leads after $(span "$began" "$at") s"
        ! until_true "$FOLLOWED_MAX" is_confirmed "$new" || ready=$(confirmed "$new")
        ! until_true "$FOLLOWED_MAX" is_acknowledged one "$at" || one=$(acknowledged one "$at")
        ! until_true "$FOLLOWED_MAX" is_acknowledged quorum "$at" || quorum=$(acknowledged quorum "$at")
        ! until_true "$FOLLOWED_MAX" is_acknowledged strong "$at" || strong=$(acknowledged strong "$at")
    else
        failures+=("$name: Patroni promoted no node within $PROMOTED_MAX s")
    fi
    keep_frozen "$name" "$began"
    mend "$name" "$old"
    until_true "$HEALED_MAX" is_whole || failures+=("$name: node $old did not follow again within $HEALED_MAX s")
    until_true "$FOLLOWED_MAX" has_all_nodes ||
        failures+=("$name: the router does not see three nodes $FOLLOWED_MAX s after they are whole")
    sleep 2
    end_watches
    note "$name" "$old" "$new" "$began" "$at" "$ready" "$one" "$quorum" "$strong"
}

# Prints the event's row of the table, and records its failures.
note() {
    local name=$1 began=$4 at=$5 ready=$6 client
    rows+=("$(printf '%-11s  %d > %s  %8s  %8s  %8s%8s%8s  %8s%8s%8s  %8s%8s%8s%8s' "$name" "$2" "${3:-?}" \
        "$(span "$began" "$at")" "$(span "$began" "$ready")" "$(span "$at" "$7")" "$(span "$at" "$8")" "$(span "$at" "$9")" \
        "$(span "$ready" "$7")" "$(span "$ready" "$8")" "$(span "$ready" "$9")" \
        "$(gap one "$began")" "$(gap quorum "$began")" "$(gap strong "$began")" "$(gap reads "$began")")")
    printf '%s\n' "${rows[-1]}"
    for client in "one $7" "quorum $8" "strong $9"; do
        if [[ -z ${client#* } ]]; then
            failures+=("$name: the client \`${client% *}\` had no good answer $FOLLOWED_MAX s after the promotion")
        elif more "$(span "$ready" "${client#* }")" "$ROUTER_MAX"; then
            failures+=("$name: the client \`${client% *}\` had no good answer $ROUTER_MAX s after the new leader could commit")
        fi
    done
}

strike() {
    local old=$2
    masters[old]=$(postmaster "$old")
    case $1 in
        crash) kill -KILL "${masters[old]}" ;;
        kill) kill -KILL "${masters[old]}" "${patronis[old]}" ;;
        hang) freeze "${patronis[old]}" && kill -KILL "${masters[old]}" ;;
        switchover)
            patroni "$old" switchover --output "$TEMP/switchover" --max-time 60 --request POST \
                --data "{\"leader\":\"node$old\"}" || failures+=("switchover: refused: $(cat "$TEMP/switchover")")
            ;;
        # The postmaster first, so that it starts no further processes.
        freeze) freeze "${patronis[old]}" "${masters[old]}" && freeze_children "${masters[old]}" ;;
        half-freeze) freeze "${patronis[old]}" "${masters[old]}" ;;
    esac
}

freeze() {
    kill -STOP "$@"
    frozen+=("$@")
}

freeze_children() {
    local children
    mapfile -t children < <(pgrep --parent "$1")
    freeze "${children[@]}"
}

keep_frozen() {
    [[ $1 == *freeze ]] || return 0
    local left
    left=$(awk -v end="$(span "-$FREEZE_SECONDS" "$2")" -v now="$(now)" 'BEGIN { print (end > now ? end - now : 0) }')
    sleep "$left"
}

mend() {
    case $1 in
        kill)
            until_true 5 has_ended "${patronis[$2]}"
            start_patroni "$2"
            ;;
        hang | *freeze) thaw ;;
    esac
}

thaw() {
    ((${#frozen[@]} == 0)) || kill -CONT "${frozen[@]}" 2>/dev/null || true
    frozen=()
}

has_all_nodes() {
    [[ $(curl --silent --max-time 5 "$URL/api/health" | grep -o '"up":true' | wc -l) == 3 ]]
}

# --- The verdict ----------------------------------------------------------------------------------

judge() {
    local code=0 client slowest
    say 'the load ends, and its history is judged'
    kill -INT "$tester" # Like Ctrl-C: it ends the run early, with its report.
    until_true "$JUDGED_MAX" has_ended "$tester" || failures+=("the load tester has not ended after $JUDGED_MAX s")
    if has_ended "$tester"; then wait "$tester" || code=$?; fi
    cat "$TEMP/loadtest.log"
    # Requests may fail while there is no leader; promises must not be broken.
    ((code == 0)) || grep -q '^FAIL: [0-9]* of [0-9]* requests failed$' "$TEMP/loadtest.log" ||
        failures+=("the load tester ended with $code: see $TEMP/loadtest.log")
    "$LOADTEST" check "$TEMP/history.jsonl" >"$TEMP/check.log" || failures+=("promises were broken: see $TEMP/check.log")
    ! has_ended "$router" || failures+=("the router has ended: see $TEMP/router.log")
    ! grep -n -i panic "$TEMP/router.log" || failures+=("the router panicked: see $TEMP/router.log")
    for client in one quorum strong reads; do
        slowest=$(awk '$3 > most { most = $3 } END { print most }' "$TEMP/$client.probe")
        ! more "$slowest" "$ANSWER_MAX" ||
            failures+=("an answer of $TEMP/$client.probe took $slowest s, though its deadline was 0.1 s")
        printf '%-6s   slowest answer %s s; statuses%s\n' "$client" "$slowest" \
            "$(awk '{ count[$2]++ } END { for (status in count) printf "  %s: %d", status, count[status] }' "$TEMP/$client.probe")"
    done
    printf '\nin seconds                             router after promotion   router after confirmed   longest gap\n'
    printf 'event        nodes  promoted confirmed     one  quorum  strong       one  quorum  strong       one  quorum  strong   reads\n'
    printf '%s\n' "${rows[@]}"
    ((${#failures[@]} > 0)) || { printf 'PASS\n' && return 0; }
    printf 'FAIL: %s\n' "${failures[@]}"
    exit 1
}

has_ended() {
    ! kill -0 "$1" 2>/dev/null || [[ $(ps -o stat= -p "$1") == Z* ]]
}

# --- The end --------------------------------------------------------------------------------------

clear_away() {
    local code=$? node pid
    trap '' HUP INT TERM
    thaw
    end_watches
    # Patroni first: it would start the servers again.
    for pid in "${patronis[@]}" "${jobs[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    for node in "${NODES[@]}"; do
        stop_server "$node"
    done
    [[ -n $TEMP ]] || return 0
    if ((code == 0)) && [[ -z ${KEEP-} ]]; then
        rm -rf "$TEMP"
    else
        rm -rf "$TEMP/venv" "$TEMP"/node? "$TEMP/etcd"
        say "logs and history are in $TEMP" >&3
    fi
}

# Stops the server of a node's folder, and waits for those of its processes that outlive it.
stop_server() {
    local folder=$TEMP/node$1 pid processes=()
    pid=$(postmaster "$1" 2>/dev/null) || return 0
    [[ $(readlink "/proc/$pid/cwd") == "$folder" ]] || return 0
    mapfile -t processes < <(pgrep --parent "$pid")
    kill -QUIT "$pid" 2>/dev/null || true
    for pid in "$pid" "${processes[@]}"; do
        until_true 10 has_ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
    done
}

main "$@"

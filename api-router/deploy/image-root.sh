#!/bin/sh
#
# Creates the root directory of an image of one program: the program, its shared libraries, and the
# few files that these need. No shell, no packages. The Dockerfile runs this script, and so does the
# check that tests the result.
#
#   image-root.sh PROGRAM DIRECTORY

set -eu

program=$1
root=$2
uid=10001

mkdir -p "$root/etc/ssl/certs" "$root/tmp" "$root/var/lib/tessera"
chmod 1777 "$root/tmp"
install -m 0755 "$program" "$root/${program##*/}"

# In the output of ldd a path follows "=>", or stands alone for the loader; the entry without a path
# is the kernel's. `cp -L` copies the target of a link under the name of the link.
ldd "$program" | sed -n 's/^.*=> *\(\/[^ ]*\) .*$/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*$/\1/p' | sort -u |
    while read -r library; do
        mkdir -p "$root${library%/*}"
        cp -L "$library" "$root$library"
    done

# Certificate authorities that TLS trusts unless a file with others is configured.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

printf 'tessera:x:%s:%s::/var/lib/tessera:/none\n' "$uid" "$uid" >"$root/etc/passwd"
printf 'tessera:x:%s:\n' "$uid" >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"

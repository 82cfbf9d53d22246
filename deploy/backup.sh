#!/bin/sh
# Takes a backup of staging: one file, with its digest beside it. deploy/BACKUP.md says what it is good for.
#
#   PGHOST=/run/postgresql PGUSER=sipol PGDATABASE=sipol_staging deploy/backup.sh /var/backups/sipol
#
# Where to connect is taken from libpq's variables (PGHOST, PGUSER, PGDATABASE, PGPASSFILE, PGSSLMODE ...): a password in an
# argument could be read by every user of the machine. The file holds members' rows: keep it encrypted, and not beside the digest key.
set -eu
umask 077
folder=${1:?usage: backup.sh FOLDER}
: "${PGDATABASE:?name the staging database}"
# A role that row-level security binds would take a backup with holes; pg_dump then refuses by itself.
file=$folder/sipol_staging-$(date -u +%Y%m%dT%H%M%SZ).dump
trap 'rm -f "$file.part"' EXIT
pg_dump --format=custom --lock-wait-timeout=60s --file="$file.part"
# What can be listed was written to its end.
pg_restore --list "$file.part" >/dev/null
mv "$file.part" "$file"
(cd "$folder" && sha256sum "$(basename "$file")" >"$(basename "$file").sha256")
echo "$file"

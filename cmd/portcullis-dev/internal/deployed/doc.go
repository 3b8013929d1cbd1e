// Package deployed tries deploy/temporal for real: Temporal's server, its schema
// tool and the scripts beside it run as docker-compose.yml has them run, with
// PostgreSQL, TLS and API keys, and a rollout goes through on that. It has tests alone.
package deployed

#!/bin/sh
# Makes the namespace that Portcullis works in, where it is not there yet. Ended
# rollouts can be read for RETENTION.
set -eu

export TEMPORAL_ADDRESS="${TEMPORAL_ADDRESS:-temporal:7233}"
namespace="${TEMPORAL_NAMESPACE:-default}"

if ! temporal operator namespace describe --namespace "$namespace" >/dev/null 2>&1; then
	temporal operator namespace create --namespace "$namespace" --retention "${RETENTION:-30d}" --description "Portcullis"
fi

# A server takes notice of a new namespace within seconds; until then it knows none.
tries=0
until temporal workflow list --namespace "$namespace" --limit 1 >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ "$tries" -ge 60 ]; then
		echo "Temporal at $TEMPORAL_ADDRESS still has no namespace $namespace a minute after it was made" >&2
		exit 1
	fi
	sleep 1
done

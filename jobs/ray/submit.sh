#!/usr/bin/env bash
# Submits a run to a Ray cluster and follows its log; killed, or with more input, the same command goes on where it stopped.
# Arguments go to `curate run`: jobs/ray/submit.sh --set min_side.larger_than=256
set -euo pipefail
: "${RAY_API_SERVER_ADDRESS:?where the cluster takes jobs, as http://HEAD:8265}"
: "${RECIPE:?a name of \`curate recipes\`}"
: "${INPUT:?a folder or URL of shards that every node can read}"
: "${OUT:?a folder or URL that every node can write}"
export RAY_API_SERVER_ADDRESS
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}" # the token is that of the head: RAY_AUTH_TOKEN, or in ~/.ray/auth_token
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
RUNTIME_ENV=${RUNTIME_ENV-jobs/ray/runtime_env.yaml} # empty: the nodes have curate

exec ray job submit ${RUNTIME_ENV:+--runtime-env "$RUNTIME_ENV"} -- \
    curate run "$RECIPE" "$INPUT" --out "$OUT" --runner ray "$@"

#!/usr/bin/env bash
# Runs on a standalone Spark cluster; killed, the same command goes on where it stopped. The driver is this machine: have
# curate here, for a standalone cluster takes no Python driver. Arguments go to `curate run`. Pack the environment once:
#   python3.11 -m venv env && env/bin/pip install -c constraints.txt '.[models,fetch,crawl,spark,s3]' venv-pack
#   env/bin/venv-pack --prefix env --output curate.tar.gz      # conda-pack's archive brings its Python with it; this one
#                                                              # needs the same Python at the same path on every node
set -euo pipefail
: "${MASTER:?the cluster, as spark://HEAD:7077}"
: "${ENVIRONMENT:?the packed environment, as curate.tar.gz}"
: "${EVENT_LOG:?a folder or URL for the event log that the history server reads}"
: "${RECIPE:?a name of \`curate recipes\`, or a YAML file}"
: "${INPUT:?a folder or URL of shards that every node can read}"
: "${OUT:?a folder or URL that every node can write}"
EXECUTORS=${EXECUTORS:-16} # at most
EXECUTOR_CORES=${EXECUTOR_CORES:-8}
DRIVER_PYTHON=${DRIVER_PYTHON:-python3}
CODE=${CODE-} # `zip -r code.zip curate filters pipelines`: goes before the packed code, so that a change packs nothing again
here=$(dirname "${BASH_SOURCE[0]}")

exec spark-submit \
    --master "$MASTER" \
    --name curate \
    --properties-file "$here/spark.conf" \
    --archives "$ENVIRONMENT#environment${CODE:+,$CODE#code}" \
    --conf spark.pyspark.python=./environment/bin/python \
    ${CODE:+--conf spark.executorEnv.PYTHONPATH=code} \
    --conf spark.pyspark.driver.python="$DRIVER_PYTHON" \
    --conf spark.dynamicAllocation.maxExecutors="$EXECUTORS" \
    --conf spark.eventLog.dir="$EVENT_LOG" \
    --executor-cores "$EXECUTOR_CORES" \
    "$here/main.py" run "$RECIPE" "$INPUT" --out "$OUT" --runner spark "$@"

#!/usr/bin/env bash
# Runs on Kubernetes, driver and executors in pods of their own; killed, the same command goes on where it stopped.
# Arguments go to `curate run`. Pack the environment once, with its Python, for Spark's images have another:
#   conda create --prefix env python=3.11 conda-pack && env/bin/pip install -c constraints.txt '.[models,fetch,crawl,spark,s3]'
#   env/bin/conda-pack --prefix env --output curate.tar.gz
# The keys of the object store are a secret:
#   kubectl create secret generic curate-s3 --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=...
set -euo pipefail
: "${MASTER:?the API server, as k8s://https://HOST:6443}"
: "${IMAGE:?an image with Spark and its entry point, such as apache/spark:4.3.0}"
: "${ENVIRONMENT:?the packed environment, as curate.tar.gz}"
: "${UPLOAD:?a URL to which Spark copies it for the pods, as s3a://bucket/spark (needs hadoop-aws here and in the image)}"
: "${EVENT_LOG:?a URL for the event log that the history server reads}"
: "${RECIPE:?a name of \`curate recipes\`}"
: "${INPUT:?a URL of shards}"
: "${OUT:?a URL for the output}"
NAMESPACE=${NAMESPACE:-default}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-spark} # may make pods
SECRET=${SECRET:-curate-s3}
EXECUTORS=${EXECUTORS:-16} # at most
EXECUTOR_CORES=${EXECUTOR_CORES:-8}
CODE=${CODE-} # `zip -r code.zip curate filters pipelines`: goes before the packed code, so that a change packs nothing again
here=$(dirname "${BASH_SOURCE[0]}")

keys=()
for role in driver executor; do
    for key in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
        keys+=(--conf "spark.kubernetes.$role.secretKeyRef.$key=$SECRET:$key")
    done
done

exec spark-submit \
    --master "$MASTER" \
    --deploy-mode cluster \
    --name curate \
    --properties-file "$here/spark.conf" \
    --archives "$ENVIRONMENT#environment${CODE:+,$CODE#code}" \
    --conf spark.pyspark.python=./environment/bin/python \
    ${CODE:+--conf spark.executorEnv.PYTHONPATH=code} \
    ${CODE:+--conf spark.kubernetes.driverEnv.PYTHONPATH=code} \
    --conf spark.kubernetes.namespace="$NAMESPACE" \
    --conf spark.kubernetes.authenticate.driver.serviceAccountName="$SERVICE_ACCOUNT" \
    --conf spark.kubernetes.container.image="$IMAGE" \
    --conf spark.kubernetes.file.upload.path="$UPLOAD" \
    --conf spark.dynamicAllocation.maxExecutors="$EXECUTORS" \
    --conf spark.eventLog.dir="$EVENT_LOG" \
    --executor-cores "$EXECUTOR_CORES" \
    "${keys[@]}" \
    "$here/main.py" run "$RECIPE" "$INPUT" --out "$OUT" --runner spark "$@"

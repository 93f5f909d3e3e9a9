# `curate` on cores, with Ray, Spark and S3. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile --build-arg TORCH_INDEX=URL -t curate:0.1.0-cpu .
#   docker run --init --user "$(id -u):$(id -g)" -v "$PWD:/work" curate:0.1.0-cpu run align crawl --out out
# TORCH_INDEX: a package index with CPU builds of torch and torchvision; the usual index would send several GB of CUDA.
ARG EXTRAS=models,fetch,crawl,ray,spark,s3

FROM python:3.11.14-slim-bookworm AS packages
ARG EXTRAS
ARG TORCH_INDEX
WORKDIR /build
RUN python -m venv /opt/curate && mkdir curate filters pipelines && touch README.md LICENSE
COPY pyproject.toml constraints.txt ./
# of empty folders: this layer, the large one, stays as it is when only our code changes
RUN : "${TORCH_INDEX:?an index with CPU builds of torch}" \
    && /opt/curate/bin/pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" ".[$EXTRAS]" \
    && /opt/curate/bin/python -c "import sys, torch; sys.exit('torch is a CUDA build' if torch.version.cuda else 0)"

FROM python:3.11.14-slim-bookworm AS code
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY curate curate
COPY filters filters
COPY pipelines pipelines
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm
ARG EXTRAS
# no pin: Debian's archive keeps one version of a package, so a pin would break with its next security fix
# hadolint ignore=DL3008
RUN case ",$EXTRAS," in *,spark,*) \
        apt-get update \
        && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
        && rm -rf /var/lib/apt/lists/* ;; \
    esac
# writable by everyone, for a cluster may run the image as a user of its own
RUN groupadd --gid 10001 curate && useradd --uid 10001 --gid curate --create-home curate \
    && install -d -m 1777 /work /var/cache/curate
COPY --from=packages /opt/curate /opt/curate
RUN --mount=type=bind,from=code,source=/wheels,target=/wheels \
    /opt/curate/bin/pip install --no-cache-dir --no-deps --force-reinstall /wheels/*.whl
ENV PATH=/opt/curate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CURATE_CACHE=/var/cache/curate \
    HF_HOME=/var/cache/curate/huggingface
LABEL org.opencontainers.image.title="curate (cpu)" \
      org.opencontainers.image.description="Web-scale image-text curation" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /work
USER 10001:10001
# a batch job: its exit code says how it went, and a cluster looks after its own processes
HEALTHCHECK NONE
ENTRYPOINT ["curate"]

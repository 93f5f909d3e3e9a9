# `curate` on NVIDIA GPUs, with Ray, Spark and S3. From the root of the repository:
#   docker build -f docker/gpu.Dockerfile -t curate:0.1.0-gpu .
#   docker run --init --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" curate:0.1.0-gpu \
#     run capfilt pairs --out out --models blip-large
# On the Python image and not on a CUDA one: torch's CUDA builds carry their libraries, a second set would only add its
# gigabytes. The host brings the driver and NVIDIA's container toolkit.
# TORCH_INDEX: a package index with builds of torch and torchvision for the CUDA version of your driver, where the usual
# index has others.
ARG EXTRAS=models,fetch,crawl,ray,spark,s3

FROM python:3.11.14-slim-bookworm AS packages
ARG EXTRAS
ARG TORCH_INDEX
WORKDIR /build
RUN python -m venv /opt/curate && mkdir curate filters pipelines && touch README.md LICENSE
COPY pyproject.toml constraints.txt ./
# of empty folders: this layer, the large one, stays as it is when only our code changes
RUN /opt/curate/bin/pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]" \
    && /opt/curate/bin/python -c "import sys, torch; sys.exit(0 if torch.version.cuda else 'torch is a CPU build')"

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
    HF_HOME=/var/cache/curate/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.title="curate (gpu)" \
      org.opencontainers.image.description="Web-scale image-text curation" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /work
USER 10001:10001
# a batch job: its exit code says how it went, and a cluster looks after its own processes
HEALTHCHECK NONE
ENTRYPOINT ["curate"]

# The image that raycluster.yaml, rayjob.yaml and rayservice.yaml name:
#   docker build -t homefeed:0.1.0 .                            for CPUs; smaller with
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
#   docker build -t homefeed:0.1.0-gpu --build-arg GPU=1 .      CUDA builds of torch, fbgemm, faiss
FROM python:3.11-slim-bookworm

# KubeRay asks a pod whether it lives by wget; boosted trees need OpenMP's library.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 make wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid 100 ray \
    && install --directory --owner ray --group users /home/ray/homefeed
USER ray
WORKDIR /home/ray/homefeed

# What decides the pins alone: other changes of the tree keep this layer.
ARG GPU=0
ARG TORCH_INDEX=
COPY --chown=ray:users Makefile pyproject.toml README.md LICENSE ./
RUN PIP_NO_CACHE_DIR=1 make setup GPU=${GPU} TORCH_INDEX=${TORCH_INDEX} WITH=mlflow

COPY --chown=ray:users . .
# Login shells, which KubeRay uses if told to, start from a PATH of their own.
RUN echo 'export PATH=/home/ray/homefeed/.venv/bin:$PATH' > /home/ray/.bash_profile
ENV PATH=/home/ray/homefeed/.venv/bin:$PATH \
    PYTHONPATH=/home/ray/homefeed \
    RAY_USAGE_STATS_ENABLED=0
CMD ["python", "-m", "ray_jobs.doctor"]

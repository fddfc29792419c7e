# syntax=docker/dockerfile:1
# docker build -t homer .                                    for NVIDIA's GPUs; the driver is the host's
# docker build -t homer --build-arg TORCH_INDEX=ADDRESS .    for the CPU alone, much smaller: the address of the
#                                                            index of CPU builds that PyTorch's installation page names
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=
ARG EXTRAS=serve,documents,accelerate
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /venv
# torch first and alone: the largest layer, which a change of the code leaves as it is
COPY constraints.txt ./
RUN /venv/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY homer homer
COPY homer_integrations homer_integrations
RUN /venv/bin/pip install --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /venv /venv
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin homer \
    && install --directory --owner=homer /data
# hadolint ignore=DL3064
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOKENIZERS_PARALLELISM=false \
    HF_HOME=/data/huggingface \
    HOMER_CALIBRATIONS=/data/calibrations
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["homer", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "mini"]

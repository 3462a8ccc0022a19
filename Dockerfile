# A server of a model, without root and without a writable file system; see docs/serving.md.
#
#   docker build -t resdet .
#   docker run --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -e RESDET_TOKEN \
#       -v "$PWD/runs/detector:/model:ro" resdet
#
# TORCH_INDEX chooses the build of PyTorch: the address of one of its package indexes, such as that
# of its CPU builds. The default is pip's own, which brings CUDA (3 GB) on x86-64 and runs without
# a GPU too.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/resdet
ENV PATH=/opt/resdet/bin:$PATH
# Before the sources, so that a change of them does not fetch it again.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.10" "torchvision>=0.25"
COPY . /source
RUN pip install "/source[serve,onnx]"

FROM python:${PYTHON_VERSION}-slim
COPY --from=build /opt/resdet /opt/resdet
ENV PATH=/opt/resdet/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NO_ALBUMENTATIONS_UPDATE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --no-create-home resdet
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
ENTRYPOINT ["resdet"]
CMD ["serve", "--host", "0.0.0.0", "--weights", "/model"]

# docker build -t quince .                              MLX on the CPU
# docker build -t quince:cuda --build-arg MLX=cuda .    MLX on an NVIDIA GPU: docker run --gpus all
# See docs/packaging.md.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG MLX=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY quince quince
RUN python -m venv /opt/quince \
    && /opt/quince/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[${MLX}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/quince /opt/quince
RUN useradd --system --uid 10001 --home-dir /var/lib/quince --create-home quince
# Listening on every address of the container: who can reach it is said by `docker run --publish`.
ENV PATH=/opt/quince/bin:$PATH \
    QUINCE_HOME=/var/lib/quince \
    HF_HOME=/var/lib/quince/huggingface \
    QUINCE_HOST=0.0.0.0 \
    QUINCE_PORT=8000 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER quince
WORKDIR /var/lib/quince
VOLUME /var/lib/quince
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"QUINCE_PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["quince"]
CMD ["serve"]

# syntax=docker/dockerfile:1
# A server on a CPU:          docker build -t fastconformer .
# A server on an NVIDIA GPU:  docker build -t fastconformer --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
#                             docker run --gpus all ...
# The wheels of torch for CUDA bring its libraries; the machine only needs the driver and NVIDIA's container toolkit.
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch --index-url ${TORCH_INDEX}

COPY pyproject.toml README.md LICENSE /build/
COPY src /build/src
RUN pip install --no-cache-dir "/build[server,vad,languages]" && rm -rf /build

RUN useradd --create-home --uid 1000 fastconformer
USER fastconformer
# Checkpoints are kept here: mount a volume on it.
ENV HF_HOME=/home/fastconformer/models
RUN mkdir -p ${HF_HOME}
VOLUME /home/fastconformer/models

EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=60s CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["fastconformer", "serve", "--host", "0.0.0.0", "--port", "8000"]

FROM python:3.11-slim-bookworm AS build

# The CPU build of torch: nothing runs on a GPU. Empty = from pip's default index.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

WORKDIR /src
RUN python -m venv /opt/forecaster
ENV PATH=/opt/forecaster/bin:$PATH
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "torch>=2.13,<2.14"
COPY pyproject.toml README.md LICENSE ./
COPY forecaster forecaster
RUN pip install --no-cache-dir . \
    && cd /opt/forecaster/lib/python3.11/site-packages \
    && rm -rf torch/include torch/test torch/bin/test_* pyarrow/include pyarrow/tests

FROM python:3.11-slim-bookworm

COPY --from=build /opt/forecaster /opt/forecaster
RUN useradd --no-create-home --uid 10001 forecaster && install --directory --owner=10001 /cache
USER 10001
ENV PATH=/opt/forecaster/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080 8081
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
    CMD port=${FORECASTER_HTTP__PROBE_PORT:-${FORECASTER_HTTP__PORT-8080}}; [ -z "$port" ] || python -c \
        "import urllib.request as http; http.urlopen('http://127.0.0.1:$port/livez', timeout=4)"
ENTRYPOINT ["forecaster"]
CMD ["run"]

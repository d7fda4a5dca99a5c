FROM python:3.11-slim-bookworm

# The CPU build of torch; for CUDA give the index of that build.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY forecaster forecaster
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX_URL" "torch>=2.13,<2.14" \
    && pip install --no-cache-dir . \
    && useradd --no-create-home --uid 10001 forecaster

USER 10001
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["forecaster"]
CMD ["run"]

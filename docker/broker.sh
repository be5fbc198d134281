#!/bin/sh
# Redis as Celery's broker. The password goes into a file in memory: arguments are visible in process lists.
set -eu
umask 077
printf 'include /etc/redis/broker.conf\nbind * -::*\ndir /var/lib/redis\nrequirepass %s\n' \
  "$(cat /run/secrets/broker_password)" >/run/redis/redis.conf
exec redis-server /run/redis/redis.conf

#!/bin/sh
# The lab in a container: every host gets its address on the container's network, so that workers reach it as they reach
# real hosts. What an installation must know of it is handed over in files.
set -eu
python -m lab.addresses | while read -r address; do
  # A container that is started again may have it; any other failure ends the start.
  ip -o address show dev eth0 | grep -qF " $address/" || ip address add "$address/24" dev eth0
done
python -m lab up
python -m lab.handover /handover
touch /run/sebenza-lab-is-up
# PID 1 waits for the signal that ends the container, and ends the estate in order.
trap 'rm -f /run/sebenza-lab-is-up; python -m lab down; exit 0' TERM INT
while :; do
  sleep 3600 &
  wait $!
done

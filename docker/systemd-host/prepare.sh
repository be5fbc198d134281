#!/bin/sh
# Before sshd: host keys of its own, and the operator's public key, which the lab hands over.
set -eu
ssh-keygen -A
install -o sebenza -g sebenza -m 600 /handover/operator.pub /home/sebenza/.ssh/authorized_keys

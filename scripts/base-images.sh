#!/usr/bin/env bash
# Makes a stand-in for the base image, debian:bookworm, with debootstrap: for where no image registry can be reached.
# It trusts the certificate authorities that this machine trusts, so that builds work behind a proxy that has its own.
set -euo pipefail
cd "$(dirname "$0")/.."

IMAGE=${DEBIAN_IMAGE:-sebenza-base/debian:bookworm}
# repository CODENAME: where this machine itself takes these packages from.
repository() {
  apt-get indextargets --format '$(REPO_URI)' "Codename: $1" 'Component: main' 'Identifier: Packages' | sed -n 1p
}
say() { printf 'base-images: %s\n' "$*"; }
stop() { printf 'base-images: %s\n' "$*" >&2; exit 1; }
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

if docker image inspect "$IMAGE" >/dev/null 2>&1; then
  say "$IMAGE is there; to make it anew: docker image rm $IMAGE"
  exit 0
fi
MIRROR=${DEBIAN_MIRROR:-$(repository bookworm)}
SECURITY_MIRROR=${DEBIAN_SECURITY_MIRROR:-$(repository bookworm-security)}
[ -n "$MIRROR" ] || stop "this machine's APT has no source for Debian 12 (bookworm): name a mirror in DEBIAN_MIRROR"
need_root "debootstrap"
install_missing debootstrap
work=$(mktemp -d)
tree=$work/debian
trap 'as_root rm -rf --one-file-system "$work"' EXIT
say "bootstrapping Debian 12 from $MIRROR"
as_root debootstrap --variant=minbase --include=ca-certificates bookworm "$tree" "$MIRROR" >"$work/log" 2>&1 ||
  stop "debootstrap failed: $(tail -n 1 "$work/log")"
printf '%s\n' "deb $MIRROR bookworm main" "deb $MIRROR bookworm-updates main" \
  ${SECURITY_MIRROR:+"deb $SECURITY_MIRROR bookworm-security main"} | as_root tee "$tree/etc/apt/sources.list" >/dev/null
if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
  as_root cp /usr/local/share/ca-certificates/*.crt "$tree/usr/local/share/ca-certificates/"
  as_root chroot "$tree" update-ca-certificates >/dev/null 2>&1
fi
as_root rm -rf "$tree/var/cache/apt/archives" "$tree/var/lib/apt/lists"
as_root mkdir -p "$tree/var/cache/apt/archives/partial" "$tree/var/lib/apt/lists/partial"
as_root tar -C "$tree" -c . | docker import --change 'CMD ["/bin/bash"]' - "$IMAGE" >/dev/null
say "$IMAGE is made: $(docker image inspect --format '{{.Size}}' "$IMAGE" | numfmt --to=iec)"

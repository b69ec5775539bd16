#!/usr/bin/env bash
# Pin the base image of the container definition to the present digest of a Debian image. Needs skopeo and internet access.
# Usage: envs/pin_container.sh [IMAGE]
set -euo pipefail
cd "$(dirname "$0")"
image=${1:-debian:12-slim}

if ! command -v skopeo >/dev/null; then
    echo "skopeo is not installed. Install it (apt-get install skopeo, dnf install skopeo), or replace the digest in" >&2
    echo "envs/mem.def by the output of: docker buildx imagetools inspect $image --format '{{.Manifest.Digest}}'" >&2
    exit 1
fi
digest=$(skopeo inspect --format '{{.Digest}}' "docker://$image")
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "Not a digest: $digest" >&2 && exit 1; }
sed -i -E "s|^From: .*|From: ${image%%:*}@$digest|; s|^# The base image is [^ ]*\.|# The base image is $image of $(date -u +%F).|" mem.def
echo "envs/mem.def: ${image%%:*}@$digest ($image)"

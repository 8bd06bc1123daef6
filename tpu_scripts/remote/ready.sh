#!/usr/bin/env bash
# Whether this host is set up: ready.sh COMMIT EXTRAS BUCKET SHARED
source "$(dirname "$0")/common.sh"

[[ -f .run/ready && $(<.run/ready) == "$1 $2" ]]
[[ -z ${3:-} ]] || mountpoint -q "$4"

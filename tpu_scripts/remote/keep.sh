#!/usr/bin/env bash
# Copy the log each minute while the command runs, and once more at its end, to PATH.TIME.log with the time at which the
# log began: keep.sh PATH
source "$(dirname "$0")/common.sh"

read -r _ began _ <.run/log
mkdir -p "$(dirname "$1")"
until timeout 60 tail -s 0.5 -f --pid="$(<.run/pid)" /dev/null; do cp .run/log "$1.$began.log" || true; done
cp .run/log "$1.$began.log"

#!/usr/bin/env bash
# The log so far, and with "follow" until the command ends.
source "$(dirname "$0")/common.sh"

[[ -f .run/log ]] || exit 0
if [[ ${1:-} != follow ]] || ! running; then
  exec cat .run/log
fi
tail -n +1 -f .run/log &
while running; do sleep 0.5; done
sleep 0.5 # for the last lines
kill "$!"

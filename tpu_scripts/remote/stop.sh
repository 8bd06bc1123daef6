#!/usr/bin/env bash
# End the command and all that it started: stop.sh SECONDS between SIGTERM and SIGKILL.
source "$(dirname "$0")/common.sh"

if alive; then
  group=$(<.run/pid)
  kill -TERM -- "-$group"
  for ((left = 10 * ${1:-30}; left > 0; left--)); do
    alive || break
    sleep 0.1
  done
  kill -KILL -- "-$group" 2>/dev/null || true
  [[ -f .run/exit ]] || echo 137 >.run/exit
fi

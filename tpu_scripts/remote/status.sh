#!/usr/bin/env bash
# One word about the command: running, exit STATUS, idle, or lost (killed, or the host was started anew).
source "$(dirname "$0")/common.sh"

if running; then
  echo running
elif [[ -f .run/exit ]]; then
  echo "exit $(<.run/exit)"
elif [[ -f .run/pid ]]; then
  echo lost
else
  echo idle
fi

#!/usr/bin/env bash
# Start a command that outlives the connection: start.sh KEEP NAME=VALUE... -- COMMAND...
# KEEP is where keep.sh copies the log to, or empty.
source "$(dirname "$0")/common.sh"

exec 9>.run/lock # of two who start at the same moment, one does
flock 9
if running; then
  echo "runs already"
  exit
fi
keep=$1
shift
while [[ $1 != -- ]]; do
  export "${1?}"
  shift
done
shift
PATH=$PWD/.venv/bin:$PATH
rm -f .run/exit .run/pid
echo "$BOOT" >.run/boot
echo "== $(date -u +%FT%TZ) $*" >>.run/log
# shellcheck disable=SC2016
setsid bash -c 'trap : TERM # the command hears it too, and its status is wanted
  status=0
  "$@" || status=$?
  echo "$status" >.run/exit.part && mv .run/exit.part .run/exit' start "$@" >>.run/log 2>&1 </dev/null 9>&- &
echo "$!" >.run/pid
[[ -n $keep ]] || exit 0
setsid bash tpu_scripts/remote/keep.sh "$keep" >/dev/null 2>&1 </dev/null 9>&- &

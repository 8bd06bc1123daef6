#!/usr/bin/env bash
# Start a command that outlives the connection: start.sh NAME=VALUE... -- COMMAND...
source "$(dirname "$0")/common.sh"

exec 9>.run/lock # of two who start at the same moment, one does
flock 9
if running; then
  echo "runs already"
  exit
fi
while [[ $1 != -- ]]; do
  export "${1?}"
  shift
done
shift
PATH=$PWD/.venv/bin:$PATH
rm -f .run/exit
echo "== $(date -u +%FT%TZ) $*" >>.run/log
# shellcheck disable=SC2016
setsid bash -c 'trap : TERM # the command hears it too, and its status is wanted
  status=0
  "$@" || status=$?
  echo "$status" >.run/exit.part && mv .run/exit.part .run/exit' start "$@" >>.run/log 2>&1 </dev/null 9>&- &
echo "$!" >.run/pid

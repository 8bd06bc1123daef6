#!/usr/bin/env bash
# Show the logs of all workers while they run, and keep a copy of each, logs/NAME/WORKER.log (TPU_LOGS for another place).
#
#     tpu_scripts/logs.sh --name mine ...
#
#     --worker N   only this one
#     --once       what is there now
source "$(dirname "$0")/lib.sh"

only=() follow=follow
while (($#)); do
  if common "$@"; then
    shift "$TAKEN"
    continue
  fi
  case $1 in
    --worker)
      only=("$(value "$@")")
      shift
      ;;
    --once) follow=once ;;
    *) unknown "$1" ;;
  esac
  shift
done
ready
((${#only[@]})) || mapfile -t only < <(workers)

# shellcheck disable=SC2329 # at_once calls it
stream() { # WORKER COMMAND
  if ((DRY_RUN)); then
    on "$@"
  else
    on "$@" | tee "$TPU_LOGS/$TPU_NAME/$1.log"
  fi
}

run mkdir -p "$TPU_LOGS/$TPU_NAME"
TPU_PARALLEL=${#only[@]} # none ends before its worker does
at_once stream "$(remotely log "$follow")" -- "${only[@]}" && exit
say "error: workers ${FAILED[*]} cannot be reached"
exit 1

#!/usr/bin/env bash
# Show the logs of all workers while they run, and keep a copy of each, logs/NAME/WORKER.log (TPU_LOGS for another place).
# What there is of an earlier TPU of this name stays, as logs/NAME/WORKER.TIME.log.
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

# shellcheck disable=SC2329 # stream calls it
keep() { # NAME: its first line has the time
  local first before
  IFS= read -r first || return 0
  if [[ -s $1.log ]] && read -r before <"$1.log" && [[ $before != "$first" && $before =~ ^"== "([0-9TZ:-]+) ]]; then
    mv "$1.log" "$1.${BASH_REMATCH[1]}.log"
  fi
  { echo "$first" && cat; } | tee "$1.log"
}

# shellcheck disable=SC2329 # at_once calls it
stream() { # WORKER COMMAND
  if ((DRY_RUN)); then
    on "$@"
  else
    on "$@" | keep "$TPU_LOGS/$TPU_NAME/$1"
  fi
}

run mkdir -p "$TPU_LOGS/$TPU_NAME"
TPU_PARALLEL=${#only[@]} # none ends before its worker does
at_once stream "$(remotely log "$follow")" -- "${only[@]}" && exit
say "error: workers ${FAILED[*]} cannot be reached"
exit 1

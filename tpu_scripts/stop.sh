#!/usr/bin/env bash
# Stop the command on all workers: SIGTERM, and SIGKILL after a while. The TPU stays; so do the logs.
#
#     tpu_scripts/stop.sh --name mine ...
#
#     --grace SECONDS   between the two; 30
source "$(dirname "$0")/lib.sh"

grace=30
while (($#)); do
  if common "$@"; then
    shift "$TAKEN"
    continue
  fi
  case $1 in
    --grace) grace=$(value "$@") ;;
    *) unknown "$1" ;;
  esac
  shift 2
done
ready

mapfile -t all < <(workers)
at_once on "$(remotely stop "$grace")" -- "${all[@]}" && exit
say "error: workers ${FAILED[*]} cannot be reached"
exit 1

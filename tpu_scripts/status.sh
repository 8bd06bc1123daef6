#!/usr/bin/env bash
# What every worker is doing, a line each: running, exit STATUS, idle (nothing was started), lost (ended without a word).
#
#     tpu_scripts/status.sh --name mine ...
source "$(dirname "$0")/lib.sh"

while (($#)); do
  common "$@" || unknown "$1"
  shift "$TAKEN"
done
ready

mapfile -t all < <(workers)
at_once on "$(remotely status)" -- "${all[@]}" && exit
say "error: workers ${FAILED[*]} cannot be reached"
exit 1

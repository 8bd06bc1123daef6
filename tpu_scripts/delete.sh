#!/usr/bin/env bash
# Give the TPU back, and its place in the queue; if there is none, nothing is done.
#
#     tpu_scripts/delete.sh --name mine ...
source "$(dirname "$0")/lib.sh"

while (($#)); do
  common "$@" || unknown "$1"
  shift "$TAKEN"
done
ready

if ((DRY_RUN)); then
  state ACTIVE >/dev/null
  remove
  state ABSENT >/dev/null
  exit
fi
for ((tried = 0; tried <= TPU_RETRIES; tried++)); do
  case $(state) in
    ABSENT)
      say "there is no $TPU_NAME in $TPU_ZONE of $TPU_PROJECT"
      exit
      ;;
    REFUSED) refused ;;
    UNKNOWN) ;;
    *) remove || true ;; # whether it is gone, the next look says
  esac
  ((tried == 0)) || backoff "$tried"
done
die "$TPU_NAME is still there after $tried tries: it may cost money"

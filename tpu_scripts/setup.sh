#!/usr/bin/env bash
# Bring this repository's last commit and its packages to every host; what is there already is left alone.
#
#     tpu_scripts/setup.sh --name mine ... --bucket my-bucket
#
#     --bucket BUCKET   TPU_BUCKET    mount this bucket on every host, at TPU_SHARED
#     --shared PATH     TPU_SHARED    where shared storage is mounted; /mnt/shared if there is a bucket
#     --extras NAMES    of the package; "experiments"
#     --force           replace the code of a command that runs, which is refused otherwise, with status 3
#
# Workers that fail are tried again, TPU_RETRIES times.
source "$(dirname "$0")/lib.sh"

extras=experiments force=0
while (($#)); do
  if common "$@"; then
    shift "$TAKEN"
    continue
  fi
  case $1 in
    --bucket) TPU_BUCKET=$(value "$@") ;;
    --shared) TPU_SHARED=$(value "$@") ;;
    --extras) extras=$(value "$@") ;;
    --force)
      force=1
      shift
      continue
      ;;
    *) unknown "$1" ;;
  esac
  shift 2
done
ready
[[ -z $TPU_BUCKET ]] || : "${TPU_SHARED:=/mnt/shared}"

last_commit

what=("$COMMIT" "$extras" "$TPU_BUCKET" "$TPU_SHARED")
# shellcheck disable=SC2329 # at_once calls it
set_up() { # WORKER
  local unpack="mkdir -p $REMOTE && tar -xzf code.tar.gz -C $REMOTE"
  copy "$1" "$ARCHIVE" code.tar.gz && on "$1" "$unpack && $(remotely setup "${what[@]}")"
}

mapfile -t all < <(workers)
left=("${all[@]}")
for ((tried = 1; ; tried++)); do
  at_once on "$(remotely ready "${what[@]}")" -- "${left[@]}" >/dev/null && ((!DRY_RUN)) && break
  ((DRY_RUN)) || left=("${FAILED[@]}")
  if ((!force)); then
    busy=$(at_once on "$(remotely status)" -- "${all[@]}" | sed -n 's/^\[\([0-9]*\)\] running$/\1/p' | sort -n | xargs) || true
    [[ -z $busy ]] || {
      say "error: workers $busy run a command, whose code this would replace: stop.sh first, or say --force"
      exit 3
    }
  fi
  at_once set_up -- "${left[@]}" && break
  left=("${FAILED[@]}")
  ((tried <= TPU_RETRIES)) || die "workers ${left[*]} could not be set up, in $tried tries"
  say "workers ${left[*]} could not be set up; once more"
  backoff "$tried"
done
((DRY_RUN)) || say "all $TPU_WORKERS workers are set up with ${COMMIT:0:10}"

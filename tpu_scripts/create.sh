#!/usr/bin/env bash
# Make a TPU, or make sure that it is there; returns when it is ready to be used.
#
#     tpu_scripts/create.sh --name mine --project P --zone Z --type v5litepod-16 --spot
#
#     --spot          cheaper, and taken away when somebody pays more: see supervise.sh
#     --on-demand     (the default)
#     --reserved      from the project's reservation
#     --direct        without the queue: there at once, or no capacity
#     --valid WAIT    give up the place in the queue after this long, such as 6h, and stand at its end as one more try
#
# No capacity, a request that failed and a TPU that was taken away are tried again, TPU_RETRIES times, later each time.
source "$(dirname "$0")/lib.sh"

tier=() valid=()
while (($#)); do
  if common "$@"; then
    shift "$TAKEN"
    continue
  fi
  case $1 in
    --spot) tier=(--spot) ;;
    --on-demand) tier=() ;;
    --reserved) tier=(--reserved) ;;
    --valid)
      valid=(--valid-until-duration="$(value "$@")")
      shift
      ;;
    *) unknown "$1" ;;
  esac
  shift
done
ready

ask=(gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" "${WHERE[@]}")
if ((TPU_DIRECT)); then
  ((${#valid[@]} == 0)) || die "--valid is of the queue, which --direct does not stand in"
  ask=(gcloud compute tpus tpu-vm create "$TPU_NAME" "${WHERE[@]}" --version="$TPU_RUNTIME")
else
  ask+=(--runtime-version="$TPU_RUNTIME")
fi
ask+=(--accelerator-type="$TPU_TYPE" "${tier[@]}" "${valid[@]}")

if ((DRY_RUN)); then
  state ABSENT >/dev/null
  run "${ask[@]}"
  state ACTIVE >/dev/null
  exit
fi

failures=0
again() { # after a failure, or no more
  ((++failures <= TPU_RETRIES)) || die "$1; given up after $TPU_RETRIES more tries (TPU_RETRIES)"
  say "$1; try $((failures + 1)) of $((TPU_RETRIES + 1)) follows"
  backoff "$failures"
}

waited=
while :; do
  case $(state) in
    ACTIVE)
      say "$TPU_NAME is there"
      exit
      ;;
    WAITING)
      [[ -n $waited ]] || say "waiting for $TPU_NAME"
      waited=1
      sleep "$TPU_POLL"
      ;;
    DEAD)
      say "$TPU_NAME failed or was taken away; deleting what is left"
      remove || true
      again "$TPU_NAME failed or was taken away"
      ;;
    REFUSED) refused ;;
    UNKNOWN) again "gcloud does not answer" ;;
    ABSENT)
      waited=
      if answer=$("${ask[@]}" 2>&1); then
        say "asked for $TPU_NAME ($TPU_TYPE in $TPU_ZONE)"
      elif [[ ${answer^^} =~ RATE_?LIMIT|PER\ (MINUTE|[0-9]+\ SECONDS)|TOO\ MANY\ REQUESTS ]]; then # of calls, not of chips
        again "gcloud was asked too often (${answer##*$'\n'})"
      elif [[ ${answer^^} == *QUOTA* ]]; then
        die "the project has no quota for this: $answer"
      elif [[ ${answer^^} == *CAPACITY* || ${answer^^} =~ RESOURCE_EXHAUSTED|CODE\ 8|UNAVAILABLE|INTERNAL|DEADLINE ]]; then
        again "no capacity for $TPU_TYPE in $TPU_ZONE (${answer##*$'\n'})"
      elif [[ ${answer^^} != *ALREADY*EXISTS* ]]; then
        die "gcloud refuses: $answer"
      fi
      ;;
  esac
done

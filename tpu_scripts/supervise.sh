#!/usr/bin/env bash
# Run a command to its end on a TPU that may be taken away: make it, set it up, launch, watch; after a preemption again.
#
#     tpu_scripts/supervise.sh --name mine ... --spot --bucket my-bucket -- python -m experiments.learn_schedule ...
#
#     --restarts N   preemptions to live through; 100
#     --failures N   times the command itself may fail or a worker be lost; 3
#     --delete       give the TPU back in the end, whatever the end of the command is
#     the options of create.sh (--spot, --reserved, --valid), setup.sh (--bucket, --extras) and launch.sh (--set, --shared)
#
# It is the same command each time: it must go on where its files, on shared storage, say that it was. Runs on any machine
# that stays on, a small virtual one for instance; if it is ended itself, the TPU stays, and the same call goes on. One for
# each TPU. A TPU that somebody else deletes is not made again; a command that runs there with code of another commit is
# left alone, with status 3. The exit status is the command's.
source "$(dirname "$0")/lib.sh"

restarts=100 failures=3 delete=0 options=() create=() setup=() launch=()
while (($#)); do
  case $1 in
    --restarts) restarts=$(value "$@") ;;
    --failures) failures=$(value "$@") ;;
    --valid) create+=("$1" "$(value "$@")") ;;
    --extras) setup+=("$1" "$(value "$@")") ;;
    --bucket) export TPU_BUCKET && TPU_BUCKET=$(value "$@") ;;
    --shared) export TPU_SHARED && TPU_SHARED=$(value "$@") ;;
    --set) launch+=("$1" "$(value "$@")") ;;
    --spot | --on-demand | --reserved)
      create+=("$1")
      shift
      continue
      ;;
    --delete)
      delete=1
      shift
      continue
      ;;
    --)
      shift
      break
      ;;
    *)
      common "$@" || unknown "$1"
      options+=("${@:1:TAKEN}")
      shift "$TAKEN"
      continue
      ;;
  esac
  shift 2
done
ready
(($#)) || die "say what to run, after --"

finish() {
  ((delete)) || exit "$1"
  "$SCRIPTS/delete.sh" "${options[@]}" || true
  exit "$1"
}
gone() { [[ $(state ACTIVE) == @(DEAD|ABSENT) ]]; }
keep_logs() { "$SCRIPTS/logs.sh" "${options[@]}" --once >/dev/null 2>&1 || true; }

watch() { # until something is to be done: "done", "gone", "failed STATUS" or "lost"
  local answer unreachable=0 worst
  while :; do
    if gone; then
      echo gone
      return
    fi
    if answer=$("$SCRIPTS/status.sh" "${options[@]}" 2>/dev/null); then
      unreachable=0
      worst=$(sed -n 's/^\[[0-9]*\] exit //p' <<<"$answer" | sort -n | tail -n 1)
      if grep -qE '\] (idle|lost)$' <<<"$answer"; then
        echo lost
        return
      elif ((${worst:-0})); then
        echo "failed $worst"
        return
      elif (($(grep -c '\] exit 0$' <<<"$answer") == TPU_WORKERS)); then
        echo "done"
        return
      fi
    elif ((++unreachable > 3)); then
      echo lost
      return
    fi
    sleep "$TPU_POLL"
  done
}

preempted=0 failed=0
while :; do
  "$SCRIPTS/create.sh" "${options[@]}" "${create[@]}" || finish $?
  outcome=lost
  status=0
  "$SCRIPTS/setup.sh" "${options[@]}" "${setup[@]}" || status=$?
  ((status != 3)) || exit "$status" # what runs is of other code, and not ours to end
  if ((status == 0)) &&
    "$SCRIPTS/launch.sh" "${options[@]}" "${launch[@]}" -- "$@"; then
    if ((DRY_RUN)); then
      "$SCRIPTS/status.sh" "${options[@]}"
      finish 0
    fi
    outcome=$(watch)
  fi
  if [[ $outcome == "done" ]]; then
    keep_logs
    say "done, after $preempted preemptions and $failed failures"
    finish 0
  fi
  looks=1 # a preemption is first seen as programs that were killed or told to leave, and hosts that do not answer
  [[ $outcome != @(lost|failed 1[3-9][0-9]|failed 12[89]|failed 2??) ]] || looks=10
  while [[ $outcome != gone ]] && ((looks-- > 0)); do
    sleep "$TPU_POLL"
    ! gone || outcome=gone
  done
  if [[ $outcome == gone && $(state DEAD) == ABSENT ]]; then # what was taken away is still there, to be deleted
    say "error: somebody has deleted $TPU_NAME: it is not made again"
    finish 1
  fi
  if [[ $outcome == gone ]]; then
    ((++preempted <= restarts)) || { say "error: preempted $preempted times (--restarts $restarts)" && finish 1; }
    say "preempted, time $preempted of $restarts: making $TPU_NAME anew"
    "$SCRIPTS/delete.sh" "${options[@]}" || finish $?
    continue
  fi
  status=1
  [[ $outcome != failed* ]] || status=${outcome#failed }
  keep_logs
  ((++failed <= failures)) || {
    say "error: $outcome, $failed times (--failures $failures); see the last lines of $TPU_LOGS/$TPU_NAME/*.log"
    finish "$status"
  }
  say "$outcome, time $failed of $failures: once more"
  "$SCRIPTS/stop.sh" "${options[@]}" >/dev/null 2>&1 || {
    say "a worker cannot be reached: making $TPU_NAME anew"
    "$SCRIPTS/delete.sh" "${options[@]}" || finish $?
  }
  backoff "$failed"
done

# shellcheck shell=bash
# What the scripts have in common: options, the environment, waiting, asking gcloud, all workers at once. To be sourced.
#
# Options of every script, or the environment's variables in their place:
#     --name NAME         TPU_NAME      of the TPU
#     --project PROJECT   TPU_PROJECT
#     --zone ZONE         TPU_ZONE
#     --type TYPE         TPU_TYPE      such as v5litepod-16, v5p-32, v6e-64, v4-32
#     --env FILE          TPU_ENV       its generation's file in tpu_scripts/env by default
#     --workers N         TPU_WORKERS   hosts; from the type by default
#     --direct            TPU_DIRECT=1  a TPU that was made without the queue
#     --dry-run           print every command, run none
#     --help
# Waiting, in seconds or times: TPU_POLL between two looks, TPU_RETRIES of what failed, TPU_BACKOFF before the first of
# them, twice as long before the next, TPU_BACKOFF_MAX at most.
set -euo pipefail
exec 3>&1

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REMOTE=jaxsamplers # in the home directory of every host
: "${TPU_NAME:=}" "${TPU_PROJECT:=}" "${TPU_ZONE:=}" "${TPU_TYPE:=}" "${TPU_ENV:=}" "${TPU_WORKERS:=}" "${TPU_DIRECT:=0}"
: "${TPU_POLL:=30}" "${TPU_RETRIES:=10}" "${TPU_BACKOFF:=30}" "${TPU_BACKOFF_MAX:=900}" "${TPU_PARALLEL:=16}"
: "${TPU_SHARED:=}" "${TPU_BUCKET:=}" "${TPU_LOGS:=logs}"
DRY_RUN=0

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 2
}
show() { # as one would type it
  local word line=
  for word; do
    if [[ $word =~ ^(--[a-z-]+=)(.*[^A-Za-z0-9_./:=@%+,-].*)$ ]]; then
      word=${BASH_REMATCH[1]}${BASH_REMATCH[2]@Q}
    elif ! [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      word=${word@Q}
    fi
    line+=" $word"
  done
  echo "${line# }" >&3
}
run() { if ((DRY_RUN)); then show "$@"; else "$@"; fi; }

usage() { # the comment at the top of the script, and of this file
  local file
  for file in "$0" "${BASH_SOURCE[0]}"; do
    sed -n '/^# *shellcheck/d; /^#!/d; /^#/!q; s/^# \{0,1\}//p' "$file"
    echo
  done
}

value() {
  (($# >= 2)) || die "$1 needs a value"
  printf '%s' "$2"
}

TAKEN=0
# shellcheck disable=SC2034 # the scripts read it
common() { # one option of every script from the front of the words; TAKEN says how many words it was
  TAKEN=2
  case $1 in
    --name) TPU_NAME=$(value "$@") || exit ;;
    --project) TPU_PROJECT=$(value "$@") || exit ;;
    --zone) TPU_ZONE=$(value "$@") || exit ;;
    --type) TPU_TYPE=$(value "$@") || exit ;;
    --env) TPU_ENV=$(value "$@") || exit ;;
    --workers) TPU_WORKERS=$(value "$@") || exit ;;
    --direct) TPU_DIRECT=1 TAKEN=1 ;;
    --dry-run) DRY_RUN=1 TAKEN=1 ;;
    --help | -h)
      usage
      exit 0
      ;;
    *) return 1 ;;
  esac
}

unknown() { die "unknown option $1; $(basename "$0") --help names all"; }

ready() { # everything is said: look at it
  local option variable
  for option in name project zone type; do
    variable=TPU_${option^^}
    [[ -n ${!variable} ]] || die "give --$option, or set $variable"
  done
  [[ $TPU_TYPE =~ ^(v4|v5p|v5litepod|v6e)-([1-9][0-9]*)$ ]] ||
    die "type must be such as v5litepod-16, v5p-32, v6e-64 or v4-32, got $TPU_TYPE"
  local generation=${BASH_REMATCH[1]} size=${BASH_REMATCH[2]} a_host
  case $generation in # v4 and v5p count cores, two a chip; a host has four chips, or eight if it is alone
    v4 | v5p) a_host=8 ;;
    *) a_host=$((size <= 8 ? size : 4)) ;;
  esac
  [[ -n $TPU_WORKERS ]] || TPU_WORKERS=$((size <= a_host ? 1 : size / a_host))
  [[ $TPU_WORKERS =~ ^[1-9][0-9]*$ ]] || die "workers must be a positive number, got $TPU_WORKERS"
  [[ -n $TPU_ENV ]] || TPU_ENV=$SCRIPTS/env/${generation/litepod/e}.env
  [[ -f $TPU_ENV ]] || die "there is no environment file $TPU_ENV"
  # shellcheck source=/dev/null
  source "$TPU_ENV"
  WHERE=(--project="$TPU_PROJECT" --zone="$TPU_ZONE")
  ((DRY_RUN)) || command -v gcloud >/dev/null || die "there is no gcloud here: install the Google Cloud CLI"
}

backoff() { # before the next try, after so many
  local seconds=$TPU_BACKOFF tried
  for ((tried = 1; tried < $1 && seconds < TPU_BACKOFF_MAX; tried++)); do seconds=$((2 * seconds)); done
  sleep "$((seconds < TPU_BACKOFF_MAX ? seconds : TPU_BACKOFF_MAX))"
}

# ABSENT, WAITING, ACTIVE, DEAD (to be deleted), or, and gcloud's words are shown: REFUSED (not allowed, asking again does
# not help) or UNKNOWN (it could not say)
state() {
  local ask=(gcloud compute tpus queued-resources describe "$TPU_NAME" "${WHERE[@]}" --format='value(state.state)')
  ((TPU_DIRECT)) && ask=(gcloud compute tpus tpu-vm describe "$TPU_NAME" "${WHERE[@]}" --format='value(state)')
  if ((DRY_RUN)); then
    show "${ask[@]}"
    echo "$1"
    return
  fi
  local answer
  if answer=$("${ask[@]}" 2>&1); then
    case ${answer##*$'\n'} in
      ACTIVE | READY) echo ACTIVE ;;
      SUSPENDING | SUSPENDED | FAILED | DELETING | PREEMPTED | TERMINATED | STOPPING | STOPPED) echo DEAD ;;
      *) echo WAITING ;;
    esac
  elif [[ ${answer^^} == *NOT_FOUND* || ${answer^^} == *"NOT FOUND"* ]]; then
    echo ABSENT
  else
    say "$answer"
    case ${answer^^} in
      *PERMISSION_DENIED* | *UNAUTHENTICATED* | *SERVICE_DISABLED* | *"ACTIVE ACCOUNT"*) echo REFUSED ;;
      *) echo UNKNOWN ;;
    esac
  fi
}

refused() { die "gcloud refuses, as said above: is the account logged in and allowed, and the TPU API of the project on?"; }

remove() {
  if ((TPU_DIRECT)); then
    run gcloud compute tpus tpu-vm delete "$TPU_NAME" "${WHERE[@]}" --quiet
  else
    run gcloud compute tpus queued-resources delete "$TPU_NAME" "${WHERE[@]}" --force --quiet
  fi
}

ALIVE=(--ssh-flag=-oConnectTimeout=30 --ssh-flag=-oServerAliveInterval=30) # a host that is gone is waited for no longer
on() { run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${WHERE[@]}" "${ALIVE[@]}" --worker="$1" --quiet --command="$2"; }
copy() { run gcloud compute tpus tpu-vm scp "$2" "$TPU_NAME:$3" "${WHERE[@]}" --worker="$1" --quiet; }

FAILED=()
at_once() { # "at_once FUNCTION ARGUMENTS -- WORKERS" calls FUNCTION WORKER ARGUMENTS for each; FAILED is who failed
  local call=() worker number pids=() status
  while [[ $1 != -- ]]; do
    call+=("$1")
    shift
  done
  shift
  FAILED=()
  for worker; do
    if ((DRY_RUN)); then
      "${call[0]}" "$worker" "${call[@]:1}"
      continue
    fi
    while (($(jobs -rp | wc -l) >= TPU_PARALLEL)); do sleep 0.1; done
    ("${call[0]}" "$worker" "${call[@]:1}" 2>&1 </dev/null 3>&- | sed -u "s/^/[$worker] /") &
    pids[worker]=$!
  done
  for number in "${!pids[@]}"; do
    status=0
    wait "${pids[number]}" || status=$?
    ((status == 0)) || FAILED+=("$number")
  done
  ((${#FAILED[@]} == 0))
}

# shellcheck disable=SC2034 # the scripts read them
last_commit() { # of this repository: COMMIT, and ARCHIVE, which is gone in the end
  local root changes
  root=$(git -C "$SCRIPTS" rev-parse --show-toplevel)
  COMMIT=$(git -C "$root" rev-parse HEAD)
  changes=$(git -C "$root" diff HEAD --shortstat)
  [[ -z $changes ]] || say "not committed, so not brought:$changes"
  ARCHIVE=$(mktemp -d)/code.tar.gz
  trap 'rm -rf "$(dirname "$ARCHIVE")"' EXIT
  run git -C "$root" archive --format=tar.gz --output="$ARCHIVE" "$COMMIT"
}

workers() { seq 0 "$((TPU_WORKERS - 1))"; }

remotely() { # a program of tpu_scripts/remote and its arguments, as one string for a shell
  local words
  words=$(printf ' %q' "${@:2}")
  printf 'bash %s/tpu_scripts/remote/%s.sh%s' "$REMOTE" "$1" "${words% \'\'}"
}

#!/usr/bin/env bash
# Start one command on all workers at once, each with a log of its own; returns when it has begun.
#
#     tpu_scripts/launch.sh --name mine ... -- python -m experiments.learn_schedule --config ... --out /mnt/shared/run
#
#     --set NAME=VALUE   a variable for the command, once or more
#     --shared PATH      TPU_SHARED   shared storage: compiled programs are kept in it, for all hosts and later runs, and
#                                     copies of the logs, logs/NAME/WORKER.TIME.log, at most a minute old
#
# The command goes on when this machine is switched off. Workers that run it already are left alone. If some cannot be
# reached, it is stopped on the others, which would only wait for them.
source "$(dirname "$0")/lib.sh"

variables=()
while (($#)); do
  if common "$@"; then
    shift "$TAKEN"
    continue
  fi
  case $1 in
    --set) variables+=("$(value "$@")") ;;
    --shared) TPU_SHARED=$(value "$@") ;;
    --)
      shift
      break
      ;;
    *) unknown "$1" ;;
  esac
  shift 2
done
ready
(($#)) || die "say what to run, after --"
[[ -z $TPU_BUCKET ]] || : "${TPU_SHARED:=/mnt/shared}"
: "${JAX_COMPILATION_CACHE_DIR:=${TPU_SHARED:+$TPU_SHARED/compiled}}"
for name in JAX_COMPILATION_CACHE_DIR LIBTPU_INIT_ARGS; do
  [[ -z ${!name:-} ]] || variables=("$name=${!name}" "${variables[@]}")
done

command=("$@")
# shellcheck disable=SC2329 # at_once calls it
start() { # WORKER
  local keep=
  [[ $TPU_SHARED != /* ]] || keep=$TPU_SHARED/logs/$TPU_NAME/$1
  on "$1" "$(remotely start "$keep" "${variables[@]}" -- "${command[@]}")"
}

mapfile -t all < <(workers)
at_once start -- "${all[@]}" && exit
missing=("${FAILED[@]}")
at_once on "$(remotely stop)" -- "${all[@]}" >/dev/null || true
say "error: workers ${missing[*]} could not start it; stopped on the others"
exit 1

#!/usr/bin/env bash
# Launch a command that takes --trace FIRST:STEPS, such as experiments.learn_schedule, and have it traced for xprof.
#
#     tpu_scripts/profile.sh --name mine ... --first 100 --steps 50 -- python -m experiments.learn_schedule ...
#
#     --first N   steps before the trace begins, so that everything is compiled; 100
#     --steps N   steps in it; 50
#     the options of launch.sh
#
# The traces lie in the run's directory, trace/, a file a host. To look at them: pip install xprof tensorboard, then
# tensorboard --logdir RUN/trace.
source "$(dirname "$0")/lib.sh"

first=100 steps=50 options=()
while (($#)); do
  case $1 in
    --first) first=$(value "$@") ;;
    --steps) steps=$(value "$@") ;;
    --set | --shared) options+=("$1" "$(value "$@")") ;;
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
(($#)) || die "say what to run, after --"
[[ $first =~ ^[0-9]+$ && $steps =~ ^[1-9][0-9]*$ ]] || die "--first and --steps must be numbers, got $first and $steps"
exec "$SCRIPTS/launch.sh" "${options[@]}" -- "$@" --trace "$first:$steps"

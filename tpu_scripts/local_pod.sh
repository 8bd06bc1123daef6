#!/usr/bin/env bash
# The pod path on one machine: the same command as N real processes that meet through jax.distributed and talk by gloo.
#
#     tpu_scripts/local_pod.sh 2 python -m experiments.learn_schedule --config configs/learn/ld3_closed_form.py
#
# Each process has one CPU device (LOCAL_POD_DEVICES for more) and a log of its own, local_pod/0.log and so on
# (LOCAL_POD_LOGS for another directory); process 0's is shown. If one fails, the others are ended, 5 seconds after
# SIGTERM (LOCAL_POD_GRACE) by SIGKILL; the exit status is the one of the first that failed, 0 if none did.
set -euo pipefail

if (($# < 2)) || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: local_pod.sh NUMBER-OF-PROCESSES COMMAND..." >&2
  exit 2
fi
count=$1
shift
logs=${LOCAL_POD_LOGS:-local_pod}
mkdir -p "$logs"

free_port() { # one that nobody listens at, below those that the system gives to outgoing connections
  local port
  for _ in {1..100}; do
    port=$((10000 + RANDOM % 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  echo "error: no free port" >&2
  return 1
}

pids=()
finish() { # each process leads a group, so that whatever it has started ends with it
  local pid left
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for ((left = 10 * ${LOCAL_POD_GRACE:-5}; left > 0; left--)); do
    [[ -z $(jobs -rp) ]] && break
    sleep 0.1
  done
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

port=$(free_port)
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count
export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo JAX_NUM_CPU_DEVICES=${LOCAL_POD_DEVICES:-1}
for ((process = 0; process < count; process++)); do
  JAX_PROCESS_ID=$process setsid "$@" >"$logs/$process.log" 2>&1 </dev/null &
  pids+=("$!")
done
tail -n +1 -f --pid="${pids[0]}" "$logs/0.log" &
shown=$!

for ((left = count; left > 0; left--)); do
  status=0
  wait -n -p ended "${pids[@]}" || status=$?
  for process in "${!pids[@]}"; do
    [[ ${pids[process]} == "$ended" ]] || continue
    unset "pids[process]"
    if ((status)); then
      sleep 0.2 # what it said last is still being written and shown
      echo "local_pod: process $process ended with status $status, see $logs/$process.log; the others are ended" >&2
      tail -n 5 "$logs/$process.log" >&2
      exit "$status"
    fi
  done
done
wait "$shown" || true

#!/usr/bin/env bash
# The same on Google Kubernetes Engine, by xpk: its queue is the cluster's, and it restarts what was taken away.
#
#     tpu_scripts/xpk.sh cluster --cluster C --project P --zone Z --type v5litepod-16 --spot      once
#     tpu_scripts/xpk.sh launch  --name mine ... -- python -m experiments.learn_schedule --config ... --out /shared/run
#     tpu_scripts/xpk.sh logs    --name mine ...
#     tpu_scripts/xpk.sh list    --name mine ...
#     tpu_scripts/xpk.sh stop    --name mine ...
#     tpu_scripts/xpk.sh delete  --cluster C ...                                                  the cluster, all of it
#
#     --cluster C        XPK_CLUSTER    the cluster; --name is the workload's
#     --slices N         XPK_SLICES     how many TPUs of the type; 1
#     --spot, --on-demand, --reservation R    of the cluster's machines
#     --image IMAGE      XPK_IMAGE      to put this repository's last commit on; python:3.12
#     --restarts N       XPK_RESTARTS   to live through, after statuses of 127 and more; 50
#     --shared PATH      TPU_SHARED     where the cluster mounts shared storage (xpk storage attach --auto-mount=true)
#     --set NAME=VALUE   a variable for the command, once or more
source "$(dirname "$0")/lib.sh"

: "${XPK_CLUSTER:=}" "${XPK_SLICES:=1}" "${XPK_IMAGE:=python:3.12}" "${XPK_RESTARTS:=50}"
what=${1:-}
[[ $what == @(cluster|launch|logs|list|stop|delete|--help|-h) ]] || die "say cluster, launch, logs, list, stop or delete; --help"
[[ $what == -* ]] || shift
tier=(--on-demand) variables=() said=0
while (($#)); do
  if common "$@"; then
    shift "$TAKEN"
    continue
  fi
  case $1 in
    --cluster) XPK_CLUSTER=$(value "$@") said=1 ;;
    --slices) XPK_SLICES=$(value "$@") ;;
    --image) XPK_IMAGE=$(value "$@") ;;
    --restarts) XPK_RESTARTS=$(value "$@") ;;
    --shared) TPU_SHARED=$(value "$@") ;;
    --set) variables+=("$(value "$@")") ;;
    --reservation) tier=(--reservation="$(value "$@")") ;;
    --spot | --on-demand)
      tier=("$1")
      shift
      continue
      ;;
    --)
      shift
      break
      ;;
    *) unknown "$1" ;;
  esac
  shift 2
done
[[ -n $XPK_CLUSTER ]] || die "give --cluster, or set XPK_CLUSTER"
: "${TPU_NAME:=$XPK_CLUSTER}"
ready
((DRY_RUN)) || command -v xpk >/dev/null || die "there is no xpk here: pip install xpk"
where=(--cluster="$XPK_CLUSTER" "${WHERE[@]}")

case $what in
  cluster)
    run xpk cluster create "${where[@]}" --tpu-type="$TPU_TYPE" --num-slices="$XPK_SLICES" "${tier[@]}"
    ;;
  launch)
    (($#)) || die "say what to run, after --"
    : "${JAX_COMPILATION_CACHE_DIR:=${TPU_SHARED:+$TPU_SHARED/compiled}}"
    for name in JAX_COMPILATION_CACHE_DIR LIBTPU_INIT_ARGS; do
      [[ -z ${!name:-} ]] || variables=("$name=${!name}" "${variables[@]}")
    done
    last_commit
    code=${ARCHIVE%/*}/code
    run mkdir "$code"
    run tar -xzf "$ARCHIVE" -C "$code"
    packages="pip install --quiet -e '.[experiments]' 'jax[tpu]'"
    run xpk workload create "${where[@]}" --workload="$TPU_NAME" --tpu-type="$TPU_TYPE" --num-slices="$XPK_SLICES" \
      --base-docker-image="$XPK_IMAGE" --script-dir="$code" --max-restarts="$XPK_RESTARTS" \
      --command="$packages && exec env$(printf ' %q' "${variables[@]}" "$@")"
    ;;
  logs)
    run kubectl logs --follow --prefix --max-log-requests=256 --tail=-1 -l "jobset.sigs.k8s.io/jobset-name=$TPU_NAME"
    ;;
  list) run xpk workload list "${where[@]}" --filter-by-job="$TPU_NAME" ;;
  stop) run xpk workload delete "${where[@]}" --workload="$TPU_NAME" ;;
  delete)
    ((said)) || die "all of $XPK_CLUSTER would be deleted: say --cluster $XPK_CLUSTER; \"stop\" ends one workload"
    run xpk cluster delete "${where[@]}"
    ;;
esac

#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster through xpk (pip install xpk), which has made it (`xpk cluster create`):
#
#   launch/gke.sh start  OPTIONS [--yes] RECIPE MODEL_DIR [--gin.X=Y …]
#   launch/gke.sh follow OPTIONS
#   launch/gke.sh delete OPTIONS
#
# OPTIONS: --name JOB --cluster C --project P --zone Z, for start also --type v5litepod-16 --image IMAGE [--slices N]
# IMAGE is built from launch/Dockerfile.tpu and pushed to a registry that the cluster reads. MODEL_DIR and TOKEN_STORE lie
# where every pod sees them. After a preemption Kubernetes starts all pods again, up to RESTARTS=100 times, and they go on
# from the last checkpoint. DRY_RUN=1 prints the commands and stops.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

[[ $# -ge 1 ]] || misused "start, follow or delete?"
action=$1 restarts=${RESTARTS:-100} name='' cluster='' project='' zone='' type='' image='' slices=1
shift
while [[ ${1:-} == --* ]]; do
  case $1 in
    --yes) yes=1 && shift && continue ;;
    --name) name=$(value "$@") ;;
    --cluster) cluster=$(value "$@") ;;
    --project) project=$(value "$@") ;;
    --zone) zone=$(value "$@") ;;
    --type) type=$(value "$@") ;;
    --image) image=$(value "$@") ;;
    --slices) slices=$(value "$@") ;;
    *) unknown_option "$1" ;;
  esac
  shift 2
done
case $action in start | follow | delete) ;; *) misused "there is no $action: start, follow or delete" ;; esac
need_options --name "$name" --cluster "$cluster" --project "$project" --zone "$zone"
job=("--workload=$name" "--cluster=$cluster" "--project=$project" "--zone=$zone")

case $action in
  start)
    need_options --type "$type" --image "$image"
    need_run "$@"
    need_yes "this takes $slices x $type"
    command=$(quoted python3 -m medmt5.train "--gin_file=$1" "--gin.MODEL_DIR=$2" "${@:3}")
    run xpk workload create "${job[@]}" "--tpu-type=$type" "--num-slices=$slices" "--docker-image=$image" \
      "--max-restarts=$restarts" --restart-on-exit-codes=75 "--command=$command"
    ;;
  follow) run kubectl logs --follow --tail=-1 "--selector=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0" ;;
  delete) run xpk workload delete "${job[@]}" ;;
esac

#!/usr/bin/env bash
# Submits a training to Slurm, one process a GPU; the same command for one node and for many:
#
#   launch/slurm.sh --nodes N --gpus G [--array 0-4] [--sbatch OPTION]… [--yes] RECIPE MODEL_DIR [--gin.X=Y …]
#   launch/slurm.sh --nodes 2 --gpus 4 --sbatch --partition=gpu --sbatch --time=12:00:00 --yes \
#     gin/recipe/medical_mt5_large.gin /shared/runs/large --gin.TOKEN_STORE=/shared/tokens …
#
# --gpus counts those of a node. --array 0-4 trains five seeds, each in MODEL_DIR/seed_<number>. --sbatch passes an
# option on. MODEL_DIR and TOKEN_STORE lie on a disk that all nodes see. Preempted, timed out or failed with its node,
# the job goes back into the queue and on from its last checkpoint. DRY_RUN=1 prints the command and stops.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/_common.sh"

nodes='' gpus='' options=()
while [[ ${1:-} == --* ]]; do
  case $1 in
    --yes) yes=1 && shift && continue ;;
    --nodes) nodes=$(value "$@") ;;
    --gpus) gpus=$(value "$@") ;;
    --array) options+=("--array=$(value "$@")" '--output=%x-%A_%a.log') ;;
    --sbatch) options+=("$(value "$@")") ;;
    *) unknown_option "$1" ;;
  esac
  shift 2
done
need_options --nodes "$nodes" --gpus "$gpus"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || misused "--nodes must be a number from 1 on, not $nodes"
[[ $gpus =~ ^[1-9][0-9]*$ ]] || misused "--gpus must be a number from 1 on, not $gpus"
need_run "$@"
need_yes "this takes $nodes x $gpus GPUs"
run sbatch "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" "${options[@]}" "$here/slurm.sbatch" "$@"

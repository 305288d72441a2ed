#!/usr/bin/env bash
# Trains on this machine, on all its devices:
#
#   launch/local.sh [--processes N] [--restarts N] RECIPE MODEL_DIR [--gin.X=Y …]
#   launch/local.sh gin/recipe/tiny_pretrain.gin runs/a --gin.TOKEN_STORE=demo/tokens --gin.VOCABULARY=demo/spiece.model
#
# The same command goes on from where MODEL_DIR stands. DRY_RUN=1 prints the commands and stops.
# --processes 2: two processes that train together, to try on CPUs what several hosts do.
# --restarts 3: starts again, up to three times, when a process was killed; never after wrong input or a full disk.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

processes=1 restarts=0
while [[ ${1:-} == --* ]]; do
  case $1 in
    --processes) processes=$(value "$@") ;;
    --restarts) restarts=$(value "$@") ;;
    *) unknown_option "$1" ;;
  esac
  shift 2
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || misused "--processes must be a number from 1 on, not $processes"
[[ $restarts =~ ^[0-9]+$ ]] || misused "--restarts must be a number, not $restarts"
need_run "$@"
recipe=$1 model_dir=$2
shift 2
command=("${PYTHON:-python3}" -m medmt5.train "--gin_file=$recipe" "--gin.MODEL_DIR=$model_dir" "$@")
# Huge pages for the allocator: on CPUs most of a step's time goes into page faults on fresh buffers.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

pids=() stopping=0
# Each process saves on the first signal, and leaves at once on a second one. So that Ctrl-C is one signal and not two, they
# are not in the terminal's foreground group (set -m): the script hands it on, and waits for them.
set -m
trap 'stopping=1; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM HUP
trap 'stopping=1; kill -INT "${pids[@]}" 2>/dev/null || true' INT

# Starts all processes; the code is the first one's that is not 0.
train() {
  local i port=${PORT:-$((20000 + RANDOM % 10000))} one code=0 ended
  pids=()
  for ((i = 0; i < processes; i++)); do
    one=("${command[@]}")
    if ((processes > 1)); then
      one+=("--coordinator_address=localhost:$port" "--process_count=$processes" "--process_index=$i")
    fi
    show "${one[@]}"
    [[ ${DRY_RUN:-} == 1 ]] && continue
    "${one[@]}" &
    pids+=($!)
  done
  for i in "${pids[@]}"; do
    ended=0
    wait "$i" || ended=$?
    while kill -0 "$i" 2>/dev/null; do # a signal to the script ends `wait`, not the process
      ended=0
      wait "$i" || ended=$?
    done
    [[ $code != 0 ]] || code=$ended
  done
  return "$code"
}

while true; do
  code=0
  train || code=$?
  if ((stopping || restarts == 0)) || ! may_restart "$code"; then exit "$code"; fi
  restarts=$((restarts - 1))
  echo "exit code $code: started again" >&2
done

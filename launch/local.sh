#!/usr/bin/env bash
# Trains on this machine, on all its devices: launch/local.sh RECIPE MODEL_DIR [--gin.X=Y …]
#
#   launch/local.sh gin/recipe/tiny_pretrain.gin runs/a --gin.TOKEN_STORE=demo/tokens --gin.VOCABULARY=demo/spiece.model
#
# The same command goes on from where MODEL_DIR stands. DRY_RUN=1 prints the command and stops.
# PROCESSES=2 starts two processes that train together, to try on CPUs what several hosts do.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
recipe=$1 model_dir=$2
shift 2
command=("${PYTHON:-python3}" -m medmt5.train "--gin_file=$recipe" "--gin.MODEL_DIR=$model_dir" "$@")
# Huge pages for the allocator: on CPUs most of a step's time goes into page faults on fresh buffers.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
processes=${PROCESSES:-1}
if [[ $processes == 1 ]]; then
  printf '%q ' "${command[@]}" && echo
  [[ ${DRY_RUN:-} == 1 ]] || exec "${command[@]}"
  exit 0
fi
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  one=("${command[@]}" --coordinator_address="localhost:${PORT:-9473}" --process_count="$processes" --process_index="$i")
  printf '%q ' "${one[@]}" && echo
  [[ ${DRY_RUN:-} == 1 ]] && continue
  "${one[@]}" &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
wait || true
exit $code

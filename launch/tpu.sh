#!/usr/bin/env bash
# Trains on a TPU VM or a pod slice of Google Cloud (gcloud, logged in, with a project):
#
#   launch/tpu.sh run     OPTIONS --yes RECIPE MODEL_DIR [--gin.X=Y …]   all of the following but delete, again and again
#   launch/tpu.sh create  OPTIONS --yes                                  a TPU
#   launch/tpu.sh prepare OPTIONS                                        this repository's HEAD and its packages, on all workers
#   launch/tpu.sh start   OPTIONS RECIPE MODEL_DIR [--gin.X=Y …]         the training, on all workers, in the background
#   launch/tpu.sh follow  OPTIONS                                        worker 0's log; ends with the training, with its exit code
#   launch/tpu.sh delete  OPTIONS
#
# OPTIONS: --name NAME --zone ZONE, for run and create also --type v4-32 [--spot] [--queued] [--version RUNTIME]
# --queued asks for a queued resource and waits for it. MODEL_DIR and TOKEN_STORE lie where all workers see them. run makes a
# new TPU when the old one was preempted, up to RESTARTS=100 times; the training goes on from its last checkpoint. run does not delete the
# TPU at the end: it costs money until `delete`. DRY_RUN=1 prints the commands and stops.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/_common.sh"

[[ $# -ge 1 ]] || misused "run, create, prepare, start, follow or delete?"
action=$1 restarts=${RESTARTS:-100} name='' zone='' type='' spot=() queued=0 version=tpu-ubuntu2204-base
shift
while [[ ${1:-} == --* ]]; do
  case $1 in
    --yes) yes=1 && shift && continue ;;
    --spot) spot=(--spot) && shift && continue ;;
    --queued) queued=1 && shift && continue ;;
    --name) name=$(value "$@") ;;
    --zone) zone=$(value "$@") ;;
    --type) type=$(value "$@") ;;
    --version) version=$(value "$@") ;;
    *) unknown_option "$1" ;;
  esac
  shift 2
done
case $action in
  run | create | prepare | start | follow | delete) ;;
  *) misused "there is no $action: run, create, prepare, start, follow or delete" ;;
esac
need_options --name "$name" --zone "$zone"
vm=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)
poll_seconds=${POLL_SECONDS:-30}
archive=${TMPDIR:-/tmp}/medmt5-$name.tar.gz

on_workers() { # WORKERS COMMAND
  run "${vm[@]}" ssh "$name" "--zone=$zone" "--worker=$1" "--command=$2"
}

create() {
  if ((queued == 0)); then
    run "${vm[@]}" create "$name" "--zone=$zone" "--accelerator-type=$type" "--version=$version" "${spot[@]}"
    return
  fi
  run "${queue[@]}" create "$name" "--node-id=$name" "--zone=$zone" "--accelerator-type=$type" \
    "--runtime-version=$version" "${spot[@]}"
  local state=''
  while [[ $state != ACTIVE ]]; do
    state=$(run "${queue[@]}" describe "$name" "--zone=$zone" '--format=value(state.state)')
    [[ ${DRY_RUN:-} == 1 ]] && return
    case $state in
      ACTIVE) ;;
      FAILED | SUSPENDED) fail "the queued resource $name is $state; see: ${queue[*]} describe $name --zone=$zone" ;;
      *) sleep "$poll_seconds" ;;
    esac
  done
}

# What is not committed stays at home: a recipe that would be missing on the workers is told before they cost anything.
pack() { # [RECIPE]
  if [[ $# -gt 0 && -f $here/../$1 ]]; then
    run git -C "$here/.." cat-file -e "HEAD:$1" || fail "$1 is not committed, and only what is goes to the workers"
  fi
  run git -C "$here/.." archive --format=tar.gz "--output=$archive" HEAD
}

prepare() {
  run "${vm[@]}" scp "$archive" "$name:medmt5.tar.gz" "--zone=$zone" --worker=all
  # The images have an older Python than medmt5 needs; uv brings one.
  on_workers all "rm -rf medmt5 && mkdir medmt5 && tar -xzf medmt5.tar.gz -C medmt5 && python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --python 3.12 medmt5/.venv && \
python3 -m uv pip install --quiet --python medmt5/.venv/bin/python --constraint medmt5/launch/constraints.txt 'jax[tpu]' --editable './medmt5[gcs]'"
}

# The lock is held by the training and what it starts: a second one waits for the end of the first.
start() {
  local train
  train=$(quoted .venv/bin/python -m medmt5.train "--gin_file=$1" "--gin.MODEL_DIR=$2" "${@:3}")
  on_workers all "cd medmt5 && exec 9> lock && flock --wait 300 9 && rm -f exit_code && \
{ nohup bash -c $(quoted "$train; echo \$? > exit_code") >> ../medmt5.log 2>&1 < /dev/null & }"
}

# 137: the training ended without a word, with its host.
follow() {
  on_workers 0 "cd medmt5; tail -n 100 -F ../medmt5.log & until [ -s exit_code ] || flock --nonblock lock true; \
do sleep 2; done; sleep 2; kill \$!; [ -s exit_code ] || exit 137; exit \$(cat exit_code)"
}

# 255 is ssh's own: while the TPU is there, the training goes on.
follow_on() {
  local code
  while true; do
    code=0
    follow || code=$?
    if ((code != 255)) || ! is_ready; then return "$code"; fi
    sleep "$poll_seconds"
  done
}

delete() {
  if ((queued)); then
    run "${queue[@]}" delete "$name" "--zone=$zone" --force --quiet
  else
    run "${vm[@]}" delete "$name" "--zone=$zone" --quiet
  fi
}

is_ready() {
  [[ $(run "${vm[@]}" describe "$name" "--zone=$zone" '--format=value(state)') == READY ]]
}

case $action in
  create | run) need_options --type "$type" && need_yes "a $type costs money until it is deleted" ;;
esac
case $action in
  start | run) need_run "$@" ;;
esac
case $action in
  create | follow | delete) "$action" ;;
  prepare) pack && prepare ;;
  start) start "$@" ;;
  run)
    pack "$1"
    create
    prepare
    while true; do
      code=0
      if start "$@"; then follow_on || code=$?; else code=255; fi
      ((code != 0)) || exit 0
      ((restarts-- > 0)) || exit "$code"
      if is_ready; then
        may_restart "$code" || exit "$code"
        echo "$0: exit code $code: started again" >&2
      else # preempted; what is left of it keeps its name
        echo "$0: $name is gone: a new one" >&2
        delete || true
        create
        prepare
      fi
    done
    ;;
esac

# Sourced by the scripts of this folder: what they print, run and ask for. Not a program.
# shellcheck shell=bash

exec 3>&1 # commands are printed here, even where the output of one is read
yes=0

# Prints the comment at the top of the script.
usage() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
}

# Says what is wrong with the call, then how to call, and ends the script.
misused() {
  printf '%s: %s\n\n' "$0" "$*" >&2
  usage >&2
  exit 2
}

# What comes before RECIPE and is no option of the script.
unknown_option() {
  case $1 in
    --gin*) misused "$1 must come after RECIPE and MODEL_DIR" ;;
    *) misused "there is no option $1" ;;
  esac
}

# RECIPE MODEL_DIR [--gin.X=Y …]: a stray word would be found by the training, when money has been spent.
need_run() {
  local word
  (($# >= 2)) && [[ $1 != -* && $2 != -* ]] || misused "RECIPE and MODEL_DIR are missing"
  for word in "${@:3}"; do
    case $word in
      --gin.*=* | --gin_file=* | --gin_search_paths=* | --dry_run | --debug) ;;
      *) misused "after RECIPE and MODEL_DIR come --gin.X=Y; options of this script come before them, also $word" ;;
    esac
  done
}

# NAME VALUE …: every option must have a value.
need_options() {
  while (($#)); do
    [[ $2 ]] || misused "$1 is missing"
    shift 2
  done
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac

fail() {
  echo "$0: $*" >&2
  exit 2
}

# Quotes words so that a shell reads them back; plain ones stay as they are.
quoted() {
  local word line=''
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@,+-]+$ ]]; then line+="$word "; else line+="${word@Q} "; fi
  done
  printf '%s' "${line% }"
}

# Prints a command.
show() {
  printf '%s\n' "$(quoted "$@")" >&3
}

# Prints a command, and unless DRY_RUN=1 runs it.
run() {
  show "$@"
  [[ ${DRY_RUN:-} == 1 ]] || "$@"
}

# What costs money needs --yes.
need_yes() {
  [[ $yes == 1 || ${DRY_RUN:-} == 1 ]] || fail "$1; add --yes, or look first: DRY_RUN=1"
}

# Whether the same command may be started again after this exit code (docs/training.md): not when it is done (0), after
# a bug (1), wrong input (2), or a save that failed (74).
may_restart() {
  [[ $1 != 0 && $1 != 1 && $1 != 2 && $1 != 74 ]]
}

# Takes the value of an option: `value "$@"` where $1 is the option.
value() {
  [[ $# -ge 2 ]] || fail "$1 needs a value"
  printf '%s' "$2"
}

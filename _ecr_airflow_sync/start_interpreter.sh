# Finds the Python that an airflow script runs under, and starts it.
#
# Run as `sh -c <this text> <airflow script> <marker>`, wherever --airflow leads: on this
# host, behind sudo, in a container. That Python reads its program, in_airflow.py, from
# stdin, and marks its answers.
# shellcheck shell=sh

fail() {
    echo "$2" >&2
    exit "$1"
}

how_to_find="\`command -v airflow\`, run as Airflow's user, tells the path for --airflow"
[ ! -d "$0" ] || fail 126 "that is a folder; $how_to_find"
case $0 in
    */*) missing="no such script" ;;
    *) missing="not found, with PATH $PATH (cron's is short)" ;;
esac
script=$(command -v -- "$0") || fail 127 "$missing; $how_to_find"
[ -r "$script" ] || fail 126 "$script cannot be read by $(id -un)"
{
    IFS= read -r first
    IFS= read -r second
} <"$script"

# The first line names the Python, after `#!`, and maybe after `env`.
set -f # its words are no patterns
shebang=
case $first in
    '#!'*)
        for word in ${first#??}; do
            case ${word##*/} in
                python* | pypy*) shebang=${first#??} ;;
            esac
        done
        ;;
esac

# Where that path is long or holds a blank, sh is to start it from the second line, which
# pip and uv write as '''exec' <python> "$0" "$@", mamba and pixi with #''' behind it.
launcher=
case $second in
    "'''exec' "*)
        launcher=${second#* }
        # shellcheck disable=SC2016 # the words stand there as they are
        launcher=${launcher%%' "$0" "$@"'*}
        ;;
esac
[ -n "$shebang$launcher" ] || fail 126 "$script is no Python script (a wrapper, a shim?); \
name the script that it runs: --airflow takes that one"

# An empty entry in sys.path would import from the folder that cron happens to be in.
# Requests come after the program, so that stdin moves away from 0, where others look.
# What is sent is {"source": ..., "filename": ..., "mode": ...}, as compile() takes it.
bootstrap='import sys; sys.path[:] = [p for p in sys.path if p]; import json, os
sys.stdin = os.fdopen(os.dup(0))
exec(compile(**json.loads(
    sys.stdin.readline() or sys.exit("stdin is closed; docker exec needs -i"))))'

# airflowctl wraps and colours its answers.
unset FORCE_COLOR TTY_COMPATIBLE
export COLUMNS=100000 TERM=dumb
# This turns off Airflow's own masking of what it prints, which takes half of a run on
# Airflow 3. masking.py does it instead.
export AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET=1000000

if [ -n "$launcher" ]; then # code for sh: quotes, $(...)
    exec sh -c "exec $launcher -u -c \"\$1\" \"\$0\" \"\$2\"" "$script" "$bootstrap" "$1"
fi
# shellcheck disable=SC2086 # words, as the kernel takes them; nothing in them is evaluated
exec $shebang -u -c "$bootstrap" "$script" "$1"

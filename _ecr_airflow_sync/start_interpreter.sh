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

script=$(command -v -- "$0") || fail 127 "not found, with PATH $PATH; name the script, \
as in --airflow /opt/airflow/bin/airflow (cron's PATH is short)"
[ -r "$script" ] || fail 126 "$script cannot be read by $(id -un)"
{
    IFS= read -r first
    IFS= read -r second
} <"$script"

# The first line names the Python. Where its path is long or has a blank, pip and uv have
# sh start it from the second line: '''exec' <python> "$0" "$@"
case $first in
    '#!'*python* | '#!'*pypy*) python=${first#??} ;;
    *) python= ;;
esac
case $second in
    "'''exec' "*)
        python=${second#* }
        # shellcheck disable=SC2016 # the words stand there as they are
        python=${python%' "$0" "$@"'}
        ;;
esac
[ -n "$python" ] || fail 126 \
    "$script is no Python script (a wrapper, a shim?); name the one behind it with --airflow"

# An empty entry in sys.path would import from the folder that cron happens to be in.
# Requests come after the program, so that stdin moves away from 0, where others look.
bootstrap='import sys; sys.path[:] = [p for p in sys.path if p]; import json, os
sys.stdin = os.fdopen(os.dup(0))
exec(compile(**json.loads(
    sys.stdin.readline() or sys.exit("stdin is closed; docker exec needs -i"))))'

# airflowctl breaks and paints its answers.
unset FORCE_COLOR TTY_COMPATIBLE
export COLUMNS=100000 TERM=dumb
# To mask ten tokens, which we do too, takes Airflow 3 half of the run.
export AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET=1000000

# In that second line, $python may hold quotes and $(...), which sh is to read.
exec sh -c "exec $python -u -c \"\$1\" \"\$0\" \"\$2\"" "$script" "$bootstrap" "$1"

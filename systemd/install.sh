#!/bin/sh
# Puts ecr-airflow-sync on this host: its environment, its units, its default file.
#
#     install.sh install REGION=us-east-1 AIRFLOW=/opt/airflow/bin/airflow AIRFLOW_HOME=/srv/airflow
#     install.sh uninstall
#
# `make install` runs it in a clone; where pip installed the command, it is in
# share/ecr-airflow-sync. It asks nothing, and keeps a default file that was edited. Run again,
# it upgrades, and the three values may be left out. It takes as well:
#
#     AIRFLOW_USER=NAME   whom the service runs as: airflow
#     PREFIX=FOLDER       where a clone's environment goes: /opt/ecr-airflow-sync
#     PYTHON=PATH         what that is made with: python3
#     DESTDIR=FOLDER      stands for / in all that is written, and nothing is run: for packagers

set -eu
umask 022

EXAMPLE="REGION=us-east-1 AIRFLOW=/opt/airflow/bin/airflow AIRFLOW_HOME=/srv/airflow"
TIMERS="ecr-airflow-sync.timer docker-prune.timer"
SERVICES="ecr-airflow-sync.service docker-prune.service"

refuse() {
  echo "install.sh: $1" >&2
  exit 2
}

systemd_runs() {
  [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

default_was_edited() {
  [ -e "$default" ] && ! cmp -s "$default" "$as_written"
}

# A text as sed's s|…|…| takes it on the right.
escape() {
  printf '%s' "$1" | sed 's/[&|\\]/\\&/g'
}

check_values() {
  for name in REGION AIRFLOW AIRFLOW_HOME; do
    eval "value=\$$name"
    [ -n "$value" ] || refuse "$name= is missing: give $EXAMPLE"
    case $value in *"'"*) refuse "$name= has a quote in it" ;; esac
  done
  case $AIRFLOW_HOME in /*) ;; *) refuse "AIRFLOW_HOME=$AIRFLOW_HOME begins with no /" ;; esac
  [ -n "$DESTDIR" ] || id "$AIRFLOW_USER" >/dev/null 2>&1 ||
    refuse "there is no user $AIRFLOW_USER: give AIRFLOW_USER= the one that owns AIRFLOW_HOME"
}

make_environment() {
  if [ ! -e "$made_here" ] && [ ! -e "$prefix/bin/ecr-airflow-sync" ]; then
    [ -z "$(ls -A "$prefix" 2>/dev/null)" ] ||
      refuse "PREFIX=$prefix has other things in it: give a folder of its own"
  fi
  # It has none yet, or its Python went with an upgrade of this host.
  if ! "$prefix/bin/python" -c 'import pip' 2>/dev/null; then
    "$PYTHON" -c 'import sys
sys.exit(sys.version_info < (3, 8) or sys.base_prefix.startswith(("/home/", "/root/")))' ||
      refuse "$PYTHON is older than 3.8, or in a home directory, hidden from services: give PYTHON="
    "$PYTHON" -m venv --clear "$prefix" || {
      rm -rf "$prefix"
      exit 1
    }
    : >"$made_here"
  fi
  echo "Installing into $prefix"
  # From a copy: building leaves root's files beside the source.
  copy=$(mktemp -d)
  cp -RP "$clone"/* "$copy"
  rm -rf "$copy/build" "$copy"/*.egg-info
  "$prefix/bin/python" -m pip --quiet --no-input --disable-pip-version-check install "$copy"
  if [ -n "$DESTDIR" ]; then
    grep -rlIF "$prefix" "$prefix/bin" "$prefix/pyvenv.cfg" |
      xargs -r sed -i "s|$(escape "$prefix")|$(escape "$PREFIX")|g"
  fi
}

install_units() {
  mkdir -p "$units"
  for unit in $TIMERS $SERVICES; do
    sed "s|/opt/ecr-airflow-sync|$(escape "$PREFIX")|g" "$here/$unit" >"$units/$unit"
  done
}

write_default() {
  mkdir -p "${default%/*}"
  sed -e "s|/opt/ecr-airflow-sync|$(escape "$PREFIX")|g" \
    -e "s|^\(AIRFLOW_HOME\)=.*|\1='$(escape "$AIRFLOW_HOME")'|" \
    -e "s|^\(ECR_AIRFLOW_SYNC_AIRFLOW\)=.*|\1='$(escape "$AIRFLOW")'|" \
    -e "s|^\(ECR_AIRFLOW_SYNC_REGION\)=.*|\1='$(escape "$REGION")'|" \
    "$here/ecr-airflow-sync.default" >"$as_written"
  if [ ! -e "$default" ]; then
    install -m 0640 /dev/null "$default"
    # For cron; systemd reads it as root, so a host without that group will do.
    [ -n "$DESTDIR" ] || chgrp "$AIRFLOW_USER" "$default" 2>/dev/null || :
  fi
  cat "$as_written" >"$default"
}

# What the shipped unit cannot know. Other drop-ins come after it, and so win.
write_drop_in() {
  mkdir -p "${drop_in%/*}"
  {
    echo "# Written anew by each install. Changes go to: systemctl edit ecr-airflow-sync"
    echo "[Service]"
    echo "User=$AIRFLOW_USER"
    echo "ReadWritePaths=\"-$AIRFLOW_HOME\""
    case " $AIRFLOW_HOME $AIRFLOW" in
      *' /home/'* | *' /root/'*) echo "ProtectHome=read-only" ;;
    esac
  } >"$drop_in"
}

# A value in the default file. It is not for root to run what is in there.
read_default() {
  sed -n "s/^$1=['\"]\{0,1\}\([^'\"]*\).*/\1/p" "$default" | tail -n 1
}

# What was edited says where Airflow is. Its user was given, now or when this was installed.
take_edited_values() {
  AIRFLOW_HOME=$(read_default AIRFLOW_HOME)
  AIRFLOW=$(read_default ECR_AIRFLOW_SYNC_AIRFLOW)
  [ -n "$given_user" ] || AIRFLOW_USER=$(sed -n 's/^User=//p' "$drop_in")
}

# In the service's own sandbox, so that what it hides is missed here too.
dry_run() {
  {
    systemctl cat ecr-airflow-sync.service |
      sed -e 's|run/ecr-airflow-sync|&-dry-run|g' -e 's|^RuntimeDirectory=.*|&-dry-run|'
    echo "[Service]"
    # Forced, or it would not look at Airflow while --renew-before finds nothing due.
    echo "Environment=ECR_AIRFLOW_SYNC_DRY_RUN=1 ECR_AIRFLOW_SYNC_FORCE=1"
  } >"$trial"
  systemctl daemon-reload
  set -- --unit "${trial##*/}" --since "@$(date +%s)" --output cat --no-pager
  status=0
  if systemctl start "${trial##*/}" 2>/dev/null; then
    set -- "$@" --identifier ecr-airflow-sync
  else
    status=1
  fi
  journalctl --sync 2>/dev/null || :
  journalctl "$@"
  rm "$trial"
  systemctl daemon-reload
  return "$status"
}

install_it() {
  configure=
  if default_was_edited; then
    echo "Keeping $default as it is, for it was edited."
    if [ -e "$drop_in" ]; then
      take_edited_values
      [ -z "$AIRFLOW_HOME" ] || write_drop_in
    fi
  elif [ ! -e "$default" ] || [ -n "$given" ]; then
    check_values
    configure=yes
  fi
  if [ -n "$clone" ]; then
    make_environment
  fi
  install_units
  if [ -n "$configure" ]; then
    write_default
    write_drop_in
  fi
  if ! systemd_runs; then
    echo "Installed. Nothing was tried or started."
    return
  fi
  systemctl daemon-reload
  echo "A dry run, as the service:"
  if ! dry_run; then
    echo "Installed, but that failed: mend what it says, in $default, and run this again." >&2
    exit 1
  fi
  echo "Installed. Now:  sudo systemctl enable --now ecr-airflow-sync.timer"
}

uninstall_it() {
  if systemd_runs; then
    # shellcheck disable=SC2086
    systemctl --quiet disable --now $TIMERS $SERVICES 2>/dev/null || :
    # shellcheck disable=SC2086
    systemctl --quiet reset-failed $SERVICES 2>/dev/null || :
  fi
  for unit in $TIMERS $SERVICES; do
    rm -f "$units/$unit" "$DESTDIR/var/lib/systemd/timers/stamp-$unit"
  done
  rm -f "$drop_in"
  rmdir "${drop_in%/*}" 2>/dev/null || :
  default_was_edited || rm -f "$default"
  rm -f "$as_written"
  rm -rf "$DESTDIR"/var/lib/ecr-airflow-sync "$DESTDIR"/var/lib/private/ecr-airflow-sync
  [ ! -e "$made_here" ] || rm -rf "$prefix"
  if systemd_runs; then
    systemctl daemon-reload
  fi
  for path in "$prefix" "$default" "$units"/ecr-airflow-sync.* "$units"/docker-prune.* \
    "$DESTDIR"/etc/ecr-airflow-sync* "$DESTDIR/etc/sudoers.d/ecr-airflow-sync"; do
    [ ! -e "$path" ] || echo "Left $path, which you made or edited."
  done
}

what=${1:-}
for argument; do
  case $argument in
    REGION=* | AIRFLOW=* | AIRFLOW_HOME=* | AIRFLOW_USER=* | PREFIX=* | PYTHON=* | DESTDIR=*)
      export "${argument?}" ;;
    install | uninstall) ;;
    *) refuse "what is $argument? It takes $EXAMPLE" ;;
  esac
done
: "${REGION=}" "${AIRFLOW=}" "${AIRFLOW_HOME=}" "${AIRFLOW_USER=}" "${DESTDIR=}"
given=$REGION$AIRFLOW$AIRFLOW_HOME$AIRFLOW_USER
given_user=$AIRFLOW_USER
: "${AIRFLOW_USER:=airflow}" "${PREFIX:=/opt/ecr-airflow-sync}" "${PYTHON:=python3}"
[ "$(id -u)" = 0 ] || [ -n "$DESTDIR" ] || refuse "needs root: put sudo before it"
[ -z "$DESTDIR" ] || DESTDIR=$(mkdir -p "$DESTDIR" && cd "$DESTDIR" && pwd)

here=$(cd "$(dirname "$0")" && pwd)
clone=${here%/*}
if [ ! -e "$clone/setup.cfg" ]; then
  clone=
  PREFIX=${here%/share/ecr-airflow-sync}
fi
case $PREFIX in /*) ;; *) refuse "PREFIX=$PREFIX begins with no /" ;; esac
prefix=$DESTDIR$PREFIX
made_here=$prefix/made-by-install.sh
as_written=$prefix/share/ecr-airflow-sync/default.as-written
default=$DESTDIR/etc/default/ecr-airflow-sync
units=$DESTDIR/etc/systemd/system
drop_in=$units/ecr-airflow-sync.service.d/10-install.conf
trial=/run/systemd/system/ecr-airflow-sync-dry-run.service

copy=
trap 'rm -rf "$copy" "$trial"' EXIT
trap 'exit 1' HUP INT TERM
case $what in
  install) install_it ;;
  uninstall) uninstall_it ;;
  *) refuse "it takes install $EXAMPLE, or uninstall" ;;
esac

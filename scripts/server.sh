# shellcheck shell=bash
# Where `make up` keeps its server, and which process it is. Sourced by scripts/up and scripts/down.

export CLOISTER_STATE=${CLOISTER_STATE:-/var/lib/cloister}
export CLOISTER_RUN_DIR=${CLOISTER_RUN_DIR:-/run/cloister}
export CLOISTER_PROJECTS=${CLOISTER_PROJECTS:-$PWD/user_projects}
export CLOISTER_CGROUP=${CLOISTER_CGROUP:-cloister}

# shellcheck disable=SC2034 # for those who source this
{
  listen=${CLOISTER_LISTEN:-127.0.0.1:8000}
  program=$PWD/target/release/cloister
  folder=$PWD/target/up
  pid_file=$folder/serve.pid
  log=$folder/serve.log
}

# A start takes some 10 ms, and after a crash as long as reading what is left of the cells: 100 tries of 100 ms.
# shellcheck disable=SC2034 # for those who source this
readonly START_TRIES=100
# It promises to exit within 2 s of a SIGTERM: 50 tries of 100 ms.
readonly STOP_TRIES=50

# Prints the server's process id if it runs. A number alone isn't enough: after a reboot it is someone else's.
server_pid() {
  local pid exe
  pid=$(cat "$pid_file" 2>/dev/null) || return 0
  exe=$(readlink "/proc/$pid/exe" 2>/dev/null) || return 0
  [ "${exe% (deleted)}" = "$program" ] && echo "$pid"
  return 0
}

stop_server() {
  kill -TERM "$1" 2>/dev/null || return 0
  for ((tries = 0; tries < STOP_TRIES; tries++)); do
    [ -n "$(server_pid)" ] || break
    sleep 0.1
  done
  [ -z "$(server_pid)" ] || { echo "the server (process $1) does not end: see $log" >&2; return 1; }
  rm -f "$pid_file"
}

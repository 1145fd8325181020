# Keeps the servers of one control plane, and removes every trace of them.
#
# Standard input is a pipe from the process that uses the control plane. It carries commands, and
# its end, which comes however that process ends, is the order to clean up. $1 is the data
# directory: made here and not by the other side, so that there is no moment at which it exists
# and nobody would remove it.
data=$1
servers=

clean_up() {
  trap '' HUP INT TERM
  # Nothing of the data is wanted any more, so there is no reason to ask the servers politely.
  [ -z "$servers" ] || kill -KILL $servers 2>/dev/null
  wait
  # Another process of the test, say kubectl, may still be writing a file.
  attempts=0
  until rm -rf "$data" 2>/dev/null || [ "$attempts" -ge 50 ]; do
    attempts=$((attempts + 1))
    sleep 0.1
  done
}

reply() { printf '%s\n' "$*"; }

forget() {
  remaining=
  for server in $servers; do
    [ "$server" = "$1" ] || remaining="$remaining $server"
  done
  servers=$remaining
}

# `jobs` makes the shell take note of children that have ended.
is_running() { jobs >/dev/null 2>&1; kill -0 "$1" 2>/dev/null; }

# Only a directory that was made here may be removed.
if ! message=$(mkdir -m 700 "$data" 2>&1); then
  reply "failed $message"
  exit 1
fi
trap clean_up EXIT
# A signal means the end too. Handlers instead of '', because ignored signals would stay ignored in
# the servers. SIGPIPE comes when a reply finds nobody: then the end of input is near.
trap exit HUP INT TERM
trap : PIPE
reply done

while read -r command subject; do
  case $command in
    start)
      sh "$data/$subject.command" </dev/null >>"$data/$subject.log" 2>&1 &
      servers="$servers $!"
      reply "done $!"
      ;;
    kill)
      kill -KILL "$subject" 2>/dev/null
      wait "$subject" 2>/dev/null
      forget "$subject"
      reply done
      ;;
    pause) kill -STOP "$subject" && reply done || reply "failed no process $subject" ;;
    resume) kill -CONT "$subject" && reply done || reply "failed no process $subject" ;;
    check)
      if is_running "$subject"; then
        reply "done running"
      else
        forget "$subject"
        reply "done ended"
      fi
      ;;
  esac
done

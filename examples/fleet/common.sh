# Of `fleet`, `rolling-restart` and `prove`: what they know of a fleet's folder.
# Whoever sources it sets `folder`.
# shellcheck shell=bash disable=SC2154

# Whoever reads only the beginning of what is said ends nothing.
trap '' PIPE

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Shows the comment that a script begins with, and ends.
usage() {
  trap - PIPE
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
  exit 0
}

# Says a line, as long as somebody reads.
print() { echo "$*" 2>/dev/null || exec >/dev/null; }

say() { print "$(date +%H:%M:%S) $*"; }

# Asks again and again, for so many seconds, until a command succeeds: for what nobody tells of by itself.
poll() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < until)) || return 1
    sleep 0.1
  done
}

# The settings of a node, or of the fleet: NAME=VALUE in its file.
setting() { sed -n "s/^$2=//p" "$folder/$1.env"; }

is_running() {
  local pid
  pid=$(cat "$folder/$1.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null
}

# What a node answers to an agent check; nothing if nobody does.
agent() {
  local answer=
  # In a shell of its own: a connect that fails ends none.
  (exec 3<>"/dev/tcp/127.0.0.1/$(setting "$1" AGENT)" && IFS= read -r -t 2 answer <&3 && echo "$answer") 2>/dev/null || true
}

# Takes a pattern.
# shellcheck disable=SC2053
says() { [[ $(agent "$1") == $2 ]]; }

# What HAProxy thinks of a node: its status and its weight, as `UP 73`.
balance() {
  socat - "UNIX-CONNECT:$folder/haproxy.sock" <<<"show stat" 2>/dev/null |
    awk -F, -v node="$1" '
      NR == 1 { for (at = 1; at <= NF; at++) column[$at] = at }
      $1 == "nodes" && $2 == node { print $column["status"], $column["weight"] }'
}

is_in_balance() { [[ $(balance "$1") =~ ^UP.*\ [1-9] ]]; }

# A status is what it was as long as HAProxy does not answer.
is_out_of_balance() {
  local state
  state=$(balance "$1")
  [[ -n $state && ! $state =~ ^UP.*\ [1-9] ]]
}

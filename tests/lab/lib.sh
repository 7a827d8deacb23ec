# shellcheck shell=bash
# What the lab's commands share on the host: where it lives, who is in it, how its facts are kept.
# Sourced, not run. Everything hangs off LAB_ROOT, so nothing depends on where the checkout lies.
# shellcheck disable=SC2034  # used by those who source this

LAB_ROOT=${RAYSLURM_LAB:-/var/tmp/rayslurm-lab}
LAB_CACHE=${RAYSLURM_LAB_CACHE:-$LAB_ROOT}  # Ray and seff: kept between lives, and shared by labs side by side
LAB_RUN=$LAB_ROOT/run          # one life of the lab: wiped by every `up`, removed by `down`
LAB_ENV=$LAB_RUN/lab.env       # facts, KEY=value, for shells and for Python
LAB_CGROUP=rayslurm_lab_$(printf %s "$LAB_ROOT" | cksum | cut -d' ' -f1)  # the one thing that outlives the namespaces

# The machines and where they sit: two bridges, the site's ("hpc") and the world's ("ext").
LAB_SITE_NET=198.18.0
LAB_CLOUD_NET=198.18.1
declare -A LAB_ADDRESS=(
  [ctl]=$LAB_SITE_NET.10 [login]=$LAB_SITE_NET.20
  [c1]=$LAB_SITE_NET.101 [c2]=$LAB_SITE_NET.102 [c3]=$LAB_SITE_NET.103
  [l1]=$LAB_SITE_NET.111 [l2]=$LAB_SITE_NET.112
  [cloud]=$LAB_CLOUD_NET.10
)
LAB_NODES=(ctl login c1 c2 c3 l1 l2 cloud)

# The sites that login plays: on each of these addresses it answers with that site's commands.
declare -A LAB_PLAYED=(
  [roihu]=$LAB_SITE_NET.21 [lumi]=$LAB_SITE_NET.22 [mahti]=$LAB_SITE_NET.23 [puhti]=$LAB_SITE_NET.24
)

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# The facts of the running lab as variables; ends the script when there is none.
need_lab() {
  lab_is_up || die "the lab is not up: run tests/lab/up"
  # shellcheck disable=SC1090  # written by up
  . "$LAB_ENV"
}

# Up is: the process that holds the namespaces is alive, and it is ours and not a later owner of the same number.
lab_is_up() {
  local pid
  pid=$(fact LAB_PID) && [ -n "$pid" ] && grep -qzF "$LAB_RUN/inside/fabric" "/proc/$pid/cmdline" 2>/dev/null
}

# fact KEY: one value out of lab.env
fact() { sed -n "s/^$1=//p" "$LAB_ENV" 2>/dev/null; }

# set_fact KEY VALUE: nodes start side by side, so one writer at a time, and readers never see half a file
set_fact() {
  (
    flock 8
    { grep -v "^$1=" "$LAB_ENV" || true; printf '%s=%s\n' "$1" "$2"; } >"$LAB_ENV.new"
    mv "$LAB_ENV.new" "$LAB_ENV"
  ) 8>"$LAB_ENV.lock"
}

# pid_key c1 -> PID_C1
pid_key() { printf 'PID_%s' "${1^^}"; }

is_node() { [ -n "${1:-}" ] && [ -n "${LAB_ADDRESS[$1]:-}" ]; }

# pid_of NODE: the host's pid of the node's (or the fabric's) first process; fails when it is switched off
pid_of() {
  local pid
  if [ "$1" = fabric ]; then pid=$(fact LAB_PID); else is_node "$1" || die "no such node: $1"; pid=$(fact "$(pid_key "$1")"); fi
  [ -n "$pid" ] && [ -e "/proc/$pid/ns/net" ] && printf %s "$pid"
}

# What runs inside gets this and nothing of the caller's environment
LAB_CLEAN=(env --ignore-environment --chdir=/ HOME=/root LANG=C.UTF-8
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)

# inside PID cmd...: as root in all namespaces of a node
inside() {
  local pid=$1
  shift
  nsenter --target "$pid" --all -- "${LAB_CLEAN[@]}" TERM="${TERM:-dumb}" "$@"
}

# wait_for SECONDS cmd...: until cmd succeeds
wait_for() {
  local end=$(($(date +%s%N) + $1 * 1000000000))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s%N)" -lt "$end" ] || return 1
    sleep 0.05
  done
}

# only_child PID: the pid of its first child
only_child() {
  local children
  children=$(cat "/proc/$1/task/$1/children" 2>/dev/null) && [ -n "$children" ] && printf %s "${children%% *}"
}

# remove_cgroups [slurm_NODE]: the lab's control groups, or one node's. They are directories of the kernel's; deepest
# first, and again (wait_for) while the kernel still empties them
remove_cgroups() {
  local path left=0
  for path in /sys/fs/cgroup/*/"$LAB_CGROUP${1:+/$1}"; do
    [ -d "$path" ] || continue
    find "$path" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ ! -d "$path" ] || left=1
  done
  return $left
}

# shellcheck shell=bash
# Shared by the scripts beside it; source it, do not run it. Owns: the repository's path, messages, which binaries are
# used, root, and the one way in which a process of ours is recognised before it is signalled.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$(basename "$0")

say() { printf '%s\n' "$*"; }
note() { printf '%s: %s\n' "$program" "$*" >&2; }
die() { note "$*"; exit 1; }
usage_error() { note "$*; see $program --help"; exit 2; }

# The comment at the top of a script is its help.
print_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || die "root is needed for: $* (there is no sudo)"
  sudo "$@"
}

# cargo may be installed without being on the PATH of this shell.
find_cargo() {
  command -v cargo >/dev/null && return 0
  [ -x "$HOME/.cargo/bin/cargo" ] || return 1
  PATH="$HOME/.cargo/bin:$PATH"
}

has_binaries() { [ -x "$1/dfs-server" ] && [ -x "$1/dfs" ] && [ -x "$1/dfs-mount" ]; }

# Prints the directory with dfs-server, dfs and dfs-mount: $1 or $DFS_BIN_DIR if given, else the newer of target/release and
# target/debug; builds a release if there is neither.
binaries() {
  local given=${1:-${DFS_BIN_DIR:-}} target=${CARGO_TARGET_DIR:-$repo/target} dir best=
  if [ -n "$given" ]; then
    has_binaries "$given" || die "$given does not hold dfs-server, dfs and dfs-mount"
    (cd "$given" && pwd)
    return
  fi
  for dir in "$target/release" "$target/debug"; do
    has_binaries "$dir" || continue
    if [ -z "$best" ] || [ "$dir/dfs-server" -nt "$best/dfs-server" ]; then best=$dir; fi
  done
  if [ -z "$best" ]; then
    build_release >&2
    best=$target/release
  fi
  say "$best"
}

build_release() {
  find_cargo || die "cargo is missing: run scripts/install-deps"
  [ -x "${CARGO_TARGET_DIR:-$repo/target}/release/dfs-server" ] ||
    note "building a release: about five minutes the first time, with downloads; cargo says how far it is"
  (cd "$repo" && cargo build --release --bins -p dfs-server -p dfs-cli -p dfs-fuse)
}

# is_ours PID PROGRAM WORD: the process lives, runs PROGRAM and has WORD among its arguments. A pid file may be old and its
# number taken by a stranger: nothing is signalled without this.
is_ours() {
  local pid=$1 wanted=$2 word=$3 args=()
  [[ $pid =~ ^[0-9]+$ ]] && [ -r "/proc/$pid/cmdline" ] || return 1
  mapfile -d '' -t args <"/proc/$pid/cmdline" 2>/dev/null || return 1
  [ "${#args[@]}" -gt 0 ] && [ "$(basename -- "${args[0]}")" = "$wanted" ] || return 1
  local arg
  for arg in "${args[@]:1}"; do [ "$arg" = "$word" ] && return 0; done
  return 1
}

# has_ended PID: it is gone, or a zombie that nobody waited for. For a process just started by us, which may not run its program yet.
has_ended() { case $(ps -o stat= -p "$1" 2>/dev/null) in '' | Z*) return 0 ;; *) return 1 ;; esac }

# wait_until SECONDS COMMAND...: polls COMMAND until it succeeds; fails when the time is over.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

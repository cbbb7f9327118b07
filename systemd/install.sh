#!/bin/sh
# Installs below /usr/local what lies beside it, on a Linux with systemd and version 2 of cgroups; again for another version, newer or older.
#
#   ./install.sh                installs; starts nothing that didn't run, and what ran goes on as this version; cells don't notice
#   ./install.sh --uninstall    ends and removes it; projects, images, the configuration and the user stay
set -eu
cd "$(dirname "$0")"

to=/usr/local
# What is installed, so that an upgrade takes away what it no longer has.
list=$to/share/cloister/files

die() { echo "install.sh: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run this as root"
[ -d /run/systemd/system ] || die "systemd doesn't run here; without it, start ./files/bin/cloister serve as root"

uninstall() {
  [ -e "$list" ] || die "nothing is installed below $to"
  systemctl disable --now cloister.service cloister.socket cloister-launcher.service cloister-launcher.socket
  systemctl stop cloister-cells.service
  remove <"$list"
  rm "$list"
  rmdir "$to/share/cloister"
  systemctl daemon-reload
  echo "Removed. Kept: /etc/cloister, /var/lib/cloister"
}

# Removes the files named on standard input, and the folders that are ours and empty then.
remove() {
  while read -r file; do
    rm -f "$to/$file"
    folder=$(dirname "$file")
    case $folder in */cloister | */cloister/*) (cd "$to" && rmdir -p "$folder" 2>/dev/null) || true ;; esac
  done
}

install_files() {
  version=$(./files/bin/cloister --version 2>&1) ||
    die "this machine can't run it ($version): it is for $(cat built-for)"
  [ ! -e /usr/bin/cloister ] || die "/usr/bin/cloister is there: remove the package first (apt remove cloister), which keeps projects and images"
  new=$(mktemp)
  trap 'rm -f "$new"' EXIT
  (cd files && find . -type f | sed 's,^\./,,' | sort) >"$new"
  while read -r file; do
    mkdir -p "$to/$(dirname "$file")"
    # In one step: programs that run keep the file they were started from.
    cp "files/$file" "$to/$file.new"
    mv -f "$to/$file.new" "$to/$file"
  done <"$new"
  if [ -e "$list" ]; then comm -23 "$list" "$new" | remove; fi
  mkdir -p /etc/cloister
  [ -e /etc/cloister/config.toml ] || cp "$to/share/cloister/config.toml" /etc/cloister/
  cp "$new" "$list"
  "$to/share/cloister/setup"
  echo "Installed: $version"
  systemctl --quiet is-enabled cloister.service 2>/dev/null || echo "Start it now and with each boot: systemctl enable --now cloister"
}

case $# in
  0) install_files ;;
  1) [ "$1" = --uninstall ] || die "no option $1: --uninstall, or nothing to install"; uninstall ;;
  *) die "one option at most: --uninstall" ;;
esac

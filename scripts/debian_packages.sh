#!/bin/sh
# usage: debian_packages.sh "what they are for" PACKAGE...
#
# Installs the Debian or Ubuntu packages that are missing, where it may. Where it may not, it says in one sentence
# what to type, and fails. On a system without dpkg there is nothing to do.
set -eu

purpose=$1
shift
command -v dpkg-query >/dev/null || exit 0

missing=""
for package in "$@"; do
    case $(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null) in
        *" installed") ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "Packages for $purpose are missing: run 'sudo apt-get install$missing', then try again." >&2
    exit 1
fi
echo "Installing what $purpose needs:$missing"
apt-get update -qq
# shellcheck disable=SC2086  # one word for each package
DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $missing >/dev/null

#!/bin/sh
# Installs what the libvirt source and its tests need: libvirtd, QEMU and the Python binding in .venv.
#
# Usage: infra/stack/libvirt.sh [--require]
#
# Safe to repeat, and quick when everything is there. System packages are installed only as root on Debian or a
# derivative; no service is enabled or started. Where something can not be installed, one line says what is missing,
# and the libvirt tests will be skipped: exit status 0, or 1 with --require.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
python="$root/.venv/bin/python"
requirements="$root/requirements/libvirt.txt"
packages="qemu-system-x86 qemu-utils libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libvirt-dev gcc pkg-config"
attempts=20
pause_seconds=15

required=0
case "${1:-}" in
    '') ;;
    --require) required=1 ;;
    *) echo "usage: $0 [--require]" >&2; exit 2 ;;
esac

give_up() {
    echo "LIBVIRT TESTS WILL BE SKIPPED: $1; $2" >&2
    exit "$required"
}

is_debian() {
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null
}

missing_packages() {
    for package in $packages; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || printf '%s ' "$package"
    done
}

# apt's lock on the package lists knows no waiting, hence the retries; lists that are absent or stale are the other
# reason for a failure, hence the update before each of them.
install_packages() {
    log=$(mktemp)
    attempt=1
    while ! DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; do
        if [ "$attempt" -ge "$attempts" ] || { [ "$attempt" -ge 3 ] && ! grep -qi 'lock' "$log"; }; then
            tail -n 5 "$log" >&2
            rm -f "$log"
            return 1
        fi
        [ "$attempt" -eq 1 ] || sleep "$pause_seconds"
        attempt=$((attempt + 1))
        apt-get update --quiet >>"$log" 2>&1 || true
    done
    rm -f "$log"
}

has_binding() {
    wanted=$(sed -n 's/^libvirt-python==\([^ ;\\]*\).*/\1/p' "$requirements")
    "$python" -c "
import importlib.metadata, sys
import libvirt
sys.exit(importlib.metadata.version('libvirt-python') != '$wanted')" 2>/dev/null
}

# Without build isolation setuptools is the pinned one of .venv; with it, an unpinned one would be fetched.
build_binding() {
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --no-build-isolation --no-deps --require-hashes -r "$requirements"
    else
        "$root/.venv/bin/uv" pip install --quiet --python "$python" --no-build-isolation --no-deps --require-hashes \
            -r "$requirements"
    fi
}

if is_debian; then
    missing=$(missing_packages)
    missing=${missing% }
    if [ -n "$missing" ]; then
        if [ "$(id -u)" -ne 0 ]; then
            give_up "not installed: $missing" "run as root: apt-get install --no-install-recommends $missing"
        fi
        echo "installing $missing (once, about 100 MB)"
        # shellcheck disable=SC2086 # a list of words
        install_packages $missing || give_up "apt-get could not install $missing" "see the lines above"
    fi
else
    for program in libvirtd qemu-system-x86_64 gcc pkg-config; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null ||
            give_up "no $program" "install libvirtd, QEMU for x86, the libvirt headers, gcc and pkg-config"
    done
    pkg-config --exists libvirt || give_up "no libvirt headers" "install libvirt's development package"
fi

[ -x "$python" ] || give_up "no .venv" "run make setup first"
if ! has_binding; then
    echo "building the libvirt binding"
    build_binding || give_up "the libvirt binding could not be built" "see the lines above"
fi

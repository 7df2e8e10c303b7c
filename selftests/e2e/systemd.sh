#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The systemd unit, as `make install` puts it, is one that systemd understands whole: an unknown key
# or a wrong value is only a line in the journal there, and an error here.
. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"

unit=$CV_SELFTESTS/../deploy/systemd/culvertd.service
command -v systemd-analyze >/dev/null || skip_all "no systemd-analyze here (Debian package systemd)"
[ -e "$unit" ] || skip_all "the unit is not here (tests run outside of the source tree)"

# verify FILE: silent and 0
verify()
{
	said=$(systemd-analyze verify --man=no --recursive-errors=no "$1" 2>&1) && [ -z "$said" ] || {
		echo "$said"
		return 1
	}
}

plan 2
mkdir -p "$CV_TMP/prefix/sbin" "$CV_TMP/broken"
ln -s "$(readlink -f "$CULVERTD")" "$CV_TMP/prefix/sbin/culvertd"
sed "s|@PREFIX@|$CV_TMP/prefix|g" "$unit" >"$CV_TMP/culvertd.service"
sed 's/^KillMode=.*/KillMode=nonsense/' "$CV_TMP/culvertd.service" >"$CV_TMP/broken/culvertd.service"
check "systemd-analyze verify has nothing to say" verify "$CV_TMP/culvertd.service"
check_not "… and would say it" verify "$CV_TMP/broken/culvertd.service"

#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# deps.sh PACKAGE…: install those of the Debian packages that are missing. With all of them there it
# asks dpkg once and ends; the package index is fetched only when apt cannot do without.
set -eu

missing=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "$@" 2>/dev/null |
	sed -n 's/^ii //p' | sort -u |
	{ installed=$(cat); for p in "$@"; do
		printf '%s\n' "$installed" | grep -qxF -- "$p" || printf '%s ' "$p"
	done; })
[ -n "$missing" ] || exit 0

echo "installing: $missing"
export DEBIAN_FRONTEND=noninteractive
# The names are words on purpose.
# shellcheck disable=SC2086
set -- $missing
apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
	{ apt-get update && apt-get install -y --no-install-recommends "$@"; }

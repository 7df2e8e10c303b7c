#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Short connections without end: the rate of the last 10 of 60 seconds is that of the first 10, on the
# direct tier and across nodes. Ports and TIME_WAIT must not accumulate against us.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 4
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

# rate ADDRESS SECONDS: connections a second, each 100 bytes there and back; empty when one failed
rate()
{
	rate_end=$(($(date +%s%N) + $2 * 1000000000))
	rate_start=$(date +%s%N)
	rate_n=0
	while [ "$(date +%s%N)" -lt $rate_end ]; do
		call "$1" 7000 -m echo -n 100 -c 1000 -j 4 >"$CV_TMP/rate.log" || return
		rate_n=$((rate_n + 1000))
	done
	echo $((rate_n * 1000000000 / ($(date +%s%N) - rate_start)))
}

for path in "direct $NEAR4" "HBONE $FAR4"; do
	name=${path% *} address=${path#* }
	first=$(rate "$address" 10)
	rate "$address" 40 >/dev/null
	last=$(rate "$address" 10)
	comment "$name: $first a second at first, $last at last"
	check "$name: no connection failed" [ -n "$first" -a -n "$last" ]
	check "$name: the rate holds (half of it at least: machines are shared)" \
		[ "${last:-0}" -ge $((${first:-1} / 2)) ]
done

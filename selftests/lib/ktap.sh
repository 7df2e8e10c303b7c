# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# ktap.sh: what every shell test sources first: KTAP results, names of the run's own, clean-up.
#
#	. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
#	plan 2
#	a=$(netns_add a)
#	check "loopback answers" ip netns exec "$a" ping -c1 127.0.0.1
#	wait_for 10 test -S "$CV_TMP/a.sock" && ok "socket is there" || not_ok "socket is there"
#
# Run by selftests/run, a test gets CV_RUN, CV_TMP, CV_SELFTESTS, CV_TOOLS, CULVERTD and CULVERTCTL
# from the environment; started by hand it makes its own. Every name of a namespace, device, cgroup,
# pin or file holds CV_RUN, so that two runs on one machine do not meet. KEEP=1 leaves all of it up.
# A script that is no test (demo, bench) may source this for the names and the clean-up alone.

KTAP_SKIP=4

ktap_here=$(cd "$(dirname "$0")/.." && pwd)
: "${CV_SELFTESTS:=$ktap_here}"
: "${O:=$CV_SELFTESTS/../build}"
: "${CV_TOOLS:=$O/selftests/tools}"
: "${CULVERTD:=$O/culvertd}"
: "${CULVERTCTL:=$O/culvertctl}"
. "$CV_SELFTESTS/lib/runs.sh"
if [ -z "${CV_RUN:-}" ]; then
	CV_RUN=$(new_run)
	own_run "$CV_RUN"
	reap_runs
fi
if [ -z "${CV_TMP:-}" ]; then
	CV_TMP=$(mktemp -d "${TMPDIR:-/tmp}/cv-$CV_RUN-XXXXXX")
	ktap_own_tmp=$CV_TMP
fi
export CV_RUN CV_TMP CV_SELFTESTS CV_TOOLS CULVERTD CULVERTCTL

ktap_planned=
ktap_ran=0
ktap_failed=0
ktap_cleanups=
ktap_nr_cleanups=0

# plan N: say how many results follow; once, before the first.
plan()
{
	ktap_planned=$1
	echo "TAP version 13"
	echo "1..$1"
}

# comment TEXT…: a diagnostic; every line of it is marked as one.
comment()
{
	printf '%s\n' "$*" | sed 's/^/# /'
}

ok()
{
	ktap_ran=$((ktap_ran + 1))
	echo "ok $ktap_ran $1"
}

# not_ok NAME [DETAIL]
not_ok()
{
	ktap_ran=$((ktap_ran + 1))
	ktap_failed=$((ktap_failed + 1))
	[ -z "${2:-}" ] || comment "$2"
	echo "not ok $ktap_ran $1"
}

# skip NAME REASON
skip()
{
	ktap_ran=$((ktap_ran + 1))
	echo "ok $ktap_ran $1 # SKIP $2"
}

# skip_all REASON: end the test before its plan; nothing of it can run here.
skip_all()
{
	ktap_planned=0
	echo "TAP version 13"
	echo "1..0 # SKIP $1"
	exit $KTAP_SKIP
}

# check NAME COMMAND…: one result from a command's exit status; its output is shown if it failed.
check()
{
	ktap_name=$1
	shift
	if ktap_out=$("$@" 2>&1); then
		ok "$ktap_name"
	else
		not_ok "$ktap_name" "$* (status $?): $ktap_out"
	fi
}

# check_not NAME COMMAND…: the command has to fail.
check_not()
{
	ktap_name=$1
	shift
	if ktap_out=$("$@" 2>&1); then
		not_ok "$ktap_name" "$* succeeded: $ktap_out"
	else
		ok "$ktap_name"
	fi
}

# check_eq NAME WANT GOT
check_eq()
{
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		not_ok "$1" "want: $2
got:  $3"
	fi
}

# wait_for SECONDS COMMAND…: poll until the command succeeds; false after SECONDS, or TIMEOUT_FACTOR times as many.
wait_for()
{
	ktap_end=$(($(date +%s) + $1 * ${TIMEOUT_FACTOR:-1}))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s)" -lt "$ktap_end" ] || return 1
		sleep 0.05
	done
}

# cleanup COMMAND…: run it when the test ends, however it ends; last pushed, first run. A word of it
# must not contain a single quote.
cleanup()
{
	ktap_nr_cleanups=$((ktap_nr_cleanups + 1))
	ktap_words=
	for ktap_word; do
		ktap_words="$ktap_words '$ktap_word'"
	done
	ktap_cleanups="$ktap_words
$ktap_cleanups"
}

# The run's own name for a thing. device_name NAME: at most 15 characters, so NAME has 7.
run_name()
{
	echo "cv-$CV_RUN-$1"
}

device_name()
{
	echo "c$CV_RUN-$1" | cut -c1-15
}

# Prints the namespace's full name; made with loopback up, removed at the end (also when called in a
# command substitution: the namespaces are found by the run's name).
netns_add()
{
	ktap_ns=$(run_name "$1")
	ip netns add "$ktap_ns" && ip -n "$ktap_ns" link set lo up && echo "$ktap_ns"
}

# background COMMAND…: start it, with its output in $CV_TMP/NAME.log (NAME: the program's); $! is its
# pid. It is ended, and waited for, at the end.
background()
{
	"$@" >>"$CV_TMP/$(basename "$1").log" 2>&1 &
	cleanup stop "$!"
}

# stop PID: ask a child to end, insist after 5 seconds.
stop()
{
	kill "$1" 2>/dev/null || return 0
	wait_for 5 ktap_gone "$1" || kill -9 "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	return 0
}

ktap_gone()
{
	[ ! -d "/proc/$1" ] || awk '/^State:/ { dead = $2 == "Z" } /^Threads:/ { threads = $2 }
		END { exit !dead || threads > 1 }' "/proc/$1/status" 2>/dev/null
}

ktap_remove_netns()
{
	for ktap_ns in /run/netns/cv-"$CV_RUN"-*; do
		[ ! -e "$ktap_ns" ] || ip netns del "${ktap_ns##*/}"
	done
}

ktap_exit()
{
	ktap_status=$1
	# Nothing stops it half-way, the reader of its output that is gone included.
	trap '' INT TERM HUP QUIT PIPE
	if [ "${KEEP:-0}" = 1 ]; then
		keep_run "$CV_RUN"
		echo "# KEEP=1: left up: run $CV_RUN, files in $CV_TMP, ip netns list | grep $CV_RUN"
	else
		eval "$ktap_cleanups" 2>&1 | sed -u 's/^/# cleanup: /'
		ktap_remove_netns
		disown_run "$CV_RUN"
		[ -z "${ktap_own_tmp:-}" ] || rm -rf "$ktap_own_tmp"
	fi
	[ "$ktap_status" != $KTAP_SKIP ] || exit $KTAP_SKIP
	if [ "$ktap_ran" != "${ktap_planned:-0}" ]; then
		echo "# planned ${ktap_planned:-nothing}, gave $ktap_ran results, ended with $ktap_status"
		exit 1
	fi
	[ "$ktap_failed" = 0 ] || exit 1
	exit "$ktap_status"
}

trap 'ktap_exit $?' EXIT
trap 'exit 130' INT
trap 'exit 131' QUIT
trap 'exit 141' PIPE
trap 'exit 143' TERM HUP

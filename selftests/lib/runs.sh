# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# runs.sh: who a run belongs to, what is left of it, and what dead ones have left. Sourced by ktap.sh and run.
#
# A run is a test, the demo or the bench: six hexadecimal digits (CV_RUN) that every name of a namespace, pin,
# directory or cgroup holds. Whoever makes the number says so in /run/cv-NUMBER.owner ("PID START-TIME", or
# "kept" for what KEEP=1 leaves up). One whose owner is gone was killed before it could clean up: pins stay in
# the kernel, and programs on the root cgroup with them, so whoever starts next removes them.

RUNS_LOCK=/run/cv-runs.lock

new_run()
{
	od -An -N3 -tx1 /dev/urandom | tr -d ' \n'
}

# The start time of a process, which tells it from a later one of the same number; nothing if there is none.
start_time()
{
	sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

owner_file()
{
	echo "/run/cv-$1.owner"
}

# own_run RUN: it is this shell's; nothing where /run is not ours to write, as nothing is pinned then.
own_run()
{
	{ echo "$$ $(start_time $$)" >"$(owner_file "$1")"; } 2>/dev/null || :
}

keep_run()
{
	{ echo kept >"$(owner_file "$1")"; } 2>/dev/null || :
}

disown_run()
{
	rm -f "$(owner_file "$1")"
}

# run_lives RUN: its owner is there, or wanted it to stay; one without an owner has processes.
run_lives()
{
	if read -r run_pid run_start 2>/dev/null <"$(owner_file "$1")"; then
		[ "$run_pid" = kept ] || [ "$(start_time "$run_pid")" = "$run_start" ]
	else
		[ -n "$(run_processes "$1")" ]
	fi
}

# As directories of /proc
run_processes()
{
	grep -lzs "^CV_RUN=$1\$" /proc/[0-9]*/environ | sed 's|/environ$||'
}

places_named()
{
	find /run /run/netns /sys/fs/bpf /sys/fs/cgroup /sys/fs/cgroup/* -maxdepth 1 -name "$1" 2>/dev/null | sort -u
}

run_places()
{
	places_named "*$1*" | grep -v '\.owner$'
}

# Where its logs and state are; a cluster's are hundreds of megabytes.
run_directories()
{
	find "${TMPDIR:-/tmp}" -maxdepth 1 -name "cv-$1-*"
}

# leftovers RUN: what still has its name: processes, namespaces, pins, directories, one a line.
leftovers()
{
	run_processes "$1"
	run_places "$1"
}

# remove_leftovers RUN: until there are none; what is being removed may make more of them, so a few times.
remove_leftovers()
{
	for _ in 1 2 3 4 5; do
		run_left=$(leftovers "$1")
		[ -n "$run_left" ] || break
		for run_thing in $run_left; do
			remove_leftover "$run_thing"
		done >/dev/null 2>&1
	done
}

remove_leftover()
{
	case $1 in
	/proc/*) kill -9 "${1#/proc/}" ;;
	/run/netns/*) ip netns pids "${1##*/}" | xargs -r kill -9; ip netns del "${1##*/}" ;;
	/sys/fs/cgroup/*) find "$1" -depth -type d -exec rmdir {} + ;;
	*) rm -rf "$1" ;;
	esac
}

# reap_runs: removes what dead runs have left, one reaper at a time.
reap_runs()
{
	[ "$(id -u)" = 0 ] || return 0
	(flock -w 60 9; reap_dead_runs) 9>"$RUNS_LOCK"
}

# … and says so in diagnostics of KTAP. Each is looked at twice: it may be ending just now.
reap_dead_runs()
{
	for run_id in $(dead_runs); do
		sleep 1
		! run_lives "$run_id" || continue
		if [ -n "$(run_places "$run_id")" ]; then
			echo "# run $run_id was killed before it could clean up; what it left is removed:"
			leftovers "$run_id" | sed 's/^/#   /'
			remove_leftovers "$run_id"
		fi
		run_directories "$run_id" | xargs -r rm -rf --one-file-system
		disown_run "$run_id"
	done
}

dead_runs()
{
	places_named 'cv-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*' |
		sed -n 's|.*/cv-\([0-9a-f]\{6\}\)\([-.].*\)\{0,1\}$|\1|p' | sort -u | while read -r run_id; do
		run_lives "$run_id" || echo "$run_id"
	done
}

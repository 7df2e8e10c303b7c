#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A run that is ended half-way takes its lab down, whatever ends it and whoever has stopped listening to it; what a
# killed one leaves is removed by the next run, which touches nothing of a live one or of one that KEEP=1 left up.
# The runs at hand are this script's own, started with `lab`: one node, one enrolled pod, then nothing.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"

if [ "${1:-}" = lab ]; then
	# What the clean-up says before it takes the lab down: two lines, the first of which ends who hands them on
	# when nobody reads them.
	cleanup echo "the lab goes"
	cleanup sleep 0.5
	cleanup echo "the lab goes soon"
	lab_up node1 && pod_add node1 a 10.244.1.10 fd10:244:1::10 && daemon_start node1 &&
		wait_ready node1 && pod_enrol a && echo "up $CV_RUN $$"
	while sleep 0.1; do :; done
fi
if [ "${1:-}" = next ]; then
	exit
fi

plan 14

# another COMMAND…: a run of its own
another()
{
	env -u CV_RUN -u CV_TMP -u KEEP --default-signal=INT,QUIT,TERM,HUP,PIPE "$@"
}

# lab NAME [VAR=VALUE]: one in a group of processes of its own, with its output in $CV_TMP/NAME.out, and in $run and
# $pid who it is once it is up
lab()
{
	out=$CV_TMP/$1.out
	shift
	another setsid env "$@" "$0" lab >"$out" 2>&1 &
	is_up
}

is_up()
{
	wait_for 60 grep -q '^up ' "$out" || { comment "$(cat "$out")"; return 1; }
	run=$(sed -n 's/^up \(.*\) .*/\1/p' "$out")
	pid=$(sed -n 's/^up .* //p' "$out")
}

# ended SIGNAL [AGAIN]: the lab gets this, and another one while it cleans up, and takes everything with it
ended()
{
	kill -"$1" "$pid" || return
	if [ -n "${2:-}" ]; then
		wait_for 60 grep -q 'goes soon' "$out" && kill -"$2" "$pid" || return
	fi
	wait_for 60 ktap_gone "$pid" || { echo "it does not end"; return 1; }
	nothing_left
}

nothing_left()
{
	wait_for 20 is_clean || { echo "left: $left"; cat "$out"; return 1; }
}

is_clean()
{
	left=$(leftovers "$run"; run_directories "$run"; ls "$(owner_file "$run")" 2>/dev/null)
	[ -z "$left" ]
}

pinned()
{
	[ -n "$(find "/sys/fs/bpf/cv-$run-node1/pods" -mindepth 1 2>/dev/null)" ]
}

lab term && ok "a lab is up" || not_ok "a lab is up"
check "it has pins, that of a pod too" pinned
check "TERM: nothing is left" ended TERM
lab int
check "INT, and again while it cleans up: nothing is left" ended INT INT
lab hup
check "HUP, and again while it cleans up: nothing is left" ended HUP HUP

# The reader goes when it has seen the lab up; what the run says from then on meets a closed pipe.
mkfifo "$CV_TMP/pipe"
another setsid "$0" lab >"$CV_TMP/pipe" 2>&1 &
sed '/^up /q' <"$CV_TMP/pipe" >"$CV_TMP/reader.out"
out=$CV_TMP/reader.out
is_up
check "TERM, and nobody reads its output: nothing is left" ended TERM

lab live
live=$run live_pid=$pid
lab kept KEEP=1
kept=$run
kill -TERM "$pid"
wait_for 60 ktap_gone "$pid"

# killed: a lab is, while no other run may clean up behind it
lab killed
exec 9>"$RUNS_LOCK"
flock 9
kill -9 "$pid"
wait_for 60 ktap_gone "$pid"
check "KILL: its pins are still there" pinned
said=$(reap_dead_runs)
check "what dead runs have left is removed" nothing_left
check "… and said" [ "${said#*"# run $run was killed"}" != "$said" ]
exec 9>&-

lab killed
kill -9 "$pid"
wait_for 60 ktap_gone "$pid"
check "whoever starts next does that" another "$0" next
check "… and leaves nothing" nothing_left
run=$kept
check "a run that was to be kept is left alone" pinned
remove_leftovers "$kept"
disown_run "$kept"
run=$live pid=$live_pid
check "a run that lives is left alone" pinned
check "… and takes its own down" ended TERM

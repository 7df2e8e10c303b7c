# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# control_plane.sh: lib/xds_server.py driven by a script, what its pushes cost a client, and the CA beside it.
#
#	control_plane_start 15010 ip netns exec "$ns"
#	tell "mesh 50000 5000 1"
#	pushed address push        # … and answered; push_seconds says how long that took
#
# CONTROL_PLANE is the name of the one that is meant, where a script has several.

: "${CONTROL_PLANE:=server}"

# control_plane_start "OPTION… PORT" COMMAND…: the server, run through COMMAND (ip netns exec …); what it says
# is in control_plane_log. A server of before has to be gone.
control_plane_start()
{
	control_plane_words=$1
	shift
	: >"$(control_plane_log)"
	rm -f "$CV_TMP/$CONTROL_PLANE.commands"
	mkfifo "$CV_TMP/$CONTROL_PLANE.commands"
	# shellcheck disable=SC2086	# words
	"$@" /usr/bin/python3 "$CV_SELFTESTS/lib/xds_server.py" $control_plane_words \
		<"$CV_TMP/$CONTROL_PLANE.commands" >"$(control_plane_log)" 2>&1 &
	echo $! >"$CV_TMP/$CONTROL_PLANE.pid"
	cleanup stop $!
	# Without a writer the server would see the end of its commands.
	tail -f /dev/null >"$CV_TMP/$CONTROL_PLANE.commands" &
	cleanup stop $!
	wait_for 60 grep -q ready "$(control_plane_log)"
}

# control_plane_kill: at once, as a machine that fails
control_plane_kill()
{
	control_plane_pid=$(cat "$CV_TMP/$CONTROL_PLANE.pid")
	kill -9 "$control_plane_pid" 2>/dev/null
	wait "$control_plane_pid" 2>/dev/null
}

control_plane_log()
{
	echo "$CV_TMP/$CONTROL_PLANE.log"
}

control_plane_count()
{
	grep -c "$1" "$(control_plane_log)"
}

control_plane_has()
{
	[ "$(control_plane_count "$1")" -gt "$2" ]
}

# tell_soon COMMAND
tell_soon()
{
	echo "$1" >"$CV_TMP/$CONTROL_PLANE.commands"
}

# tell COMMAND: and wait until it has been carried out
tell()
{
	control_plane_before=$(control_plane_count '^done')
	tell_soon "$1"
	wait_for 300 control_plane_has '^done' "$control_plane_before"
}

# pushed TYPE COMMAND: … and until the client has answered the response that it makes
pushed()
{
	control_plane_answers=$(control_plane_count "^request $1 .* nonce=nonce")
	tell "$2" && wait_for 300 control_plane_has "^request $1 .* nonce=nonce" "$control_plane_answers"
}

# push_seconds TYPE: from handing the last response of this type to gRPC to its answer
push_seconds()
{
	awk -v type="$1" '
		function at(i) { for (i = 1; i <= NF; i++) if (sub(/^at=/, "", $i)) return $i }
		$1 == "sent" && $2 == type { from = at() }
		$1 == "request" && $2 == type { took = at() - from }
		END { printf "%.3f\n", took }' "$(control_plane_log)"
}

# istio_ca_start NODE PORT: interop/istio_ca.py in a node of the lab, with the lab's root
istio_ca_start()
{
	lab_exec='exec' node_exec "$1" /usr/bin/python3 "$CV_SELFTESTS/interop/istio_ca.py" "$LAB/ca" "$2" \
		>>"$LAB/ca.log" 2>&1 &
	echo $! >"$LAB/daemons/ca.pid"
	wait_for 60 grep -q ready "$LAB/ca.log"
}

#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Peers that do not behave: garbage on each port, certificates that must not pass, HTTP/2 floods, readers
# that stop. Each may hurt its own connection alone: while and after it, others are served, the daemon
# holds bounded memory and never restarts.

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"

plan 39
mesh_up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/node*.log)"
	exit 1
}

attack()
{
	pod_exec outside /usr/bin/python3 "$CV_SELFTESTS/e2e/hostile_client.py" "$@"
}

# issue NAME CA SPIFFE-URI [DAYS]: $CV_TMP/NAME.pem and NAME.key; CA: a directory like the development CA's
issue()
(
	cd "$CV_TMP" || exit
	openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
	openssl req -new -key "$1.key" -subj / -out "$1.csr"
	printf 'subjectAltName=critical,URI:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$3" >"$1.ext"
	openssl x509 -req -in "$1.csr" -CA "$2/root-cert.pem" -CAkey "$2/root-key.pem" -CAcreateserial \
		-days "${4:-1}" -extfile "$1.ext" -out "$1.pem"
) >>"$CV_TMP/openssl.log" 2>&1

cp -r "$LAB/ca" "$CV_TMP/ca"
mkdir "$CV_TMP/other"
openssl ecparam -name prime256v1 -genkey -noout -out "$CV_TMP/other/root-key.pem" 2>/dev/null
openssl req -x509 -new -key "$CV_TMP/other/root-key.pem" -subj /O=other -days 1 \
	-out "$CV_TMP/other/root-cert.pem" 2>/dev/null
issue good "$CV_TMP/ca" spiffe://cluster.local/ns/default/sa/client
issue foreign "$CV_TMP/ca" spiffe://elsewhere.example/ns/default/sa/client
issue expired "$CV_TMP/ca" spiffe://cluster.local/ns/default/sa/client -1
issue unknown "$CV_TMP/other" spiffe://cluster.local/ns/default/sa/client
good="$CV_TMP/good.pem $CV_TMP/good.key"

rss_kb()
{
	awk '/^VmRSS/ { print $2 }' "/proc/$(daemon_pid node1)/status"
}

# serves: a good client is, whatever went before
serves()
{
	served=$(attack handshake $NEAR4 15008 $good)
	[ "$served" = accepted ] || { echo "a good client: $served"; return 1; }
}

# refused ANSWER: the peer was, and the next one is served
refused()
{
	case $1 in
	refused* | closed) serves ;;
	*) return 1 ;;
	esac
}

# ended ANSWER: the connection was closed, and the next one is served
ended()
{
	[ "$1" = closed ] && serves
}

# were_cut NAME…: these floods, before all that they had to send was sent
were_cut()
{
	for flood; do
		grep '^closed after' "$CV_TMP/$flood.out" | grep -qvx 'closed after 1000000' ||
			{ echo "$flood: $(cat "$CV_TMP/$flood.out")"; return 1; }
	done
}

# --- certificates ---
check_eq "a good certificate is accepted" accepted "$(attack handshake $NEAR4 15008 $good)"
for name in foreign expired unknown; do
	out=$(attack handshake $NEAR4 15008 "$CV_TMP/$name.pem" "$CV_TMP/$name.key")
	check "a certificate that is $name is refused: $out" refused "$out"
done
out=$(attack handshake $NEAR4 15008)
check "no certificate is refused: $out" refused "$out"
out=$(attack tls12 $NEAR4 15008 $good)
check "TLS 1.2 is refused: $out" refused "$out"

# --- garbage on each port ---
for port in 15001 15006 15008; do
	check "garbage on $port ends" ended "$(attack garbage $NEAR4 $port)"
done
for port in 15000 15020 15021; do
	before=$(node_exec node1 curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:$port/nothing)
	node_exec node1 /usr/bin/python3 "$CV_SELFTESTS/e2e/hostile_client.py" garbage 127.0.0.1 $port >/dev/null
	check_eq "after garbage on $port it answers as before" "$before" \
		"$(node_exec node1 curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:$port/nothing)"
done
node_exec node1 /usr/bin/python3 - "$(node_run_dir node1)/control.sock" <<'END'
import os, socket, sys
for message in (os.urandom(1000), b"{", b'{"command": 7}', b'{"command": "nothing"}', b"[" * 60000):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(sys.argv[1])
    s.send(message)
END
check "after garbage on the control socket it answers" ctl node1 status
for port in 15001 15006 15008; do
	check_not "a pod that dials $port of another gets nothing through" \
		call $NEAR4 $port -m echo -n 10 -w 3000
done

# --- floods: each with a victim that must be served meanwhile ---
before_kb=$(rss_kb)
for name in huge_header continuation_flood rapid_reset settings_flood ping_flood bad_requests window_overflow ignored_window; do
	attack $name $NEAR4 15008 $good >"$CV_TMP/$name.out" 2>&1 &
	flood_pid=$!
	check "$name: others are served meanwhile" call $FAR4 7000 -m echo -n 10000 -w 30000
	wait $flood_pid
	check "$name: and afterwards" serves
	comment "$name: $(cat "$CV_TMP/$name.out")"
done
check "floods are cut" were_cut huge_header continuation_flood rapid_reset settings_flood ping_flood bad_requests \
	window_overflow
check "who ignores windows is cut before all 256 MB are sent" sh -c "
	cd $CV_TMP && grep -q '^closed after' ignored_window.out && ! grep -q 'after 16000' ignored_window.out"
out=$(call $FAR4 7000 -m stall -n 1000000000 -t 3000 -w 3000 -x ok,ETIMEDOUT -v)
comment "$out"
# What the kernel may hold on the way, by its own settings: send and receive buffer of the client's leg
# and of the application's; and ours: the stream's window, and as much again for what is being copied.
most=$(node_exec node1 sysctl -n net.ipv4.tcp_wmem net.ipv4.tcp_rmem | awk '
	{ sum += 2 * $3 } END { print sum + 8 * 1048576 }')
check "a reader that stops stops its sender ($most bytes at most)" sh -c \
	"[ \$(echo '$out' | sed -n 's/.*sent=\([0-9]*\).*/\1/p' | head -n 1) -le $most ]"
check "500 silent connections do not stop others" sh -c "
	nsenter --net=$(pod_netns outside) /usr/bin/python3 $CV_SELFTESTS/e2e/hostile_client.py half_open $NEAR4 15008 &&
	nsenter --net=$(pod_netns client) $CV_TOOLS/tcpcall -m echo -n 1000 $FAR4 7000"
check "an unfinished handshake ends" ended "$(attack slow_hello $NEAR4 15008)"
after_kb=$(rss_kb)
comment "resident memory: $before_kb kB before, $after_kb kB after"
check "memory is bounded: 32 MB more at most" [ "$after_kb" -le $((before_kb + 32768)) ]
check "both daemons are alive" kill -0 "$(daemon_pid node1)" "$(daemon_pid node2)"

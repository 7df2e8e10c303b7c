#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The DNS proxy of culvert in ztunnel's place and that of a real ztunnel, each asked the same
# questions by a pod of its own: code, authority, aliases and addresses are the same.
#
#	node1: mine, near, resolver (dns_peer.py)      node2: theirs
#	culvert                                        ztunnel
#
# Times to live are left aside (ztunnel caches), and so is the bit "recursion available" of errors,
# which ztunnel does not set. Not asked for: an answer of more than 512 bytes by UDP without EDNS,
# which ztunnel sends whole.
# timeout: 300

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"
. "$CV_SELFTESTS/lib/lab.sh"
. "$CV_SELFTESTS/lib/mesh.sh"
. "$CV_SELFTESTS/interop/ztunnel.sh"

missing=$(interop_missing)
[ -z "$missing" ] || skip_all "$missing"
RESOLVER4=10.244.1.53 RESOLVER6=fd10:244:1::53
peer="python3 $CV_SELFTESTS/e2e/dns_peer.py"

questions()
{
	cat <<-END
		echo
		echo.default
		echo.default.svc
		echo.default.svc.cluster.local
		echo.default.default.svc.cluster.local
		echo.other
		ECHO.Default
		AAAA echo
		four
		AAAA four
		headless
		AAAA headless
		headless.default.default.svc.cluster.local
		www.out.example
		AAAA www.out.example
		www.out.example.default.svc.cluster.local
		www.out.example.svc.cluster.local
		www.out.example.cluster.local
		a.wild.example
		a.b.wild.example
		wild.example
		a.wild.example.default.svc.cluster.local
		hidden.example
		both.example
		canonical.example
		v4only
		AAAA v4only
		+tcp broad.example
		plain.example
		AAAA plain.example
		TXT plain.example
		MX echo
		nobody.example
		refused.example
		+tcp plain.example
		+tcp big.example
	END
}

entries()
{
	cat <<-END
		- {name: out, namespace: default, hostname: www.out.example, vips: ["/10.96.9.1"], ports: {80: 80}}
		- {name: wild, namespace: default, hostname: "*.wild.example", vips: ["/10.96.9.2"], ports: {80: 80}}
		- {name: hidden, namespace: other, hostname: hidden.example, vips: ["/10.96.9.3"], ports: {80: 80}, visibility: Namespace}
		- {name: both, namespace: other, hostname: both.example, vips: ["/10.96.9.4"], ports: {80: 80}}
		- {name: both, namespace: default, hostname: both.example, vips: ["/10.96.9.5"], ports: {80: 80}}
		- {name: canonical, namespace: other, hostname: canonical.example, vips: ["/10.96.9.6"], ports: {80: 80}}
		- {name: canonical, namespace: third, hostname: canonical.example, vips: ["/10.96.9.7"], ports: {80: 80}, canonical: true}
		- {name: v4only, namespace: default, hostname: v4only.default.svc.cluster.local, vips: ["/10.96.9.8", "/fd96::98"], ports: {80: 80}, ipFamilies: IPv4}
		- {name: broad, namespace: default, hostname: broad.example, vips: [$(seq -s, -f '"/10.97.0.%g"' 1 100)], ports: {80: 80}}
	END
}

# with_resolv_conf NAME PROGRAM VARIABLE…: a script that runs it with our resolv.conf
with_resolv_conf()
{
	printf 'nameserver %s\noptions timeout:2\n' $RESOLVER4 >"$CV_TMP/resolv.conf"
	cat >"$CV_TMP/$1" <<-END
		#!/bin/sh
		export ISTIO_META_DNS_CAPTURE=true
		exec unshare -m sh -c 'mount --bind "$CV_TMP/resolv.conf" /etc/resolv.conf && exec "$2" "\$@"' - "\$@"
	END
	chmod +x "$CV_TMP/$1"
}

up()
{
	lab_up node1 node2 &&
		pod_add node1 mine $CLIENT4 $CLIENT6 &&
		pod_add node1 near $NEAR4 $NEAR6 &&
		pod_add node1 near2 10.244.1.21 fd10:244:1::21 &&
		pod_add node1 resolver $RESOLVER4 $RESOLVER6 absent=1 &&
		pod_add node2 theirs $FAR4 $FAR6 &&
		service_add echo $ECHO_VIP4 $ECHO_VIP6 80 7000 near &&
		service_add four $NEAR_VIP4 - 80 7000 near &&
		service_add headless - - 80 7000 near near2 &&
		mesh_file && entries >"$LAB/entries" &&
		sed -i "/^services:\$/r $LAB/entries" "$LAB/mesh.yaml" || return
	with_resolv_conf mine "$CULVERTD"
	with_resolv_conf theirs "$ZTUNNEL"
	CULVERTD=$CV_TMP/mine ZTUNNEL=$CV_TMP/theirs
	pod_start resolver $peer serve $RESOLVER4
	wait_for 30 grep -q ready "$LAB/resolver.log" &&
		agent_up node1 && inpod_start node1 node1 && wait_ready node1 && inpod_enrol mine &&
		peer_up node2 && peer_start node2 &&
		wait_ready node2 && peer_enrol theirs &&
		pod_exec mine nft -f "$CV_SELFTESTS/lib/redirect_dns.nft" &&
		pod_exec theirs nft -f "$CV_SELFTESTS/lib/redirect_dns.nft"
}

# ask POD QUESTION…: what dig shows, without what is left aside
ask()
{
	ask_pod=$1
	shift
	# The question is several words on purpose.
	# shellcheck disable=SC2048,SC2086
	pod_exec "$ask_pod" dig +tries=1 +timeout=10 +nocookie @$RESOLVER4 $* | awk '
		/^;; ->>HEADER/ { status = $6; print "status", status }
		/^;; flags:/ {
			flags = $0
			sub(/^;; flags: */, "", flags)
			sub(/;.*/, "", flags)
			if (status != "NOERROR,")
				sub(/ ra/, "", flags)
			print "flags", flags
		}
		/^[^;]/ { $2 = "-"; print tolower($0) }' | sort
}

same()
{
	ask mine "$@" >"$CV_TMP/mine.out" && ask theirs "$@" >"$CV_TMP/theirs.out" &&
		diff -u "$CV_TMP/theirs.out" "$CV_TMP/mine.out"
}

plan "$(questions | wc -l)"
up >"$CV_TMP/up.log" 2>&1 || {
	comment "$(tail -n 40 "$CV_TMP/up.log" "$LAB"/*.log)"
	exit 1
}
questions >"$CV_TMP/questions"
while read -r question; do
	# shellcheck disable=SC2086
	check "$question" same $question </dev/null
done <"$CV_TMP/questions"

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why a program left early. One table: the enum, the names that bpftool and
 * culvertctl print, the help text and the metric label all come from it.
 *
 * CV_REASONS(X) calls X(SYMBOL, name, action, meaning):
 *   SYMBOL   CV_REASON_SYMBOL, index into the per-CPU array cv_reasons
 *   name     lower case, what users see
 *   action   pass | proxy | refuse | drop: what became of the packet or connection
 *   meaning  one line for a person at 3 a.m.
 * Append only: the numbers are part of the ABI.
 */
#pragma once

#ifndef __bpf__
#include <linux/types.h>
#endif

#define CV_REASONS(X)                                                                             \
	X(NONE, none, pass, "no reason was recorded")                                             \
	X(NOT_TCP, not_tcp, pass, "not TCP: culvert judges TCP alone")                            \
	X(NOT_ENROLLED, not_enrolled, pass, "socket of a network namespace that is not enrolled") \
	X(LOOPBACK, loopback, pass, "loopback address, or the pod to its own address")            \
	X(DAEMON_SOCKET, daemon_socket, pass, "a socket of the daemon itself")                    \
	X(OLDER, older, pass, "connection is older than the pod's enrolment")                     \
	X(DIRECT, direct, pass, "attested pod to pod on this node, allowed by policy")            \
	X(PROBE, probe, pass, "node process outside the pods' cgroups to a local pod")            \
	X(NO_PAYLOAD, no_payload, pass, "stray segment without payload and without a socket")     \
	X(CAPTURED, captured, proxy, "sent to the daemon's outbound listener")                    \
	X(INBOUND, inbound, proxy, "sent to the daemon's plaintext inbound listener")             \
	X(HBONE, hbone, proxy, "sent to the daemon's HBONE listener")                             \
	X(LEG_ANSWER, leg_answer, proxy, "application's answer on a source-preserving leg")       \
	X(NOT_LOCAL, not_local, proxy, "destination is not a pod of this node")                   \
	X(NO_VERDICT, no_verdict, proxy, "no compiled verdict for this pair of pods")             \
	X(POLICY, policy, proxy, "policy denies: the daemon refuses it")                          \
	X(WAYPOINT, waypoint, proxy, "destination has a waypoint")                                \
	X(NEEDS_DAEMON, needs_daemon, proxy, "a rule that the kernel cannot answer")              \
	X(SAME_NODE_TLS, same_node_tls, proxy, "sameNode asks for tls")                           \
	X(REMOTE_ENDPOINT, remote_endpoint, proxy, "connect() chose an endpoint of another node") \
	X(ATTESTED_FULL, attested_full, proxy, "no room to attest the connection")                \
	X(STORAGE_FULL, storage_full, proxy, "no memory for socket storage")                      \
	X(NO_LISTENER, no_listener, refuse, "the daemon does not listen: refused at the source")  \
	X(VERDICT_CHANGED, verdict_changed, refuse, "the verdict changed while it connected")     \
	X(FORGED_SOURCE, forged_source, drop, "TCP source address is not the pod's")              \
	X(MALFORMED, malformed, drop, "headers that cannot be parsed up to TCP")                  \
	X(FRAGMENT, fragment, drop, "TCP fragment without the TCP header")                        \
	X(NO_SOCKET, no_socket, drop, "payload that belongs to no socket of the pod")             \
	X(STALE_TUPLE, stale_tuple, drop, "attested tuple with another initial sequence number")  \
	X(DAEMON_TUPLE, daemon_tuple, drop, "SYN from the wire on a tuple of the daemon's own")   \
	X(FORWARDED, forwarded, drop, "forwarded traffic: not a socket of the pod")               \
	X(QDISC_BYPASS, qdisc_bypass, refuse, "PACKET_QDISC_BYPASS would skip the TC programs")   \
	X(AF_XDP, af_xdp, refuse, "AF_XDP rings would skip the TC programs")                      \
	X(TUPLE_STOLEN, tuple_stolen, pass,                                                       \
	  "another netns connects on an attested tuple: removed")                                 \
	X(FLOWS_FULL, flows_full, pass, "no room for a flow record: the flow is not reported")    \
	X(EVENTS_FULL, events_full, pass, "ring buffer full: the daemon finds the record later")  \
	X(NOT_SYN, not_syn, pass, "inbound segment that opens no connection")                     \
	X(NOT_ATTESTED, not_attested, pass, "inbound SYN on a tuple that nobody attested")        \
	X(ACCEPTED, accepted, pass, "answer on a connection that the pod accepted")               \
	X(SOCKOPT, sockopt, pass, "socket option that culvert does not judge")                    \
	X(REDIRECTED, redirected, proxy, "segment that TC brought back to the daemon")            \
	X(SOURCE_ROUTED, source_routed, drop, "header names another destination than its socket") \
	X(REWRITTEN, rewritten, pass, "getpeername() answers with the service's address")         \
	X(NOT_REWRITTEN, not_rewritten, pass, "getpeername() of an address that was left alone")  \
	X(DNS, dns, proxy, "DNS query, sent to the daemon's resolver")                            \
	X(DNS_UNSERVED, dns_unserved, pass, "DNS query by UDP that the daemon does not serve")

enum cv_reason {
#define CV_REASON_ENUM(sym, name, action, text) CV_REASON_##sym,
	CV_REASONS(CV_REASON_ENUM)
#undef CV_REASON_ENUM
		CV_REASON_NR,
};

/* cv_reasons: one counter a reason, each under its name, in the order of enum cv_reason. */
struct cv_reasons_entry {
#define CV_REASON_COUNTER(sym, name, action, text) __u64 name;
	CV_REASONS(CV_REASON_COUNTER)
#undef CV_REASON_COUNTER
};

_Static_assert(sizeof(struct cv_reasons_entry) == CV_REASON_NR * sizeof(__u64),
	       "a reason without a counter");

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Names, numbers and capacities that both sides of the kernel boundary share.
 *
 * Every object that culvert pins lives below one bpffs directory (CULVERT_BPFFS,
 * default /sys/fs/bpf/culvert). The file `abi` in that directory carries
 * CV_ABI_VERSION; a daemon that finds another version builds aside and swaps.
 * Anything that changes a struct of maps/types.h changes CV_ABI_VERSION.
 */
#pragma once

enum cv_abi {
	CV_ABI_VERSION = 2,
};

/* Capacities of the maps, in entries. A full map is counted (maps/reasons.h)
 * and sends the connection to the daemon; it never passes one unchecked. */
enum cv_capacity {
	CV_MAX_PODS = 512, /* enrolled pods of one node; kubelet's own ceiling is 250 */
	CV_MAX_WORKLOADS = 2048, /* addresses of enrolled pods (several a pod) */
	CV_MAX_SERVICES = 65536, /* (VIP, port) pairs that the kernel may resolve */
	CV_MAX_ENDPOINTS = 262144, /* endpoint slots of all services together */
	CV_MAX_SERVICE_SLOTS = 1024, /* endpoint slots of one service port */
	CV_MAX_VERDICTS = 262144, /* (source, destination, port) triples */
	CV_MAX_ATTESTED = 262144, /* live connections of all pods */
	CV_MAX_ATTESTED_POD = 32768, /* live connections of one pod */
	CV_MAX_FLOWS = 262144, /* flow records, live and closed but unread */
	CV_EVENTS_BYTES = 1 << 16, /* ring buffer; mapped twice into the daemon */
};

/* Slots of one pod in cv_listeners; index = pod * CV_LISTENER_NR + slot. */
enum cv_listener {
	CV_LISTENER_OUTBOUND, /* 15001: captured outbound TCP */
	CV_LISTENER_INBOUND, /* 15006: captured inbound plaintext TCP */
	CV_LISTENER_HBONE, /* 15008: inbound HBONE */
	CV_LISTENER_NR,
};

/* Slots of one pod in cv_dns: the daemon's DNS sockets, one a protocol and family; index = pod *
 * CV_DNS_NR + slot. */
enum cv_dns_slot {
	CV_DNS_UDP4,
	CV_DNS_UDP6,
	CV_DNS_TCP4,
	CV_DNS_TCP6,
	CV_DNS_NR,
};

/* Ports of Istio's in-pod contract, host byte order. */
enum cv_port {
	CV_PORT_OUTBOUND = 15001,
	CV_PORT_INBOUND = 15006,
	CV_PORT_HBONE = 15008,
	CV_PORT_DNS_PROXY = 15053,
	CV_PORT_DNS = 53,
};

/* The routing mark: one bit, added to whatever the application set, by connect() on the fast path
 * and by pod_egress on what it brings back. Inside the pod and for each family that it has,
 *
 *     ip rule fwmark BIT/BIT lookup TABLE priority PRIORITY
 *     ip route local default dev lo table TABLE src <an address of the pod>
 *
 * make any destination local. `src` is what a socket without a bound source gets; IPv6 needs it
 * as much as IPv4. net.ipv4.conf.lo.accept_local=1 is needed by what pod_egress brings back
 * alone: it has lost its route, and IPv4 suspects its own source address. */
#define CV_FASTPATH_MARK 0x20000000u
#define CV_ROUTE_TABLE	 15001
/* Priority of culvert's `ip rule` entries, before the kernel's main table rule (32766). */
#define CV_RULE_PRIORITY 15001

/* SO_MARK of every socket that the daemon opens in a pod. It is there for Istio's own
 * iptables rules only; no program of culvert trusts it. */
#define CV_ISTIO_MARK 0x539u

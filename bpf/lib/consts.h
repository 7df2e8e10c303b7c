/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Constants of the kernel's user-space headers that its BTF does not carry.
 */
#pragma once

enum {
	AF_INET = 2,
	AF_INET6 = 10,
	SOL_SOCKET = 1,
	SO_MARK = 36,
	SOL_PACKET = 263,
	SOL_XDP = 283,
	PACKET_QDISC_BYPASS = 20,
	XDP_RX_RING = 2,
	XDP_TX_RING = 3,
	ECONNREFUSED = 111,
	LOOPBACK_IFINDEX = 1,
};

enum eth_type {
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86DD,
	ETH_P_8021Q = 0x8100,
	ETH_P_8021AD = 0x88A8,
};

enum {
	ETH_ALEN_BYTES = 6,
	ETH_HLEN_BYTES = 14,
	VLAN_HLEN_BYTES = 4,
};

/* IPv6 extension headers. */
enum {
	IPPROTO_HOPOPTS = 0,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_DSTOPTS = 60,
};

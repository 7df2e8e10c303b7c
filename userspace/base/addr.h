/* SPDX-License-Identifier: Apache-2.0 */
/* IP addresses as everywhere in culvert: 16 bytes, IPv4 v4-mapped (maps/types.h), so that a
 * v4-mapped peer and its IPv4 address are the same value. Ports here are in host order. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "maps/types.h"

/* An address and a port in host byte order. */
struct cv_sockaddr {
	struct cv_addr ip;
	uint16_t port;
};

/* Longest texts, with NUL: "[ffff:…]:65535". */
enum { CV_ADDR_TEXT = 46, CV_SOCKADDR_TEXT = 56 };

/* A prefix; len counts bits in the family's own length (0-32 or 0-128). */
struct cv_cidr {
	struct cv_addr ip;
	uint8_t len;
};

bool cv_addr_is_v4(const struct cv_addr *a);
bool cv_addr_is_zero(const struct cv_addr *a); /* all 16 bytes zero: "none" */
bool cv_addr_is_loopback(const struct cv_addr *a);
bool cv_addr_is_unspecified(const struct cv_addr *a); /* 0.0.0.0 or :: */
bool cv_addr_eq(const struct cv_addr *a, const struct cv_addr *b);
int cv_addr_cmp(const struct cv_addr *a, const struct cv_addr *b);
bool cv_sockaddr_eq(const struct cv_sockaddr *a, const struct cv_sockaddr *b);

struct cv_addr cv_addr_from_bytes(const uint8_t *bytes, size_t len); /* len 4 or 16, else zero */
struct cv_addr cv_addr_v4(uint32_t host_order);
/* Parse an address (no brackets); -EINVAL. */
int cv_addr_parse(const char *text, struct cv_addr *ret);
/* Parse "ip:port" or "[ip]:port"; -EINVAL. */
int cv_sockaddr_parse(const char *text, struct cv_sockaddr *ret);
/* Parse "ip/len" or "ip" (full length); -EINVAL. Host bits need not be zero. */
int cv_cidr_parse(const char *text, struct cv_cidr *ret);
/* IPv4 and IPv6 never match each other. */
bool cv_cidr_contains(const struct cv_cidr *c, const struct cv_addr *a);

/* Text into buf (CV_ADDR_TEXT / CV_SOCKADDR_TEXT); returns buf. IPv6 with brackets when a port follows. */
const char *cv_addr_text(const struct cv_addr *a, char *buf);
const char *cv_sockaddr_text(const struct cv_sockaddr *a, char *buf);
const char *cv_cidr_text(const struct cv_cidr *c, char *buf); /* buf CV_SOCKADDR_TEXT */

/* To and from the kernel. to_native makes AF_INET for IPv4 and AF_INET6 otherwise. */
socklen_t cv_sockaddr_to_native(const struct cv_sockaddr *a, struct sockaddr_storage *ret);
/* As to_native, but always AF_INET6 (v4-mapped), for dual-stack sockets. */
socklen_t cv_sockaddr_to_native6(const struct cv_sockaddr *a, struct sockaddr_storage *ret);
int cv_sockaddr_from_native(const struct sockaddr *sa, struct cv_sockaddr *ret); /* -EAFNOSUPPORT */
uint64_t cv_addr_hash(const struct cv_addr *a);

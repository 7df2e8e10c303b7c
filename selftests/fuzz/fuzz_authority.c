/* SPDX-License-Identifier: Apache-2.0 */
/* Authorities, addresses and prefixes from bytes: what is accepted can be printed and read again as
 * the same. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "userspace/base/addr.h"
#include "userspace/base/cleanup.h"
#include "userspace/proto/hbone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_authority(const char *value, size_t len)
{
	struct cv_authority a, again;
	char addr[CV_SOCKADDR_TEXT], text[512];

	if (cv_authority_parse(value, len, &a))
		return;
	assert(a.is_addr == !a.host);
	if (a.is_addr)
		snprintf(text, sizeof(text), "%s", cv_sockaddr_text(&a.addr, addr));
	else
		snprintf(text, sizeof(text), "%.400s:%u", a.host, a.port);
	if (a.is_addr || strlen(a.host) <= 400) {
		assert(!cv_authority_parse(text, strlen(text), &again));
		assert(a.is_addr == again.is_addr && a.port == again.port && a.host == again.host);
		assert(!a.is_addr || cv_sockaddr_eq(&a.addr, &again.addr));
		cv_authority_fini(&again);
	}
	cv_authority_fini(&a);
}

static void check_texts(const char *text)
{
	char buf[CV_SOCKADDR_TEXT];
	struct cv_sockaddr s, s2;
	struct cv_cidr c, c2;
	struct cv_addr a, a2;

	if (!cv_addr_parse(text, &a)) {
		assert(!cv_addr_parse(cv_addr_text(&a, buf), &a2) && cv_addr_eq(&a, &a2));
	}
	if (!cv_sockaddr_parse(text, &s)) {
		assert(!cv_sockaddr_parse(cv_sockaddr_text(&s, buf), &s2));
		assert(cv_sockaddr_eq(&s, &s2));
	}
	if (!cv_cidr_parse(text, &c)) {
		assert(cv_cidr_contains(&c, &c.ip));
		assert(!cv_cidr_parse(cv_cidr_text(&c, buf), &c2));
		assert(c.len == c2.len && cv_addr_eq(&c.ip, &c2.ip));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_free_ char *text = malloc(len + 1);

	if (!text)
		return 0;
	if (len)
		memcpy(text, data, len);
	text[len] = '\0';
	check_authority((const char *)data, len);
	check_texts(text);
	assert(!cv_str_count());
	return 0;
}

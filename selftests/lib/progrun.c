// SPDX-License-Identifier: Apache-2.0
/*
 * One pod's worth of map entries around programs that only BPF_PROG_RUN runs; see progrun.h.
 */
#include "selftests/lib/progrun.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "culvert.skel.h"
#include "userspace/base/cleanup.h"

enum { NETNS_COOKIE = 77, MAX_CPUS = 1024 };

static struct culvert_bpf *skel;
static int listeners[CV_LISTENER_NR] = { -1, -1, -1 };
static int dns[CV_DNS_NR] = { -1, -1, -1, -1 };

static void update(const struct bpf_map *map, const void *key, const void *value)
{
	if (!value)
		bpf_map_delete_elem(bpf_map__fd(map), key);
	else if (bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY))
		perror(bpf_map__name(map));
}

struct cv_addr progrun_ip(const char *text)
{
	struct cv_addr a;

	if (cv_addr_parse(text, &a) < 0)
		abort();
	return a;
}

int progrun_clear(void **state)
{
	static const struct cv_reasons_entry zeroes[MAX_CPUS];
	const uint32_t zero = 0;

	(void)state;
	update(skel->maps.cv_reasons, &zero, zeroes);
	return 0;
}

uint64_t progrun_count(enum cv_reason reason)
{
	static uint64_t counters[MAX_CPUS][CV_REASON_NR];
	const uint32_t zero = 0;
	uint64_t sum = 0;

	if (bpf_map_lookup_elem(bpf_map__fd(skel->maps.cv_reasons), &zero, counters))
		perror("cv_reasons");
	for (int cpu = 0; cpu < libbpf_num_possible_cpus(); cpu++)
		sum += counters[cpu][reason];
	return sum;
}

int progrun_fd(enum progrun_prog prog)
{
	const struct bpf_program *const progs[] = {
		[PROGRUN_EGRESS] = skel->progs.pod_egress,
		[PROGRUN_INGRESS] = skel->progs.pod_ingress,
		[PROGRUN_LOOKUP] = skel->progs.pod_lookup,
	};

	return bpf_program__fd(progs[prog]);
}

void progrun_capture(bool on)
{
	const struct cv_pod pod = { .pod = PROGRUN_POD, .flags = on ? CV_POD_CAPTURE : 0 };
	const uint64_t cookie = NETNS_COOKIE;

	update(skel->maps.cv_pods, &cookie, &pod);
}

void progrun_listen(enum cv_listener slot, bool up)
{
	const uint32_t key = PROGRUN_POD * CV_LISTENER_NR + slot;
	const uint64_t fd = (uint64_t)listeners[slot];

	update(skel->maps.cv_listeners, &key, up ? &fd : NULL);
}

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len);
	return cookie;
}

uint64_t progrun_listener_cookie(enum cv_listener slot)
{
	return cookie_of(listeners[slot]);
}

uint64_t progrun_dns_cookie(enum cv_dns_slot slot)
{
	return cookie_of(dns[slot]);
}

/* On a loopback address, of one family, as the daemon's. */
static int make_dns(enum cv_dns_slot slot)
{
	const struct sockaddr_in v4 = { .sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
	bool tcp = slot == CV_DNS_TCP4 || slot == CV_DNS_TCP6;
	bool four = slot == CV_DNS_TCP4 || slot == CV_DNS_UDP4;
	_cleanup_close_ int fd = socket(four ? AF_INET : AF_INET6,
					(tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);

	if (fd < 0 || (four ? bind(fd, (const struct sockaddr *)&v4, sizeof(v4)) :
			      bind(fd, (const struct sockaddr *)&v6, sizeof(v6))))
		return -1;
	return tcp && listen(fd, 1) ? -1 : cv_take_fd(fd);
}

void progrun_dns(enum cv_dns_slot slot, bool up)
{
	const uint32_t key = PROGRUN_POD * CV_DNS_NR + slot;
	uint64_t fd;

	cv_close(&dns[slot]);
	if (up)
		dns[slot] = make_dns(slot);
	fd = (uint64_t)dns[slot];
	/* A closed socket has left its slot by itself. */
	if (up)
		update(skel->maps.cv_dns, &key, &fd);
}

void progrun_attest(const struct cv_tuple *t, const struct cv_attested_entry *e)
{
	update(skel->maps.cv_attested, t, e);
}

void progrun_verdict(const struct cv_verdict_key *key, const struct cv_verdict_entry *entry)
{
	update(skel->maps.cv_verdicts, key, entry);
}

static int make_listener(void)
{
	const struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	_cleanup_close_ int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof(any)) || listen(fd, 1))
		return -1;
	return cv_take_fd(fd);
}

int progrun_up(void **state)
{
	static const char *const own[] = { "10.88.0.1", "fd88::1" };
	const struct cv_workload_entry workload = { .pod = PROGRUN_POD };

	(void)state;
	skel = culvert_bpf__open_and_load();
	if (!skel || libbpf_num_possible_cpus() > MAX_CPUS)
		return -1;
	skel->data_pod->pod_data.pod = PROGRUN_POD;
	skel->data_pod->pod_data.netns_cookie = NETNS_COOKIE;
	progrun_capture(true);
	for (size_t i = 0; i < CV_ARRAY_SIZE(own); i++) {
		const struct cv_addr ip = progrun_ip(own[i]);

		update(skel->maps.cv_workloads, &ip, &workload);
	}
	for (int slot = 0; slot < CV_LISTENER_NR; slot++) {
		listeners[slot] = make_listener();
		if (listeners[slot] < 0)
			return -1;
		progrun_listen((enum cv_listener)slot, true);
	}
	return 0;
}

int progrun_down(void **state)
{
	(void)state;
	for (int slot = 0; slot < CV_LISTENER_NR; slot++)
		cv_close(&listeners[slot]);
	for (int slot = 0; slot < CV_DNS_NR; slot++)
		cv_close(&dns[slot]);
	culvert_bpf__destroy(skel);
	return 0;
}

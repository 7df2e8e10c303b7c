// SPDX-License-Identifier: Apache-2.0
/*
 * A node with pods, made of network namespaces and veth pairs; see podlab.h.
 */
#include "selftests/lib/podlab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <mntent.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"
#include "userspace/io/sock.h"

static const char *const names[LAB_NR] = { "a", "b", "c", "node", "w" };

/* $1 is the run, the namespaces are cv-$1-NAME; every veth's other end is in the node. */
static const char topology[] =
	"ns() { ip netns add cv-$1-$2; ip -n cv-$1-$2 link set lo up; }\n"
	"wire() { # NAME IPV4 IPV6\n"
	"	ns $1 $2\n"
	"	ip netns exec cv-$1-$2 sysctl -qw net.ipv6.conf.default.accept_dad=0\n"
	"	ip link add eth0 netns cv-$1-$2 type veth peer name v-$2 netns cv-$1-node\n"
	"	ip -n cv-$1-$2 addr add $3/32 dev eth0\n"
	"	ip -n cv-$1-$2 addr add $4/128 dev eth0 nodad\n"
	"	ip -n cv-$1-$2 link set eth0 up\n"
	"	ip -n cv-$1-node addr add 169.254.1.1/32 dev v-$2\n"
	"	ip -n cv-$1-node addr add fe80::1/64 dev v-$2 nodad\n"
	"	ip -n cv-$1-node link set v-$2 up\n"
	"	ip -n cv-$1-$2 route add default via 169.254.1.1 dev eth0 onlink\n"
	"	ip -n cv-$1-$2 route add default via fe80::1 dev eth0\n"
	"	ip -n cv-$1-node route add $3/32 dev v-$2\n"
	"	ip -n cv-$1-node route add $4/128 dev v-$2\n"
	"}\n"
	"ns $1 node\n"
	"ip netns exec cv-$1-node sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \\\n"
	"	net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.default.accept_dad=0 \\\n"
	"	net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.forwarding=1\n"
	"ip -n cv-$1-node addr add 10.88.0.100/32 dev lo\n"
	"ip -n cv-$1-node addr add fd88::100/128 dev lo\n"
	"wire $1 a 10.88.0.1 fd88::1\n"
	"wire $1 b 10.88.0.2 fd88::2\n"
	"wire $1 c 10.88.0.3 fd88::3\n"
	"wire $1 w 10.99.0.1 fd99::1\n";

static const char *const addresses[LAB_NR][2] = {
	{ "10.88.0.1", "fd88::1" },	{ "10.88.0.2", "fd88::2" }, { "10.88.0.3", "fd88::3" },
	{ "10.88.0.100", "fd88::100" }, { "10.99.0.1", "fd99::1" },
};

static const uint16_t listener_ports[CV_LISTENER_NR] = {
	[CV_LISTENER_OUTBOUND] = CV_PORT_OUTBOUND,
	[CV_LISTENER_INBOUND] = CV_PORT_INBOUND,
	[CV_LISTENER_HBONE] = CV_PORT_HBONE,
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fputs("# lab: ", stderr);
	vfprintf(stderr, format, ap);
	fputs("\n", stderr);
	va_end(ap);
	exit(1);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static const char *run_id(void)
{
	static char own[16];

	if (getenv("CV_RUN"))
		return getenv("CV_RUN");
	if (!own[0])
		snprintf(own, sizeof(own), "p%d", (int)getpid());
	return own;
}

static int sh(const char *script, const char *arg)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execl("/bin/sh", "sh", "-ec", script, "sh", arg, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void enter(const struct lab_host *h)
{
	if (cv_netns_enter(h ? &h->ns : NULL) < 0)
		die("cannot enter %s: %m", h ? h->netns_name : "own namespace");
}

int lab_sh(const struct lab_host *h, const char *script)
{
	int status;

	enter(h);
	status = sh(script, run_id());
	enter(NULL);
	return status;
}

static void find_cgroup2(char *ret, size_t size)
{
	FILE *f = setmntent("/proc/self/mounts", "r");
	struct mntent *m;

	ret[0] = '\0';
	while (f && (m = getmntent(f))) {
		if (!strcmp(m->mnt_type, "cgroup2")) {
			snprintf(ret, size, "%s", m->mnt_dir);
			break;
		}
	}
	if (f)
		endmntent(f);
	if (!ret[0])
		die("no cgroup2 is mounted");
}

static void join_cgroup(const char *dir)
{
	char path[160];
	FILE *f;

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	f = fopen(path, "w");
	if (!f || fprintf(f, "%d", (int)getpid()) < 0 || fclose(f))
		die("%s: %m", path);
}

static void make_cgroup(struct lab *lab)
{
	char root[64];
	struct stat st;

	find_cgroup2(root, sizeof(root));
	snprintf(lab->cgroup, sizeof(lab->cgroup), "%s/cv-%s", root, run_id());
	if (mkdir(lab->cgroup, 0755) || stat(lab->cgroup, &st))
		die("%s: %m", lab->cgroup);
	lab->cgroup_id = st.st_ino;
	join_cgroup(lab->cgroup);
}

static void open_host(struct lab *lab, enum lab_who who)
{
	struct lab_host *h = &lab->host[who];
	char path[80];
	int fd;

	snprintf(h->netns_name, sizeof(h->netns_name), "cv-%s-%s", run_id(), names[who]);
	snprintf(path, sizeof(path), "/run/netns/%s", h->netns_name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || cv_netns_init(&h->ns, fd) < 0)
		die("%s: %m", path);
	for (int i = 0; i < 2; i++) {
		if (cv_addr_parse(addresses[who][i], &h->ip[i]) < 0)
			die("%s", addresses[who][i]);
	}
	for (int i = 0; i < CV_LISTENER_NR; i++)
		h->listeners[i] = -1;
	h->app = lab_listener(h, LAB_PORT);
	if (h->app < 0)
		die("application of %s: %s", names[who], strerror(-h->app));
}

void lab_capture(struct lab *lab, enum lab_who who, bool on)
{
	const struct lab_host *h = &lab->host[who];
	struct cv_pod pod = { .pod = h->pod,
			      .flags = on ? CV_POD_CAPTURE : 0,
			      .netns_cookie = h->ns.cookie };

	snprintf(pod.name, sizeof(pod.name), "lab/%s", names[who]);
	if (cv_table_pod_set(lab->bpf, h->ns.cookie, &pod) < 0)
		die("cv_pods: %m");
}

void lab_enrol(struct lab *lab, enum lab_who who)
{
	struct lab_host *h = &lab->host[who];
	const struct cv_workload_entry workload = { .pod = (uint32_t)who + 1 };
	uint32_t ifindex;
	struct cv_bpf_pod p;
	int r;

	h->pod = workload.pod;
	lab_capture(lab, who, false);
	for (int i = 0; i < 2; i++) {
		if (cv_table_workload_set(lab->bpf, &h->ip[i], &workload) < 0)
			die("cv_workloads: %m");
	}
	enter(h);
	ifindex = if_nametoindex("eth0");
	enter(NULL);
	p = (struct cv_bpf_pod){
		.pod = h->pod, .netns_fd = h->ns.fd, .ifindexes = &ifindex, .nr_ifindexes = 1
	};
	r = cv_bpf_pod_route(lab->bpf, &p, h->ip, 2);
	if (r >= 0)
		r = cv_bpf_pod_attach(lab->bpf, &p);
	if (r < 0)
		die("%s: attach: %s", names[who], strerror(-r));
	for (int slot = 0; slot < CV_LISTENER_NR; slot++)
		lab_listen(lab, who, (enum cv_listener)slot);
	lab_capture(lab, who, true);
}

void lab_up(struct lab *lab)
{
	struct cv_bpf_opts opts = { .bpffs_dir = lab->bpffs, .cgroup_dir = lab->cgroup };
	int r;

	memset(lab, 0, sizeof(*lab));
	if (geteuid() != 0)
		die("needs root");
	if (sh(topology, run_id()))
		die("cannot make the topology");
	make_cgroup(lab);
	for (int who = 0; who < LAB_NR; who++)
		open_host(lab, (enum lab_who)who);
	snprintf(lab->bpffs, sizeof(lab->bpffs), "/sys/fs/bpf/cv-%s", run_id());
	r = cv_bpf_open(&lab->bpf, &opts);
	if (r < 0)
		die("cv_bpf_open: %s", strerror(-r));
	for (int who = 0; who < LAB_PODS; who++)
		lab_enrol(lab, (enum lab_who)who);
	lab_reset(lab);
}

void lab_down(struct lab *lab)
{
	char root[64];

	enter(NULL);
	for (int who = 0; who < LAB_NR; who++) {
		struct lab_host *h = &lab->host[who];

		cv_close(&h->app);
		for (int slot = 0; slot < CV_LISTENER_NR; slot++)
			cv_close(&h->listeners[slot]);
		if (h->pod)
			cv_bpf_pod_detach(lab->bpf, h->pod);
		cv_netns_fini(&h->ns);
	}
	cv_bpf_close(&lab->bpf);
	if (cv_bpf_unload(lab->bpffs) < 0)
		fprintf(stderr, "# lab: %s is not removed\n", lab->bpffs);
	find_cgroup2(root, sizeof(root));
	join_cgroup(root);
	sh("find $1 -depth -type d -exec rmdir {} +", lab->cgroup);
	sh("for n in /run/netns/cv-$1-*; do ip netns del ${n##*/}; done", run_id());
}

void lab_control(struct lab *lab, uint32_t flags, bool host_is_pods)
{
	struct cv_control_entry control = { .generation = 1, .flags = flags };

	control.host_netns_cookie = lab->host[LAB_NODE].ns.cookie;
	control.pods_cgroup = host_is_pods ? lab->cgroup_id : 0;
	control.pods_cgroup_level = 1;
	if (cv_table_control_set(lab->bpf, &control) < 0)
		die("cv_control: %m");
}

void lab_verdict(struct lab *lab, enum lab_who src, enum lab_who dst, enum cv_answer answer)
{
	struct cv_verdict_key key = { .src_pod = lab->host[src].pod,
				      .dst_pod = lab->host[dst].pod };
	struct cv_verdict_entry entry = { .answer = answer, .generation = 1 };

	if (answer == CV_ANSWER_ALLOW)
		entry.tier = CV_TIER_DIRECT;
	if (answer == CV_ANSWER_NONE)
		cv_table_verdict_del(lab->bpf, &key);
	else if (cv_table_verdict_set(lab->bpf, &key, &entry) < 0)
		die("cv_verdicts: %m");
}

void lab_listen(struct lab *lab, enum lab_who who, enum cv_listener slot)
{
	struct lab_host *h = &lab->host[who];

	if (h->listeners[slot] >= 0)
		return;
	h->listeners[slot] = lab_listener(h, listener_ports[slot]);
	if (h->listeners[slot] < 0 ||
	    cv_table_listener_set(lab->bpf, h->pod, slot, h->listeners[slot]) < 0)
		die("listener of %s: %m", h->netns_name);
}

void lab_unlisten(struct lab *lab, enum lab_who who, enum cv_listener slot)
{
	cv_close(&lab->host[who].listeners[slot]);
}

void lab_reset(struct lab *lab)
{
	lab_control(lab, CV_CONTROL_FASTPATH, false);
	for (int src = 0; src < LAB_PODS; src++) {
		lab_capture(lab, (enum lab_who)src, true);
		for (int slot = 0; slot < CV_LISTENER_NR; slot++)
			lab_listen(lab, (enum lab_who)src, (enum cv_listener)slot);
		for (int dst = 0; dst < LAB_PODS; dst++)
			lab_verdict(lab, (enum lab_who)src, (enum lab_who)dst, CV_ANSWER_NONE);
	}
	for (int who = 0; who < LAB_NR; who++) {
		int fd;

		while (lab_accept(&lab->host[who], 0, &fd) != LAB_NOBODY)
			close(fd);
	}
	lab_mark(lab);
}

void lab_mark(struct lab *lab)
{
	if (cv_table_reasons_get(lab->bpf, lab->reasons) < 0)
		die("cv_reasons: %m");
}

uint64_t lab_count(struct lab *lab, enum cv_reason reason)
{
	uint64_t now[CV_REASON_NR];

	if (cv_table_reasons_get(lab->bpf, now) < 0)
		die("cv_reasons: %m");
	return now[reason] - lab->reasons[reason];
}

bool lab_counts(struct lab *lab, enum cv_reason reason)
{
	int64_t end = now_ms() + LAB_WAIT_MS;

	while (!lab_count(lab, reason)) {
		if (now_ms() > end)
			return false;
		usleep(2000);
	}
	return true;
}

int lab_socket(const struct lab_host *h, int family, int type)
{
	int fd;

	enter(h);
	fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fd = -errno;
	enter(NULL);
	return fd;
}

int lab_listener(const struct lab_host *h, uint16_t port)
{
	struct cv_listen_opts opts = { .ns = &h->ns, .addr.port = port, .reuseaddr = true };
	int fd;

	opts.transparent = port != LAB_PORT;
	fd = cv_sock_listen(&opts);
	enter(NULL);
	return fd;
}

static socklen_t native(int fd, const struct cv_addr *ip, uint16_t port,
			struct sockaddr_storage *ret)
{
	const struct cv_sockaddr sa = { .ip = *ip, .port = port };
	socklen_t len = sizeof(int);
	int family = AF_INET;

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len);
	return family == AF_INET6 ? cv_sockaddr_to_native6(&sa, ret) :
				    cv_sockaddr_to_native(&sa, ret);
}

int lab_bind(int fd, const struct cv_addr *ip, uint16_t port)
{
	struct sockaddr_storage sa;
	socklen_t len = native(fd, ip, port, &sa);

	return bind(fd, (struct sockaddr *)&sa, len) ? -errno : 0;
}

int lab_connect_start(int fd, const struct cv_addr *ip, uint16_t port)
{
	struct sockaddr_storage sa;
	socklen_t len = native(fd, ip, port, &sa);

	return connect(fd, (struct sockaddr *)&sa, len) ? -errno : 0;
}

int lab_connect_end(int fd, int wait_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int err = 0;

	if (poll(&p, 1, wait_ms) <= 0)
		return -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len))
		return -errno;
	return -err;
}

int lab_connect(const struct lab_host *h, const struct cv_addr *ip, uint16_t port)
{
	_cleanup_close_ int fd = lab_socket(h, cv_addr_is_v4(ip) ? AF_INET : AF_INET6, SOCK_STREAM);
	int r;

	if (fd < 0)
		return fd;
	r = lab_connect_start(fd, ip, port);
	if (r == -EINPROGRESS)
		r = lab_connect_end(fd, LAB_WAIT_MS);
	return r < 0 ? r : cv_take_fd(fd);
}

enum lab_got lab_accept(const struct lab_host *h, int wait_ms, int *ret_fd)
{
	struct pollfd p[CV_LISTENER_NR + 1];

	for (int i = 0; i < CV_LISTENER_NR; i++)
		p[i] = (struct pollfd){ .fd = h->listeners[i], .events = POLLIN };
	p[LAB_APP] = (struct pollfd){ .fd = h->app, .events = POLLIN };
	if (poll(p, CV_LISTENER_NR + 1, wait_ms) <= 0)
		return LAB_NOBODY;
	for (int i = 0; i <= CV_LISTENER_NR; i++) {
		if (!(p[i].revents & POLLIN))
			continue;
		*ret_fd = accept4(p[i].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		return *ret_fd < 0 ? LAB_NOBODY : (enum lab_got)i;
	}
	return LAB_NOBODY;
}

int lab_read(int fd, int wait_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buf[4096];
	ssize_t n;

	if (poll(&p, 1, wait_ms) <= 0)
		return -ETIMEDOUT;
	n = read(fd, buf, sizeof(buf));
	return n < 0 ? -errno : (int)n;
}

bool lab_says(int from, int to, const char *text)
{
	struct pollfd p = { .fd = to, .events = POLLIN };
	size_t len = strlen(text);
	char buf[256] = "";
	size_t got = 0;

	if (send(from, text, len, MSG_NOSIGNAL) != (ssize_t)len)
		return false;
	while (got < len && poll(&p, 1, LAB_WAIT_MS) > 0) {
		ssize_t n = read(to, buf + got, sizeof(buf) - got);

		if (n <= 0)
			return false;
		got += (size_t)n;
	}
	return got == len && !memcmp(buf, text, len);
}

bool lab_talks(int x, int y)
{
	return lab_says(x, y, "there") && lab_says(y, x, "and back");
}

int lab_tcp_state(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ? -errno : info.tcpi_state;
}

struct cv_sockaddr lab_local(int fd)
{
	struct cv_sockaddr sa = {};

	cv_sock_local(fd, &sa);
	return sa;
}

struct cv_sockaddr lab_peer(int fd)
{
	struct cv_sockaddr sa = {};

	cv_sock_peer(fd, &sa);
	return sa;
}

bool lab_is(struct cv_sockaddr got, const struct cv_addr *ip, uint16_t port)
{
	return cv_addr_eq(&got.ip, ip) && got.port == port;
}

struct cv_tuple lab_make_tuple(const struct cv_addr *src, uint16_t sport, const struct cv_addr *dst,
			       uint16_t dport)
{
	return (struct cv_tuple){
		.src = *src, .dst = *dst, .sport = htons(sport), .dport = htons(dport)
	};
}

struct cv_tuple lab_tuple(int fd)
{
	const struct cv_sockaddr local = lab_local(fd), peer = lab_peer(fd);

	return (struct cv_tuple){ .src = local.ip,
				  .dst = peer.ip,
				  .sport = htons(local.port),
				  .dport = htons(peer.port) };
}

static int packet_socket(const struct lab_host *h, uint16_t proto, struct sockaddr_ll *ret)
{
	int fd = lab_socket(h, AF_PACKET, SOCK_RAW);

	*ret = (struct sockaddr_ll){ .sll_family = AF_PACKET, .sll_protocol = htons(proto) };
	enter(h);
	ret->sll_ifindex = (int)if_nametoindex("eth0");
	enter(NULL);
	return fd;
}

int lab_tap(const struct lab_host *h)
{
	struct sockaddr_ll sll;
	int fd = packet_socket(h, ETH_P_ALL, &sll);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&sll, sizeof(sll))) {
		close(fd);
		return -errno;
	}
	return fd;
}

/* Is it TCP, or hidden enough to be it, from this source? Behind any VLAN tag. */
static bool is_from(const uint8_t *frame, size_t len, const struct cv_addr *src)
{
	bool v4 = cv_addr_is_v4(src);
	const uint8_t *ip = frame + ETH_HLEN + (frame[12] == 0x81 ? 4 : 0);
	uint16_t type = htons(v4 ? ETH_P_IP : ETH_P_IPV6);

	if (ip + 40 > frame + len || memcmp(ip - 2, &type, sizeof(type)))
		return false;
	if (v4)
		return ip[9] == IPPROTO_TCP && !memcmp(ip + 12, src->b + 12, 4);
	return ip[6] != IPPROTO_ICMPV6 && !memcmp(ip + 8, src->b, 16);
}

int lab_tap_count(int tap, const struct cv_addr *src)
{
	uint8_t frame[2048];
	ssize_t n;
	int count = 0;

	while ((n = recv(tap, frame, sizeof(frame), MSG_DONTWAIT)) > 0)
		count += is_from(frame, (size_t)n, src);
	return count;
}

/* Is it a segment of the tuple's responder to its initiator? */
static bool is_answer(const uint8_t *frame, size_t len, const struct cv_tuple *t)
{
	const uint8_t *ip = frame + ETH_HLEN;
	const uint8_t *tcp = ip + (cv_addr_is_v4(&t->dst) ? (ip[0] & 0xf) * 4 : 40);

	return is_from(frame, len, &t->dst) && tcp + 4 <= frame + len &&
	       !memcmp(tcp, &t->dport, sizeof(t->dport)) &&
	       !memcmp(tcp + 2, &t->sport, sizeof(t->sport));
}

int lab_tap_answers(int tap, const struct cv_tuple *tuple)
{
	uint8_t frame[2048];
	ssize_t n;
	int count = 0;

	while ((n = recv(tap, frame, sizeof(frame), MSG_DONTWAIT)) > 0)
		count += is_answer(frame, (size_t)n, tuple);
	return count;
}

/* MAC address of a device in the namespace that the thread is in. */
static void device_mac(const char *device, uint8_t *ret)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {};

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", device);
	if (ioctl(fd, SIOCGIFHWADDR, &ifr))
		die("%s: %m", device);
	memcpy(ret, ifr.ifr_hwaddr.sa_data, ETH_ALEN);
}

int lab_send_packet(const struct lab *lab, const struct lab_host *h, uint16_t proto,
		    const void *packet, size_t len)
{
	struct sockaddr_ll sll;
	_cleanup_close_ int fd = packet_socket(h, proto, &sll);
	uint8_t frame[2 * ETH_ALEN + 1500];
	char device[16];

	snprintf(device, sizeof(device), "v-%s", names[h - lab->host]);
	enter(&lab->host[LAB_NODE]);
	device_mac(device, frame);
	enter(h);
	device_mac("eth0", frame + ETH_ALEN);
	enter(NULL);
	if (len > sizeof(frame) - 2 * ETH_ALEN)
		return -EMSGSIZE;
	memcpy(frame + 2 * ETH_ALEN, packet, len);
	if (sendto(fd, frame, 2 * ETH_ALEN + len, 0, (struct sockaddr *)&sll, sizeof(sll)) < 0)
		return -errno;
	return 0;
}

static uint16_t checksum(const void *data, size_t len)
{
	const uint16_t *p = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < len / 2; i++)
		sum += p[i];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Ethertype and IP header for `payload` bytes of a protocol; returns its length. */
static size_t put_ip(uint8_t *buf, const struct cv_tuple *t, uint8_t proto, size_t payload)
{
	if (cv_addr_is_v4(&t->src)) {
		struct iphdr ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = proto };
		const uint16_t type = htons(ETH_P_IP);

		ip.tot_len = htons((uint16_t)(sizeof(ip) + payload));
		memcpy(&ip.saddr, t->src.b + 12, 4);
		memcpy(&ip.daddr, t->dst.b + 12, 4);
		ip.check = checksum(&ip, sizeof(ip));
		memcpy(buf, &type, sizeof(type));
		memcpy(buf + sizeof(type), &ip, sizeof(ip));
		return sizeof(type) + sizeof(ip);
	}
	struct ip6_hdr ip6 = { .ip6_hops = 64, .ip6_nxt = proto };
	const uint16_t type = htons(ETH_P_IPV6);

	ip6.ip6_vfc = 0x60;
	ip6.ip6_plen = htons((uint16_t)payload);
	memcpy(&ip6.ip6_src, t->src.b, 16);
	memcpy(&ip6.ip6_dst, t->dst.b, 16);
	memcpy(buf, &type, sizeof(type));
	memcpy(buf + sizeof(type), &ip6, sizeof(ip6));
	return sizeof(type) + sizeof(ip6);
}

size_t lab_segment(uint8_t *buf, const struct cv_tuple *tuple, uint8_t tcp_flags, uint32_t seq,
		   size_t payload)
{
	struct tcphdr tcp = { .source = tuple->sport, .dest = tuple->dport, .doff = 5 };
	size_t at = put_ip(buf, tuple, IPPROTO_TCP, sizeof(tcp) + payload);

	tcp.seq = htonl(seq);
	tcp.th_flags = tcp_flags;
	tcp.window = htons(1024);
	memcpy(buf + at, &tcp, sizeof(tcp));
	memset(buf + at + sizeof(tcp), 'p', payload);
	return at + sizeof(tcp) + payload;
}

static int drop_flow(uint64_t cookie, const struct cv_flow_entry *flow, void *arg)
{
	const struct lab *lab = arg;

	(void)flow;
	return cv_table_flow_del(lab->bpf, cookie);
}

static int drop_attested(const struct cv_tuple *tuple, const struct cv_attested_entry *e, void *arg)
{
	const struct lab *lab = arg;

	(void)e;
	return cv_table_attested_del(lab->bpf, tuple);
}

void lab_forget(struct lab *lab)
{
	cv_table_flow_each(lab->bpf, drop_flow, lab);
	cv_table_attested_each(lab->bpf, drop_attested, lab);
}

int lab_set_up(void **state)
{
	lab_reset(*state);
	return 0;
}

int lab_tear_down(void **state)
{
	lab_forget(*state);
	return 0;
}

void lab_source_route(uint8_t rthdr[LAB_SOURCE_ROUTE], const struct cv_addr *ip)
{
	static const uint8_t header[8] = { 0, 4, 4, 1, 1 }; /* 40 bytes, type 4, segments 1 and 0 */

	memset(rthdr, 0, LAB_SOURCE_ROUTE);
	memcpy(rthdr, header, sizeof(header));
	memcpy(rthdr + 24, ip->b, sizeof(ip->b));
}

int lab_foreign_socket(const struct lab_host *h, const struct cv_addr *ip, uint16_t port)
{
	bool v4 = cv_addr_is_v4(ip);
	int fd = lab_socket(h, v4 ? AF_INET : AF_INET6, SOCK_STREAM), on = 1;

	/* IPv6 needs no privilege for it; IPv4 does. */
	if (setsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TRANSPARENT : IPV6_FREEBIND, &on,
		       sizeof(on)))
		die("a foreign address: %m");
	if (lab_bind(fd, ip, port))
		die("a foreign address: port %u is taken", port);
	return fd;
}

void lab_send_segment(const struct lab *lab, const struct lab_host *from, const struct cv_tuple *t,
		      uint8_t tcp_flags, size_t payload)
{
	uint8_t buf[LAB_SEGMENT_MAX + 64];
	size_t len = lab_segment(buf, t, tcp_flags, 12345, payload);
	int r = lab_send_packet(lab, from, ETH_P_IP, buf, len);

	/* What TC drops is ENOBUFS to the packet socket that sent it. */
	if (r && r != -ENOBUFS)
		die("a segment could not be sent: %s", strerror(-r));
}

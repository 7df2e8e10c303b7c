/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entering namespaces. The inode of the one that a thread is in identifies it: a thread keeps its
 * namespace alive, so the number can't be reused meanwhile.
 */
#include "userspace/io/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "userspace/base/cleanup.h"

static const char own_netns[] = "/proc/thread-self/ns/net";

/* The namespace in which the process started: that of the first caller, as nobody has entered
 * another one before. */
static struct {
	pthread_once_t once;
	int fd;
	uint64_t inode;
} home = { .once = PTHREAD_ONCE_INIT, .fd = -1 };

/* Inode of the namespace that the thread is in; 0 = not asked yet. A new thread is where its
 * creator was, so the kernel is asked once per thread. */
static _Thread_local uint64_t inside;

static int inode_of(int fd, uint64_t *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret = st.st_ino;
	return 0;
}

static void open_home(void)
{
	home.fd = open(own_netns, O_RDONLY | O_CLOEXEC);
	if (home.fd >= 0 && inode_of(home.fd, &home.inode))
		cv_close(&home.fd);
}

/* Learns home and inside. */
static int orient(void)
{
	struct stat st;

	if (inside)
		return 0;
	pthread_once(&home.once, open_home);
	if (home.fd < 0)
		return -EBADF;
	if (stat(own_netns, &st) < 0)
		return -errno;
	inside = st.st_ino;
	return 0;
}

static int enter(int fd, uint64_t inode)
{
	if (inode == inside)
		return 0;
	if (setns(fd, CLONE_NEWNET) < 0)
		return -errno;
	inside = inode;
	return 0;
}

/* The cookie of the namespace that the calling thread is in. */
static int own_cookie(uint64_t *ret)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*ret);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len) < 0)
		return -errno;
	return 0;
}

int cv_netns_init(struct cv_netns *ns, int fd)
{
	_cleanup_close_ int back = open(own_netns, O_RDONLY | O_CLOEXEC);
	struct cv_netns n = { .fd = fd };
	uint64_t before;
	int r;

	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
		return -EINVAL;
	r = back < 0 ? -EBADF : orient();
	before = inside;
	r = r ? r : inode_of(fd, &n.inode);
	r = r ? r : enter(fd, n.inode);
	if (r)
		return r;
	/* The kernel tells a cookie only through a socket that is inside. */
	r = own_cookie(&n.cookie);
	r = enter(back, before) ?: r;
	if (!r)
		*ns = n;
	return r;
}

void cv_netns_fini(struct cv_netns *ns)
{
	cv_netns_leave(ns);
	cv_close(&ns->fd);
	ns->cookie = ns->inode = 0;
}

int cv_netns_self(struct cv_netns *ret)
{
	_cleanup_close_ int fd = open(own_netns, O_RDONLY | O_CLOEXEC);
	int r = fd < 0 ? -errno : cv_netns_init(ret, fd);

	if (!r)
		(void)cv_take_fd(fd);
	return r;
}

int cv_netns_enter(const struct cv_netns *ns)
{
	int r = orient();

	if (r)
		return r;
	return ns ? enter(ns->fd, ns->inode) : enter(home.fd, home.inode);
}

void cv_netns_leave(const struct cv_netns *ns)
{
	if (ns->fd >= 0 && !orient() && inside == ns->inode)
		(void)cv_netns_enter(NULL); /* fails only if home's fd is gone */
}

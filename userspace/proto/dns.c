/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS messages over libc's name functions, which unpack, compress and escape names.
 *
 * Of a query only the header, the one question and an OPT record matter; every other record is
 * walked over. The name of the question may not be compressed: there is nothing before it that it
 * could point to, and its bytes are copied into the answer.
 */
#include "userspace/proto/dns.h"

#include <arpa/nameser.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "userspace/base/cleanup.h"

enum {
	FLAG_QR = 0x8000, /* an answer */
	FLAG_AA = 0x0400, /* authoritative */
	FLAG_TC = 0x0200, /* truncated */
	FLAG_RD = 0x0100, /* recursion desired */
	FLAG_RA = 0x0080, /* recursion available */
	FLAG_CD = 0x0010, /* checking disabled */
	MASK_OPCODE = 0x7800,
	MASK_RCODE = 0x000f,

	EDNS_DO = 0x8000, /* in the second half of an OPT record's TTL */
	RR_FIXED = 10, /* type, class, TTL, length of the data */
	OPT_BYTES = 1 + RR_FIXED,
	POINTER = 0xc000, /* compressed name: offset in the lower bits */
	LABEL_BYTES = 63,
	NAME_BYTES = 255,
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/* Counts of the header: questions, answers, authorities, additionals. */
static unsigned count_at(const uint8_t *message, int section)
{
	return get16(message + 4 + 2 * section);
}

/* ---- queries ---- */

/* Offset of the byte after an uncompressed name, 0 when it is none. */
static size_t skip_plain_name(struct cv_span m, size_t at)
{
	size_t start = at;

	while (at < m.len && m.data[at]) {
		if (m.data[at] > LABEL_BYTES)
			return 0;
		at += 1 + (size_t)m.data[at];
	}
	return at < m.len && at + 1 - start <= NAME_BYTES ? at + 1 : 0;
}

static bool read_question(struct cv_span m, struct cv_dns_query *q, char *name)
{
	size_t end = skip_plain_name(m, CV_DNS_HEADER);

	if (!end || m.len - end < 4 ||
	    ns_name_ntop(m.data + CV_DNS_HEADER, name, CV_DNS_NAME_TEXT) < 0)
		return false;
	if (strcmp(name, ".") == 0)
		name[0] = '\0';
	for (char *c = name; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	q->type = get16(m.data + end);
	q->class = get16(m.data + end + 2);
	q->question_end = end + 4;
	return true;
}

static void read_opt(struct cv_span m, size_t at, struct cv_dns_query *q)
{
	const uint8_t *rr = m.data + at;

	q->edns_at = at + 2;
	q->edns_size = get16(rr + 2);
	if (q->edns_size < CV_DNS_UDP_SIZE)
		q->edns_size = CV_DNS_UDP_SIZE;
	q->edns_version = rr[5];
	q->dnssec_ok = get16(rr + 6) & EDNS_DO;
}

/* Walks the records behind the question; there may be one OPT. */
static bool read_records(struct cv_span m, struct cv_dns_query *q)
{
	unsigned n = count_at(m.data, 1) + count_at(m.data, 2) + count_at(m.data, 3);
	const uint8_t *p = m.data + q->question_end, *end = m.data + m.len;

	for (; n; n--) {
		bool root = p < end && !*p;

		if (ns_name_skip(&p, end) < 0 || end - p < RR_FIXED)
			return false;
		if (get16(p) == ns_t_opt) {
			if (!root || q->edns_at)
				return false;
			read_opt(m, (size_t)(p - m.data), q);
		}
		if (end - p - RR_FIXED < get16(p + 8))
			return false;
		p += RR_FIXED + get16(p + 8);
	}
	return true;
}

int cv_dns_query_parse(struct cv_span m, struct cv_dns_query *ret, char *name)
{
	ret->question_end = ret->edns_at = 0;
	ret->type = ret->class = 0;
	name[0] = '\0';
	if (m.len < CV_DNS_HEADER)
		return -EBADMSG;
	ret->id = get16(m.data);
	ret->flags = get16(m.data + 2);
	if (ret->flags & FLAG_QR)
		return CV_DNS_FORMERR;
	if (ret->flags & MASK_OPCODE)
		return CV_DNS_NOTIMP;
	if (count_at(m.data, 0) != 1 || !read_question(m, ret, name))
		return CV_DNS_FORMERR;
	if (!read_records(m, ret)) {
		ret->edns_at = 0;
		return CV_DNS_FORMERR;
	}
	return CV_DNS_NOERROR;
}

size_t cv_dns_udp_size(const struct cv_dns_query *q)
{
	return q->edns_at ? q->edns_size : CV_DNS_UDP_SIZE;
}

const char *cv_dns_type_text(uint16_t type)
{
	static const struct {
		uint16_t type;
		const char *text;
	} names[] = {
		{ 1, "a" },	  { 2, "ns" },	   { 5, "cname" },	 { 6, "soa" },
		{ 10, "null" },	  { 12, "ptr" },   { 13, "hinfo" },	 { 15, "mx" },
		{ 16, "txt" },	  { 24, "sig" },   { 25, "key" },	 { 28, "aaaa" },
		{ 33, "srv" },	  { 35, "naptr" }, { 37, "cert" },	 { 41, "opt" },
		{ 43, "ds" },	  { 44, "sshfp" }, { 46, "rrsig" },	 { 47, "nsec" },
		{ 48, "dnskey" }, { 50, "nsec3" }, { 51, "nsec3param" }, { 52, "tlsa" },
		{ 53, "smimea" }, { 59, "cds" },   { 60, "cdnskey" },	 { 61, "openpgpkey" },
		{ 62, "csync" },  { 64, "svcb" },  { 65, "https" },	 { 250, "tsig" },
		{ 251, "ixfr" },  { 252, "axfr" }, { 255, "any" },	 { 257, "caa" },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++)
		if (names[i].type == type)
			return names[i].text;
	return "unknown";
}

/* ---- answers of our own ---- */

/* A message that is being written; room for the OPT record is kept back. */
struct writer {
	uint8_t *buf;
	size_t len, size;
	unsigned nr_answers;
};

static void write_opt(struct writer *w, const struct cv_dns_query *q)
{
	uint8_t *rr = w->buf + w->len;

	memset(rr, 0, OPT_BYTES);
	put16(rr + 1, ns_t_opt);
	put16(rr + 3, q->edns_size);
	rr[6] = q->edns_version;
	put16(rr + 7, q->dnssec_ok ? EDNS_DO : 0);
	w->len += OPT_BYTES;
}

/* Type, class IN, TTL and length of the data, behind the owner's name. */
static void write_fixed(uint8_t *p, uint16_t type, size_t data)
{
	put16(p, type);
	put16(p + 2, ns_c_in);
	put16(p + 4, 0);
	put16(p + 6, CV_DNS_TTL_S);
	put16(p + 8, (unsigned)data);
}

/* A record of the name at this offset; false = no room. */
static bool write_record(struct writer *w, size_t owner, uint16_t type, const void *data,
			 size_t data_len)
{
	uint8_t *rr = w->buf + w->len;

	if (w->size - w->len < 2 + RR_FIXED + data_len)
		return false;
	put16(rr, (unsigned)(POINTER | owner));
	write_fixed(rr + 2, type, data_len);
	memcpy(rr + 2 + RR_FIXED, data, data_len);
	w->len += 2 + RR_FIXED + data_len;
	w->nr_answers++;
	return true;
}

/* Records of an answer; false when some had no room. */
static bool write_records(struct writer *w, const struct cv_dns_answer *a)
{
	size_t owner = CV_DNS_HEADER;
	uint8_t target[NAME_BYTES];

	if (a->cname) {
		size_t at = w->len + 2 + RR_FIXED;

		if (ns_name_pton(a->cname, target, sizeof(target)) < 0 ||
		    !write_record(w, owner, CV_DNS_CNAME, target,
				  skip_plain_name((struct cv_span){ target, sizeof(target) }, 0)))
			return false;
		owner = at;
	}
	for (size_t i = 0; i < a->nr_addrs; i++) {
		bool v4 = cv_addr_is_v4(&a->addrs[i]);

		if (!write_record(w, owner, v4 ? CV_DNS_A : CV_DNS_AAAA,
				  a->addrs[i].b + (v4 ? 12 : 0), v4 ? 4 : 16))
			return false;
	}
	return true;
}

size_t cv_dns_answer_write(struct cv_span query, const struct cv_dns_query *q,
			   const struct cv_dns_answer *a, uint8_t *buf, size_t size)
{
	size_t opt = q->edns_at ? OPT_BYTES : 0;
	struct writer w = { .buf = buf, .len = CV_DNS_HEADER, .size = size - opt };
	unsigned flags = FLAG_QR | FLAG_RA | (q->flags & (MASK_OPCODE | FLAG_RD | FLAG_CD)) |
			 (unsigned)a->rcode;

	if (q->question_end) {
		memcpy(buf + w.len, query.data + w.len, q->question_end - w.len);
		w.len = q->question_end;
	}
	if (a->authoritative)
		flags |= FLAG_AA;
	if (!write_records(&w, a))
		flags |= FLAG_TC;
	if (opt)
		write_opt(&w, q);
	put16(buf, q->id);
	put16(buf + 2, flags);
	put16(buf + 4, q->question_end != 0);
	put16(buf + 6, w.nr_answers);
	put16(buf + 8, 0);
	put16(buf + 10, opt != 0);
	return w.len;
}

/* ---- forwarding ---- */

void cv_dns_forward(uint8_t *message, const struct cv_dns_query *q, uint16_t id, uint16_t max)
{
	put16(message, id);
	if (q->edns_at && q->edns_size > max)
		put16(message + q->edns_at, max);
}

static bool same_question(struct cv_span a, struct cv_span b, size_t end)
{
	size_t i = CV_DNS_HEADER;

	/* Lengths of labels are below 64 and no letters, so one comparison serves names and the rest. */
	for (; i < end - 4; i++)
		if (tolower(a.data[i]) != tolower(b.data[i]))
			return false;
	return memcmp(a.data + i, b.data + i, 4) == 0;
}

bool cv_dns_is_answer(struct cv_span query, const struct cv_dns_query *q, uint16_t id,
		      struct cv_span answer)
{
	if (answer.len < CV_DNS_HEADER || get16(answer.data) != id)
		return false;
	if (!(get16(answer.data + 2) & FLAG_QR) || (get16(answer.data + 2) & MASK_OPCODE))
		return false;
	/* A server that could not read the query may answer without its question. */
	if (!count_at(answer.data, 0))
		return cv_dns_rcode(answer) != CV_DNS_NOERROR;
	return count_at(answer.data, 0) == 1 && answer.len >= q->question_end &&
	       same_question(query, answer, q->question_end);
}

bool cv_dns_is_truncated(struct cv_span answer)
{
	return get16(answer.data + 2) & FLAG_TC;
}

enum cv_dns_rcode cv_dns_rcode(struct cv_span answer)
{
	return get16(answer.data + 2) & MASK_RCODE;
}

unsigned cv_dns_nr_answers(struct cv_span answer)
{
	return count_at(answer.data, 1);
}

size_t cv_dns_relay(uint8_t *answer, size_t len, const struct cv_dns_query *q, size_t max)
{
	unsigned flags = (get16(answer + 2) & ~(unsigned)FLAG_AA) | FLAG_RA;

	put16(answer, q->id);
	if (len > max) {
		flags |= FLAG_TC;
		memset(answer + 6, 0, CV_DNS_HEADER - 6);
		len = count_at(answer, 0) ? q->question_end : CV_DNS_HEADER;
	}
	put16(answer + 2, flags);
	return len;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as RFC 3629 has it, and protobuf-c's messages walked by their descriptors. */
#include "userspace/proto/utf8.h"

#include <stdint.h>

/* Length of the sequence at p, 0 = not one. */
static unsigned sequence(const uint8_t *p)
{
	unsigned n = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (p[0] > 0xf4)
		return 0;
	for (unsigned i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0; /* overlong, surrogate, beyond the last code point */
	return n;
}

bool cv_utf8_is_valid(const char *text)
{
	const uint8_t *p = (const uint8_t *)text;

	while (*p) {
		unsigned n = sequence(p);

		if (!n)
			return false;
		p += n;
	}
	return true;
}

static const char *check_value(const ProtobufCFieldDescriptor *f, const void *value)
{
	const char *const *text = value;
	const ProtobufCMessage *const *m = value;

	if (f->type == PROTOBUF_C_TYPE_STRING)
		return *text && !cv_utf8_is_valid(*text) ? f->name : NULL;
	if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		return *m ? cv_utf8_bad_field(*m) : NULL;
	return NULL;
}

const char *cv_utf8_bad_field(const ProtobufCMessage *m)
{
	const char *base = (const char *)m, *bad = NULL;

	for (unsigned i = 0; i < m->descriptor->n_fields && !bad; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		const char *member = base + f->offset;

		if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)(const void *)(base + f->quantifier_offset);
			const void *const *items =
				*(const void *const *const *)(const void *)member;

			for (size_t k = 0; k < n && !bad; k++)
				bad = check_value(f, &items[k]);
		} else if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
			   *(const uint32_t *)(const void *)(base + f->quantifier_offset) ==
				   f->id) {
			bad = check_value(f, member);
		}
	}
	return bad;
}

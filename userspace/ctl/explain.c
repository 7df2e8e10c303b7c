/* SPDX-License-Identifier: Apache-2.0 */
/* `explain`: what would become of a connection, as a sentence and a table of its paths; the exit
 * code is the verdict. */
#include <string.h>

#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"
#include "userspace/ctl/fields.h"
#include "userspace/ctl/table.h"

enum { PADDING = 1, NAME = 600 };

int cv_ctl_explain_code(const json_t *answer)
{
	static const struct {
		const char *verdict;
		int code;
	} codes[] = {
		{ "allow", CV_CTL_OK },
		{ "deny", CV_CTL_DENIED },
		{ "refuse", CV_CTL_REFUSED },
		{ "mixed", CV_CTL_MIXED },
	};

	for (size_t i = 0; i < CV_ARRAY_SIZE(codes); i++)
		if (!strcmp(cv_field_text(answer, "verdict"), codes[i].verdict))
			return codes[i].code;
	return cv_ctl_fail("explain: culvertd's answer makes no sense");
}

static const char *or_dash(const char *text)
{
	return *text ? text : "-";
}

static const char *destination(const json_t *path, char *buf, size_t size)
{
	const json_t *w = json_object_get(path, "destination");
	bool waypoint = cv_field_is(path, "waypoint");

	if (!w)
		return "-";
	snprintf(buf, size, "%s/%s%s", cv_field_text(w, "namespace"),
		 *cv_field_text(w, "name") ? cv_field_text(w, "name") : cv_field_text(w, "uid"),
		 waypoint ? " (waypoint)" : "");
	return buf;
}

static void add_path(struct cv_table *t, const json_t *path)
{
	const char *address = cv_field_text(path, "address");
	const char *next = cv_field_text(path, "nextHop");
	char weight[24], name[NAME];

	snprintf(weight, sizeof(weight), "%lld", (long long)cv_field_int(path, "weight"));
	cv_table_row(t, (const char *[]){
				cv_field_text(path, "verdict"),
				or_dash(cv_field_text(path, "tier")),
				destination(path, name, sizeof(name)),
				*address ? address : or_dash(cv_field_text(path, "hostname")),
				*next ? next : or_dash(cv_field_text(path, "hostname")),
				weight,
				or_dash(cv_field_text(path, "policy")),
				cv_field_text(path, "why"),
			});
}

void cv_ctl_print_explain(FILE *out, const json_t *answer)
{
	static const char *const header[] = { "VERDICT", "TIER",     "DESTINATION",
					      "ADDRESS", "NEXT HOP", "WEIGHT",
					      "POLICY",	 "WHY",	     NULL };
	const char *service = cv_field_text(answer, "service");
	json_int_t unlisted = cv_field_int(answer, "unlisted");
	struct cv_table t;
	json_t *path;
	size_t i;

	fprintf(out, "%s to %s%s%s%s: %s\n\n", cv_field_text(answer, "from"),
		cv_field_text(answer, "to"), *service ? " (service " : "", service,
		*service ? ")" : "", cv_field_text(answer, "verdict"));
	cv_table_init(&t, PADDING, header);
	json_array_foreach(json_object_get(answer, "paths"), i, path)
		add_path(&t, path);
	cv_table_print(&t, out);
	cv_table_fini(&t);
	if (unlisted)
		fprintf(out, "… and %lld more\n", (long long)unlisted);
}

int cv_ctl_explain(struct cv_ctl *ctl)
{
	json_t *answer;
	int code, r;

	if (!ctl->from || !ctl->to) {
		cv_ctl_fail("explain needs --from NAMESPACE/NAME and --to ADDRESS:PORT");
		return CV_CTL_USAGE;
	}
	answer = cv_ctl_ask(ctl, "explain",
			    json_pack("{s:s, s:s}", "from", ctl->from, "to", ctl->to), -1);
	if (!answer)
		return CV_CTL_FAILED;
	code = cv_ctl_explain_code(answer);
	if (ctl->format != CV_CTL_TABLE) {
		r = cv_ctl_print(ctl, answer);
		return r == CV_CTL_OK ? code : r;
	}
	cv_ctl_print_explain(ctl->out, answer);
	json_decref(answer);
	return code;
}

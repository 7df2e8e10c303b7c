/* SPDX-License-Identifier: Apache-2.0 */
/* culvertctl: tables have istioctl's columns, order and wording to the byte; YAML reads back as the
 * same data; wrong command lines exit with 2 and touch nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include <cmocka.h>

#include "userspace/base/cleanup.h"
#include "userspace/ctl/ctl.h"

static const char workloads_json[] =
	"[{'uid':'u1','name':'web-1','namespace':'shop','workloadIps':['10.0.0.2','2001:db8::2'],"
	"'node':'n2','protocol':'HBONE','status':'Healthy','waypoint':{'destination':"
	"'shop/wp.shop.svc'}},"
	"{'uid':'u2','name':'web-0','namespace':'shop','workloadIps':['10.0.0.1'],'node':'n1',"
	"'protocol':'HBONE','status':'Unhealthy','waypoint':{'destination':'net1/10.9.0.1'}},"
	"{'uid':'u3','name':'db','namespace':'data','workloadIps':[],'hostname':'db.example',"
	"'protocol':'TCP','status':'Healthy','waypoint':{'destination':'shop/unknown'}},"
	"{'uid':'u4','name':'z','namespace':'data','workloadIps':['10.0.0.9'],'node':'n1',"
	"'protocol':'TCP','status':'Healthy'}]";

static const char services_json[] =
	"[{'name':'wp','namespace':'shop','hostname':'wp.shop.svc','vips':['net1/10.9.0.1'],"
	"'endpoints':{}},"
	"{'name':'web','namespace':'shop','hostname':'web.shop.svc',"
	"'vips':['net1/10.9.0.2','/2001:db8::9'],'waypoint':{'destination':'shop/wp.shop.svc'},"
	"'endpoints':{'u1':{'workloadUid':'u1'},'u2':{'workloadUid':'u2'},"
	"'u9':{'workloadUid':'u9'}}}]";

/* JSON with ' for ". */
static json_t *parse(const char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	json_t *value;

	for (char *c = copy; *c; c++)
		if (*c == '\'')
			*c = '"';
	value = json_loads(copy, 0, NULL);
	assert_non_null(value);
	return value;
}

struct expectation {
	void (*table)(FILE *out, const struct cv_ctl_data *d);
	const char *list, *services, *workloads, *ns, *text;
};

static void check(const struct expectation *e)
{
	json_t *list = parse(e->list);
	json_t *services = e->services ? parse(e->services) : NULL;
	json_t *workloads = e->workloads ? parse(e->workloads) : NULL;
	const struct cv_ctl_data data = { .list = list,
					  .services = services,
					  .workloads = workloads,
					  .ns = e->ns,
					  .now = "2026-06-01T00:00:00Z" };
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	e->table(out, &data);
	fclose(out);
	assert_string_equal(text, e->text);
	json_decref(list);
	json_decref(services);
	json_decref(workloads);
}

static void test_workloads(void **state)
{
	(void)state;
	check(&(struct expectation){
		cv_ctl_table_workloads, workloads_json, services_json, NULL, NULL,
		"NAMESPACE POD NAME ADDRESS              NODE WAYPOINT PROTOCOL\n"
		"data      db       db.example                NA       TCP\n"
		"data      z        10.0.0.9             n1   None     TCP\n"
		"shop      web-0    10.0.0.1             n1   wp       HBONE\n"
		"shop      web-1    10.0.0.2,2001:db8::2 n2   wp       HBONE\n" });
	check(&(struct expectation){ cv_ctl_table_workloads, workloads_json, services_json, NULL,
				     "data",
				     "NAMESPACE POD NAME ADDRESS    NODE WAYPOINT PROTOCOL\n"
				     "data      db       db.example      NA       TCP\n"
				     "data      z        10.0.0.9   n1   None     TCP\n" });
	check(&(struct expectation){ cv_ctl_table_workloads, "[]", "[]", NULL, NULL,
				     "NAMESPACE POD NAME ADDRESS NODE WAYPOINT PROTOCOL\n" });
}

static void test_services(void **state)
{
	(void)state;
	check(&(struct expectation){
		cv_ctl_table_services, services_json, NULL, workloads_json, NULL,
		"NAMESPACE SERVICE NAME SERVICE VIP          WAYPOINT ENDPOINTS\n"
		"shop      web          10.9.0.2,2001:db8::9 wp       1/3\n"
		"shop      wp           10.9.0.1             None     0/0\n" });
}

static void test_policies(void **state)
{
	(void)state;
	check(&(struct expectation){
		cv_ctl_table_policies,
		"[{'name':'b','namespace':'shop','action':'Deny','scope':'Namespace'},"
		"{'name':'a','namespace':'shop','action':'Allow','scope':'WorkloadSelector'},"
		"{'name':'z','namespace':'istio-system','action':'Allow','scope':'Global'}]",
		NULL, NULL, NULL,
		"NAMESPACE    POLICY NAME ACTION SCOPE\n"
		"istio-system z           Allow  Global\n"
		"shop         a           Allow  WorkloadSelector\n"
		"shop         b           Deny   Namespace\n" });
}

static void test_certificates(void **state)
{
	(void)state;
	check(&(struct expectation){
		cv_ctl_table_certificates,
		"[{'identity':'spiffe://td/ns/a/sa/b','state':'Available','certChain':["
		"{'serialNumber':'255','validFrom':'2026-01-01T00:00:00Z',"
		"'expirationTime':'2027-01-01T00:00:00Z'},"
		"{'serialNumber':'340282366920938463463374607431768211456',"
		"'validFrom':'2026-01-01T00:00:00Z','expirationTime':'2026-02-01T00:00:00Z'}],"
		"'rootCerts':[{'serialNumber':'4096','validFrom':'2026-07-01T00:00:00Z',"
		"'expirationTime':'2027-01-01T00:00:00Z'}]},"
		"{'identity':'spiffe://x','state':'Unavailable: no CA','certChain':[]}]",
		NULL, NULL, NULL,
		"CERTIFICATE NAME          TYPE             STATUS          VALID CERT     "
		"SERIAL NUMBER                         NOT AFTER                "
		"NOT BEFORE\n"
		"spiffe://td/ns/a/sa/b     Leaf             Available       true           "
		"ff                                    2027-01-01T00:00:00Z     "
		"2026-01-01T00:00:00Z\n"
		"spiffe://td/ns/a/sa/b     Intermediate     Available       false          "
		"100000000000000000000000000000000     2026-02-01T00:00:00Z     "
		"2026-01-01T00:00:00Z\n"
		"spiffe://td/ns/a/sa/b     Root             Available       false          "
		"1000                                  2027-01-01T00:00:00Z     "
		"2026-07-01T00:00:00Z\n"
		"spiffe://x                NA               Unavailable     false          "
		"NA                                    NA                       "
		"NA\n" });
	/* Without roots of its own the end of the chain is the root. */
	check(&(struct expectation){
		cv_ctl_table_certificates,
		"[{'identity':'i','state':'Available','certChain':[{'serialNumber':'1'},"
		"{'serialNumber':'2'},{'serialNumber':'3'}],'rootCerts':[]}]",
		NULL, NULL, NULL,
		"CERTIFICATE NAME     TYPE             STATUS        VALID CERT     "
		"SERIAL NUMBER     NOT AFTER     NOT BEFORE\n"
		"i                    Leaf             Available     false          "
		"1                               \n"
		"i                    Intermediate     Available     false          "
		"2                               \n"
		"i                    Root             Available     false          "
		"3                               \n" });
}

static const char connections_json[] =
	"[{'namespace':'shop','pod':'web-0','direction':'outbound','src':'10.0.0.1:40000',"
	"'dst':'10.0.0.2:15008','target':'10.0.0.2:80','originalDst':'10.9.0.2:80',"
	"'protocol':'HBONE','service':'web.shop.svc'},"
	"{'namespace':'shop','pod':'web-0','direction':'inbound','src':'[2001:db8::2]:50000',"
	"'dst':'10.0.0.1:15008','target':'10.0.0.1:8080','originalDst':null,"
	"'protocol':'HBONE','service':'web.shop.svc'},"
	"{'namespace':'shop','pod':'web-0','direction':'outbound','src':'10.0.0.1:40001',"
	"'dst':'192.0.2.1:80','target':'192.0.2.1:80','originalDst':'192.0.2.1:80',"
	"'protocol':'TCP','service':null}]";

static void test_connections(void **state)
{
	(void)state;
	check(&(struct expectation){
		cv_ctl_table_connections, connections_json, services_json, workloads_json, NULL,
		"WORKLOAD   DIRECTION LOCAL            REMOTE           REMOTE TARGET   PROTOCOL\n"
		"web-0.shop Inbound   web-0.shop:8080  web-1.shop:50000 web.shop.svc    HBONE\n"
		"web-0.shop Outbound  web-0.shop:40000 web-1.shop:15008 web.shop.svc:80 HBONE\n"
		"web-0.shop Outbound  web-0.shop:40001 192.0.2.1:80     192.0.2.1:80    TCP\n" });
	/* --raw: nothing to name addresses with. */
	check(&(struct expectation){
		cv_ctl_table_connections, connections_json, NULL, NULL, NULL,
		"WORKLOAD   DIRECTION LOCAL          REMOTE              REMOTE TARGET PROTOCOL\n"
		"web-0.shop Inbound   10.0.0.1:8080  [2001:db8::2]:50000 web.shop.svc  HBONE\n"
		"web-0.shop Outbound  10.0.0.1:40000 10.0.0.2:15008      10.9.0.2:80   HBONE\n"
		"web-0.shop Outbound  10.0.0.1:40001 192.0.2.1:80        192.0.2.1:80  TCP\n" });
}

static void test_flows(void **state)
{
	(void)state;
	check(&(struct expectation){
		cv_ctl_table_flows,
		"[{'tier':'direct','direction':'outbound','src':'10.0.0.1:4','target':'10.0.0.2:80',"
		"'source':{'namespace':'shop','pod':'web-0'},'destination':{'namespace':'shop',"
		"'pod':'db'},'sourceIdentity':'spiffe://a','destinationIdentity':'spiffe://b',"
		"'service':'db.shop.svc','sent':5,'received':123456,'state':'open',"
		"'durationMs':1234,'result':null,'error':null},"
		"{'tier':'tls','direction':'inbound','src':'10.0.0.1:4','target':'10.0.0.2:80',"
		"'source':null,'destination':{'namespace':'shop','pod':'db'},"
		"'sourceIdentity':null,'destinationIdentity':null,'service':null,'sent':0,"
		"'received':0,'state':'closed','durationMs':9,'closedMsAgo':3725000,"
		"'result':'DENY','error':'explicitly denied by: shop/x'}]",
		NULL, NULL, NULL,
		"TIER   DIRECTION SOURCE     SOURCE IDENTITY DESTINATION DESTINATION IDENTITY "
		"SERVICE     SENT RECEIVED STATE           RESULT\n"
		"direct outbound  shop/web-0 spiffe://a      shop/db     spiffe://b           "
		"db.shop.svc 5    123456   open 1.2s       -\n"
		"tls    inbound   10.0.0.1:4 -               shop/db     -                    "
		"-           0    0        closed 1h2m ago DENY explicitly denied by: shop/x\n" });
}

/* What comes from outside cannot steer the terminal. */
static void test_control_characters(void **state)
{
	(void)state;
	check(&(struct expectation){ cv_ctl_table_policies,
				     "[{'name':'a\\u001b[2J\\nb','namespace':'\\u00e4'}]", NULL,
				     NULL, NULL,
				     "NAMESPACE POLICY NAME ACTION SCOPE\n"
				     "\xc3\xa4         a?[2J?b            \n" });
}

static void test_status(void **state)
{
	json_t *status = parse(
		"{'version':'1','node':'n1','pid':7,'uptimeMs':90061000,'workers':2,'pods':3,"
		"'kernelPlane':true,'generation':4,'adopted':true,'developmentCa':'/ca','fileError':'f:1: bad',"
		"'draining':false,'features':{'tcx':true,'setRetval':true,'fastPath':true},"
		"'proxy':{'connections':1,'hboneInbound':2,'hbonePooled':3,'waiting':4},"
		"'reasons':[{'name':'direct','action':'pass','count':12,'meaning':'m'},"
		"{'name':'policy','action':'proxy','count':0,'meaning':'n'}],"
		"'maps':[{'name':'cv_pods','entries':3,'maxEntries':512}],"
		"'programs':[{'name':'pod_egress','id':9,'verifiedInsns':100,'xlatedBytes':2,"
		"'jitedBytes':3}]}");
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	cv_ctl_print_status(out, status);
	fclose(out);
	assert_string_equal(text,
			    "WARNING: certificates come from the development CA in /ca\n"
			    "WARNING: the last change of the local file is refused: f:1: bad\n"
			    "version     1\n"
			    "node        n1\n"
			    "pid         7\n"
			    "uptime      1d 01:01:01\n"
			    "workers     2\n"
			    "pods        3\n"
			    "generation  4\n"
			    "kernel      adopted from an earlier daemon\n"
			    "fast path   on\n"
			    "features    tcx setRetval fastPath\n"
			    "missing     none\n"
			    "proxy       1 connections, 2 HBONE in, 3 HBONE out, 4 waiting\n"
			    "\n"
			    "REASON  ACTION  COUNT  MEANING\n"
			    "direct  pass    12     m\n"
			    "\n"
			    "MAP      ENTRIES  CAPACITY\n"
			    "cv_pods  3        512\n"
			    "\n"
			    "PROGRAM     ID  VERIFIED INSNS  XLATED BYTES  JITED BYTES\n"
			    "pod_egress  9   100             2             3\n");
	json_decref(status);
}

static void test_status_without_kernel(void **state)
{
	json_t *status = parse("{'version':'1','node':'n1','pid':7,'uptimeMs':1000,'workers':2,"
			       "'pods':3,'draining':false,'kernelPlane':false,'proxy':{}}");
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	cv_ctl_print_status(out, status);
	fclose(out);
	assert_string_equal(text,
			    "version     1\n"
			    "node        n1\n"
			    "pid         7\n"
			    "uptime      0d 00:00:01\n"
			    "workers     2\n"
			    "pods        3\n"
			    "kernel      not used: in ztunnel's place, pods come from istio-cni\n"
			    "proxy       0 connections, 0 HBONE in, 0 HBONE out, 0 waiting\n");
	json_decref(status);
}

/* --- YAML --- */

static void test_yaml(void **state)
{
	json_t *data = parse("{'b':['x',1,2.5,true,null],'a':{},'n':'null','num':'10','s':'a: b',"
			     "'e':'','l':[],'o':[{'k':'v','j':'-'}],'c':'l1\\nl2\\u00e9'}");
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	assert_int_equal(cv_ctl_print_yaml(out, data), 0);
	fclose(out);
	assert_string_equal(text, "a: {}\n"
				  "b:\n"
				  "- x\n"
				  "- 1\n"
				  "- 2.5\n"
				  "- true\n"
				  "- null\n"
				  "c: \"l1\\nl2\xc3\xa9\"\n"
				  "e: \"\"\n"
				  "l: []\n"
				  "\"n\": \"null\"\n"
				  "num: \"10\"\n"
				  "o:\n"
				  "- j: \"-\"\n"
				  "  k: v\n"
				  "s: \"a: b\"\n");
	json_decref(data);
}

/* --- command line --- */

static int run(struct cv_ctl *ctl, const struct cv_ctl_command **command, const char *line)
{
	static char words[256];
	char *argv[16] = { "culvertctl" };
	int argc = 1, r, saved = dup(STDERR_FILENO);

	*ctl = (struct cv_ctl){ .run_dir = "/nonexistent", .out = stdout };
	*command = NULL;
	snprintf(words, sizeof(words), "%s", line);
	for (char *rest = words, *word; (word = strsep(&rest, " ")) && *word;)
		argv[argc++] = word;
	assert_non_null(freopen("/dev/null", "w", stderr));
	r = cv_ctl_parse(ctl, argc, argv, command);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	return r;
}

/* The sentence, the table, and the exit code that the verdict gives. */
static void test_explain(void **state)
{
	static const char answer[] =
		"{\"from\":\"shop/web-0\",\"to\":\"10.9.0.1:80\",\"service\":\"shop/cart.svc\","
		"\"verdict\":\"mixed\",\"paths\":["
		"{\"verdict\":\"allow\",\"why\":\"no policy applies\",\"weight\":3,\"tier\":\"direct\","
		"\"destination\":{\"namespace\":\"shop\",\"name\":\"cart-0\"},"
		"\"address\":\"10.0.0.2:8080\",\"nextHop\":\"10.0.0.2:15008\"},"
		"{\"verdict\":\"deny\",\"why\":\"explicitly denied by: shop/p\",\"weight\":1,"
		"\"policy\":\"shop/p\",\"tier\":\"tls\",\"waypoint\":true,"
		"\"hostname\":\"wp.org\",\"destination\":{\"namespace\":\"shop\",\"uid\":\"u\"}}]}";
	static const char want[] =
		"shop/web-0 to 10.9.0.1:80 (service shop/cart.svc): mixed\n\n"
		"VERDICT TIER   DESTINATION       ADDRESS       NEXT HOP       WEIGHT POLICY WHY\n"
		"allow   direct shop/cart-0       10.0.0.2:8080 10.0.0.2:15008 3      -      no policy applies\n"
		"deny    tls    shop/u (waypoint) wp.org        wp.org         1      shop/p explicitly denied by: shop/p\n";
	static const struct {
		const char *verdict;
		int code;
	} codes[] = { { "allow", 0 }, { "deny", 3 }, { "refuse", 4 }, { "mixed", 5 }, { "?", 1 } };
	json_t *j = json_loads(answer, 0, NULL);
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	cv_ctl_print_explain(out, j);
	fclose(out);
	assert_string_equal(text, want);
	for (size_t i = 0; i < CV_ARRAY_SIZE(codes); i++) {
		json_object_set_new(j, "verdict", json_string(codes[i].verdict));
		assert_int_equal(cv_ctl_explain_code(j), codes[i].code);
	}
	json_decref(j);
}

static void test_good_lines(void **state)
{
	const struct cv_ctl_command *command;
	struct cv_ctl ctl;

	(void)state;
	assert_int_equal(run(&ctl, &command, "workloads -o yaml -n shop"), CV_CTL_OK);
	assert_string_equal(command->words, "workloads");
	assert_int_equal(ctl.format, CV_CTL_YAML);
	assert_string_equal(ctl.ns, "shop");
	assert_int_equal(run(&ctl, &command,
			     "-o json pod --netns /x add shop/web-0 --service-account sa --uid 7"),
			 CV_CTL_OK);
	assert_string_equal(command->words, "pod add");
	assert_string_equal(ctl.operand, "shop/web-0");
	assert_string_equal(ctl.netns, "/x");
	assert_string_equal(ctl.service_account, "sa");
	assert_string_equal(ctl.uid, "7");
	assert_int_equal(run(&ctl, &command, "connections --raw -d inbound"), CV_CTL_OK);
	assert_true(ctl.raw);
	assert_int_equal(run(&ctl, &command, "--help"), CV_CTL_OK);
	assert_true(ctl.help && !command);
	assert_int_equal(run(&ctl, &command, "pod add --help"), CV_CTL_OK);
	assert_true(ctl.help && command);
	assert_int_equal(run(&ctl, &command, "explain --from a/b --to 10.0.0.1:80"), CV_CTL_OK);
	assert_string_equal(ctl.from, "a/b");
	assert_string_equal(ctl.to, "10.0.0.1:80");
	assert_int_equal(run(&ctl, &command, "-V"), CV_CTL_OK);
	assert_true(ctl.version);
}

static void test_bad_lines(void **state)
{
	static const char *const lines[] = {
		"",
		"nonsense",
		"pod",
		"pod nonsense",
		"workloads extra",
		"workloads -o xml",
		"workloads --output",
		"workloads --raw",
		"workloads --nonsense",
		"status -n shop",
		"pod add --netns /x",
		"pod add a/b c/d --netns /x",
		"flows -d sideways",
	};
	const struct cv_ctl_command *command;
	struct cv_ctl ctl;

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(lines); i++)
		if (run(&ctl, &command, lines[i]) != CV_CTL_USAGE)
			fail_msg("\"%s\" was taken", lines[i]);
}

static void test_bad_pod_names(void **state)
{
	static const char *const names[] = { "a", "/b", "a/", "a/b/c", "" };
	struct cv_ctl ctl = { .run_dir = "/nonexistent", .out = stdout, .netns = "/x" };

	(void)state;
	for (size_t i = 0; i < CV_ARRAY_SIZE(names); i++) {
		ctl.operand = names[i];
		assert_int_equal(cv_ctl_pod_add(&ctl), CV_CTL_USAGE);
		assert_int_equal(cv_ctl_pod_del(&ctl), CV_CTL_USAGE);
	}
	ctl.to = "10.0.0.1:80";
	assert_int_equal(cv_ctl_explain(&ctl), CV_CTL_USAGE); /* from whom? */
	ctl.operand = "a/b";
	assert_int_equal(cv_ctl_pod_add(&ctl), CV_CTL_FAILED); /* /x is not there */
	ctl.netns = NULL;
	assert_int_equal(cv_ctl_pod_add(&ctl), CV_CTL_USAGE);
}

/* Every command and option is in the help, which is made of the same tables. */
static void test_help(void **state)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	(void)state;
	cv_ctl_help(out, NULL);
	fclose(out);
	for (size_t i = 0; i < cv_ctl_nr_commands; i++)
		assert_non_null(strstr(text, cv_ctl_commands[i].words));
	assert_non_null(strstr(text, "-o, --output FORMAT"));
	assert_non_null(strstr(text, "      --netns PATH"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_workloads),
		cmocka_unit_test(test_services),
		cmocka_unit_test(test_policies),
		cmocka_unit_test(test_certificates),
		cmocka_unit_test(test_connections),
		cmocka_unit_test(test_flows),
		cmocka_unit_test(test_control_characters),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_status_without_kernel),
		cmocka_unit_test(test_explain),
		cmocka_unit_test(test_yaml),
		cmocka_unit_test(test_good_lines),
		cmocka_unit_test(test_bad_lines),
		cmocka_unit_test(test_bad_pod_names),
		cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

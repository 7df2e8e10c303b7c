# SPDX-License-Identifier: Apache-2.0
#
# culvert's one Makefile: everything is built from here, out of tree, under $(O).
#
#   $(O)/                 culvertd, culvertctl and libculvert.a of the ordinary flavour
#   $(O)/san, $(O)/fuzz   the same library with sanitizers, and for libFuzzer
#   $(O)/bpf, /include    BPF objects per architecture, the linked one, and its skeleton
#   $(O)/selftests        test programs and the logs of their runs
#
# Sources are found by wildcard, so that a new file needs no line here. `make help` lists the targets.

MAKEFLAGS += -rR --no-print-directory
.DELETE_ON_ERROR:
.SECONDARY:
.SUFFIXES:
.DEFAULT_GOAL := all

VERSION := 0.1.0
O ?= build
ifneq ($(words $(CURDIR))$(words $(O)),11)
$(error make takes a space in a path for its end: move the checkout ($(CURDIR)) or choose another O ($(O)))
endif
# One spelling of a directory, whoever calls: it is part of the flags that decide on a rebuild.
override O := $(patsubst $(CURDIR)/%,%,$(abspath $(O)))
PREFIX ?= /usr/local
DESTDIR ?=
ROUNDS ?= 5
TARGETS ?= unit bpf e2e interop fuzz k8s
ifneq ($(filter default undefined,$(origin CC)),)
CC := gcc
endif
ifneq ($(filter default undefined,$(origin AR)),)
AR := ar
endif
CLANG ?= clang
CLANG_FORMAT ?= clang-format
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),@:,@printf '  %-8s %s\n' $(1) '$(2)')
quote = '$(subst ','\'',$(1))'
# Give a sub-make a job per CPU unless the caller chose a number.
jobs = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
# Two runs at once build one after the other.
build = @mkdir -p $(O) && flock -o $(O)/.lock $(MAKE) $(jobs)
need_root = @[ "$$(id -u)" = 0 ] || { echo "this needs root: sudo make $@" >&2; exit 1; }
# What root built in somebody's checkout stays that person's.
give_back = @[ -z "$$SUDO_UID" ] || chown -R --reference=Makefile $(O)

# ---- Debian packages ---------------------------------------------------------------------------

# pkg-config name:Debian package
PKGS := libbpf:libbpf-dev libelf:libelf-dev zlib:zlib1g-dev openssl:libssl-dev \
	libnghttp2:libnghttp2-dev libevent_core:libevent-dev libevent_extra:libevent-dev \
	liburcu:liburcu-dev liburcu-cds:liburcu-dev libmnl:libmnl-dev yaml-0.1:libyaml-dev \
	jansson:libjansson-dev libprotobuf-c:libprotobuf-c-dev libcares:libc-ares-dev \
	cmocka:libcmocka-dev
pkg_name = $(firstword $(subst :, ,$(1)))
pkg_deb = $(lastword $(subst :, ,$(1)))

DEPS := gcc libc6-dev make pkg-config clang libclang-rt-14-dev clang-format bpftool \
	protobuf-c-compiler \
	$(sort $(foreach p,$(PKGS),$(call pkg_deb,$(p)))) \
	bind9-dnsutils ca-certificates curl git gnuplot-nox iperf3 iproute2 jq man-db \
	nftables openssl procps python3 python3-cryptography python3-grpcio shellcheck tcpdump \
	util-linux
# For the Kubernetes lab alone. Debian's go is old, but it can fetch the one that go.mod asks for.
DEPS += containernetworking-plugins ipset iptables runc \
	$(if $(shell command -v go),,golang-go)

NO_BUILD := deps k8s-tools demo test test-k8s test-kernels bench bench-k8s bench-push lint format install image clean vmlinux help
ifneq ($(filter-out $(NO_BUILD),$(or $(MAKECMDGOALS),all)),)
TOOLS_MISSING := $(shell for t in $(firstword $(CC)) $(CLANG) $(BPFTOOL) protoc-c pkg-config; do \
	command -v $$t >/dev/null || echo $$t; done)
ifneq ($(TOOLS_MISSING),)
$(error missing programs: $(TOOLS_MISSING) (sudo make deps installs them))
endif
PKG_FLAGS := $(shell pkg-config --cflags --libs $(foreach p,$(PKGS),$(call pkg_name,$(p))) \
	2>/dev/null || echo missing)
ifeq ($(PKG_FLAGS),missing)
PKGS_MISSING := $(foreach p,$(PKGS),$(shell pkg-config --exists $(call pkg_name,$(p)) || echo $(p)))
$(error missing libraries, as pkg-config name (Debian package): \
	$(foreach p,$(PKGS_MISSING),$(call pkg_name,$(p)) ($(call pkg_deb,$(p)));) sudo make deps)
endif
endif
PKG_CFLAGS := $(filter -I% -D%,$(PKG_FLAGS))
PKG_LIBS := $(filter-out -lcmocka,$(filter -l% -L%,$(PKG_FLAGS))) -lm

# ---- flags -------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
	-Wformat=2 -Werror
CFLAGS ?= -O2 -g
LDFLAGS ?=
ALL_CFLAGS = $(WARN) -std=gnu17 -D_GNU_SOURCE -DCULVERT_VERSION='"$(VERSION)"' -iquote . \
	-iquote $(O)/include $(PKG_CFLAGS) -fPIE -ffunction-sections -fdata-sections -pthread
ALL_LDFLAGS = -pie -pthread -Wl,--as-needed -Wl,--gc-sections -Wl,-z,relro -Wl,-z,now
HARDEN := -fstack-protector-strong -D_FORTIFY_SOURCE=2
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer

CMOCKA := -Wl,-u,cv_cmocka_tap -lcmocka
# liburcu's list macros add the offset 0 to NULL at the end of a list, which clang reports.
CLANG_SANITIZE := -fno-sanitize=pointer-overflow

# A flavour is a directory, a compiler, and flags for compiling and linking.
plain_DIR := $(O)
plain_CC = $(CC)
plain_CFLAGS = $(CFLAGS) $(HARDEN)
plain_LDFLAGS :=
san_DIR := $(O)/san
san_CC = $(CC)
san_CFLAGS = -O1 -g $(SANITIZE) $(if $(findstring clang,$(CC)),$(CLANG_SANITIZE))
san_LDFLAGS := $(SANITIZE)
fuzz_DIR := $(O)/fuzz
fuzz_CC = $(CLANG)
fuzz_CFLAGS := -O1 -g $(FUZZ) $(CLANG_SANITIZE)
fuzz_LDFLAGS := $(subst fuzzer-no-link,fuzzer,$(FUZZ))

main_flavour := $(if $(filter 1,$(SAN)),san,plain)
BIN := $($(main_flavour)_DIR)

# ---- sources -----------------------------------------------------------------------------------

USER_DIRS := base io proto mesh telemetry proxy node daemon ctl
PROTO_SRC := $(wildcard userspace/proto/pb/*.proto)
PB_SRC := $(PROTO_SRC:%.proto=%.pb-c.c)
LIB_SRC := $(filter-out %/main.c,$(wildcard loader/*.c $(USER_DIRS:%=userspace/%/*.c)))
TEST_LIB_SRC := $(wildcard selftests/lib/*.c)
# maps.bpf.c first: the linker of libbpf 1.1 loses the offset of a map that was extern before.
BPF_SRC := $(wildcard bpf/maps.bpf.c) $(filter-out bpf/maps.bpf.c,$(wildcard bpf/*.bpf.c))
TEST_BPF_SRC := $(wildcard selftests/bpf/progs/*.bpf.c)
PROGRAMS := $(if $(wildcard userspace/daemon/main.c),$(BIN)/culvertd) \
	$(if $(wildcard userspace/ctl/main.c),$(BIN)/culvertctl)
UNIT_TESTS := $(patsubst %.c,$(O)/%,$(wildcard selftests/unit/test_*.c))
BPF_TESTS := $(patsubst %.c,$(O)/%,$(wildcard selftests/bpf/test_*.c))
FUZZ_TESTS := $(patsubst %.c,$(O)/%,$(wildcard selftests/fuzz/fuzz_*.c))
# One program a file: what tests, demo and bench run beside culvert.
HELPERS := $(patsubst %.c,$(O)/%,$(wildcard $(addprefix selftests/,tools/*.c bookinfo/*.c bench/*.c)))

# ---- BPF ---------------------------------------------------------------------------------------

BPF_ARCHS := x86 arm64
BPF_ARCH ?= $(if $(filter aarch64,$(shell uname -m)),arm64,x86)
BPF_CFLAGS := -g -O2 -std=gnu17 -target bpf -mcpu=v3 -Wall -Wextra -Wshadow -Werror -iquote .
BPF_OBJ := $(if $(BPF_SRC),$(O)/bpf/culvert.bpf.o)
SKEL := $(if $(BPF_SRC),$(O)/include/culvert.skel.h)
TEST_SKELS := $(TEST_BPF_SRC:selftests/bpf/progs/%.bpf.c=$(O)/include/%.skel.h)

define bpf_arch
$(O)/bpf/$(1)/%.bpf.o: %.bpf.c vmlinux/$(1)/vmlinux.h $(O)/bpf/flags
	$$(call say,BPF,$$< $(1))
	$(Q)mkdir -p $$(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -D__TARGET_ARCH_$(1) -isystem vmlinux/$(1) -MMD -MP -c $$< -o $$@

bpf-$(1): $(patsubst %.c,$(O)/bpf/$(1)/%.o,$(BPF_SRC) $(TEST_BPF_SRC))
-include $(patsubst %.c,$(O)/bpf/$(1)/%.d,$(BPF_SRC) $(TEST_BPF_SRC))
endef
$(foreach a,$(BPF_ARCHS),$(eval $(call bpf_arch,$(a))))

$(O)/bpf/culvert.bpf.o: $(BPF_SRC:%.c=$(O)/bpf/$(BPF_ARCH)/%.o) $(O)/bpf/sources
	$(call say,LINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $(filter %.o,$^)

$(O)/include/culvert.skel.h: $(O)/bpf/culvert.bpf.o
	$(call say,SKEL,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(BPFTOOL) gen skeleton $< name culvert_bpf > $@

$(O)/include/%.skel.h: $(O)/bpf/$(BPF_ARCH)/selftests/bpf/progs/%.bpf.o
	$(call say,SKEL,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(BPFTOOL) gen skeleton $< name $(subst -,_,$*)_bpf > $@

# ---- protobuf ----------------------------------------------------------------------------------

PB_H := $(PB_SRC:%.c=$(O)/include/%.h)

$(O)/include/%.pb-c.c $(O)/include/%.pb-c.h: %.proto $(PROTO_SRC)
	$(call say,PROTO,$<)
	$(Q)mkdir -p $(@D)
	$(Q)protoc-c --proto_path=$(<D) --c_out=$(@D) $<

# ---- C: one set of rules per flavour -----------------------------------------------------------

# Rewrites file $(1) when it does not hold text $(2), so that other flags, another compiler or a
# removed source rebuild what they touch, and nothing else does.
define stamp
ifneq ($$(file <$(1)),$$(strip $(2)))
$(1): FORCE
endif
$(1):
	@mkdir -p $$(@D)
	@printf '%s\n' $$(call quote,$$(strip $(2))) > $$@
endef

# $(1) flavour, $(2) its directory
define flavour
$(eval $(call stamp,$(2)/flags,$($(1)_CC) $(ALL_CFLAGS) $($(1)_CFLAGS) $(ALL_LDFLAGS) $($(1)_LDFLAGS) $(LDFLAGS) $(PKG_LIBS) $(CMOCKA)))
$(eval $(call stamp,$(2)/sources,$(LIB_SRC) $(PB_SRC) $(TEST_LIB_SRC)))

$(2)/obj/%.o: %.c $(2)/flags | $(SKEL) $(PB_H)
	$$(call say,CC,$$< $(filter-out plain,$(1)))
	$(Q)mkdir -p $$(@D)
	$(Q)$($(1)_CC) $(ALL_CFLAGS) $($(1)_CFLAGS) -MMD -MP -c $$< -o $$@

$(2)/obj/%.pb-c.o: $(O)/include/%.pb-c.c $(2)/flags | $(PB_H)
	$$(call say,CC,$$< $(filter-out plain,$(1)))
	$(Q)mkdir -p $$(@D)
	$(Q)$($(1)_CC) $(ALL_CFLAGS) $($(1)_CFLAGS) -MMD -MP -c $$< -o $$@

$(2)/libculvert.a: $(LIB_SRC:%.c=$(2)/obj/%.o) $(PB_SRC:%.c=$(2)/obj/%.o) $(2)/sources
$(2)/libselftest.a: $(TEST_LIB_SRC:%.c=$(2)/obj/%.o) $(2)/sources
$(2)/libculvert.a $(2)/libselftest.a:
	$$(call say,AR,$$@)
	$(Q)rm -f $$@ && $(AR) rcs $$@ $$(filter %.o,$$^)

$(1)_link = $($(1)_CC) $($(1)_CFLAGS) $(ALL_LDFLAGS) $($(1)_LDFLAGS) $(LDFLAGS)
-include $(patsubst %.c,$(2)/obj/%.d,$(LIB_SRC) $(PB_SRC) $(TEST_LIB_SRC))
endef
ifdef PKG_FLAGS
$(eval $(call stamp,$(O)/bpf/flags,$(CLANG) $(BPF_CFLAGS)))
$(eval $(call stamp,$(O)/bpf/sources,$(BPF_SRC)))
$(foreach f,plain san fuzz,$(eval $(call flavour,$(f),$($(f)_DIR))))
-include $(patsubst %,$(BIN)/obj/userspace/%/main.d,daemon ctl)
-include $(patsubst $(O)/%,$(O)/obj/%.d,$(HELPERS) $(BPF_TESTS))
-include $(patsubst $(O)/%,$(O)/san/obj/%.d,$(UNIT_TESTS))
-include $(patsubst $(O)/%,$(O)/fuzz/obj/%.d,$(FUZZ_TESTS))
endif

# $(1) flavour, $(2) more libraries: link the objects and archives among the prerequisites
define link
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$($(1)_link) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group \
		$(2) $(PKG_LIBS)
endef

$(BIN)/culvertd: $(BIN)/obj/userspace/daemon/main.o $(BIN)/libculvert.a
	$(call link,$(main_flavour))
$(BIN)/culvertctl: $(BIN)/obj/userspace/ctl/main.o $(BIN)/libculvert.a
	$(call link,$(main_flavour))
$(UNIT_TESTS): $(O)/%: $(O)/san/obj/%.o $(O)/san/libselftest.a $(O)/san/libculvert.a
	$(call link,san,$(CMOCKA))
$(BPF_TESTS:$(O)/%=$(O)/obj/%.o): | $(TEST_SKELS)
$(BPF_TESTS): $(O)/%: $(O)/obj/%.o $(O)/libselftest.a $(O)/libculvert.a
	$(call link,plain,$(CMOCKA))
$(HELPERS): $(O)/%: $(O)/obj/%.o $(O)/libselftest.a $(O)/libculvert.a
	$(call link,plain)
$(FUZZ_TESTS): $(O)/%: $(O)/fuzz/obj/%.o $(O)/fuzz/libculvert.a
	$(call link,fuzz)

# What is built with $(CC), clang has to take without a warning as well.
CLANG_OK := $(patsubst %.c,$(O)/clang/%.ok,$(LIB_SRC) $(wildcard userspace/*/main.c) $(TEST_LIB_SRC) \
	$(patsubst $(O)/%,%.c,$(UNIT_TESTS) $(BPF_TESTS) $(FUZZ_TESTS) $(HELPERS)))
ifdef PKG_FLAGS
$(eval $(call stamp,$(O)/clang/flags,$(CLANG) $(ALL_CFLAGS)))
-include $(CLANG_OK:.ok=.d)
endif

$(O)/clang/%.ok: %.c $(O)/clang/flags | $(SKEL) $(TEST_SKELS) $(PB_H)
	$(call say,CLANG,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(ALL_CFLAGS) -fsyntax-only -MMD -MP -MT $@ -MF $(@:.ok=.d) $<
	$(Q)touch $@

# ---- targets -----------------------------------------------------------------------------------

.PHONY: FORCE all bpf $(BPF_ARCHS:%=bpf-%) clang helpers tests deps k8s-tools demo test test-k8s \
	test-kernels bench bench-k8s bench-push lint format install clean vmlinux help

all: $(BPF_OBJ) $(PROGRAMS) ## culvertd and culvertctl (SAN=1: with ASan and UBSan, in $(O)/san)

bpf: $(BPF_ARCHS:%=bpf-%) ## the BPF objects for x86 and arm64

clang: $(CLANG_OK) ## read every C file by clang, for its errors and warnings alone

helpers: $(HELPERS)

tests_of = $(if $(filter $(1),$(TARGETS)),$($(2)))
tests: all bpf $(HELPERS) $(call tests_of,unit,UNIT_TESTS) $(call tests_of,bpf,BPF_TESTS) \
	$(call tests_of,fuzz,FUZZ_TESTS)

deps: ## install the Debian packages that are missing (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	@sh selftests/k8s/go.sh >/dev/null || echo 'no go that can build the Kubernetes lab'

k8s-tools: ## build what is missing of the Kubernetes lab's programs into CULVERT_K8S_CACHE
	@sh selftests/k8s/tools.sh build

demo: ## two nodes, Bookinfo, the whole path; KEEP=1 leaves it up (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	$(build) all helpers
	$(give_back)
	@O=$(abspath $(O)) selftests/demo/demo.sh

test: ## build and run all tests; TARGETS="unit e2e" chooses (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	$(build) tests TARGETS='$(TARGETS)'
	$(give_back)
	@$(MAKE) -C selftests run_built O=$(abspath $(O)) TARGETS='$(TARGETS)'

# The collections of the Kubernetes lab.
K8S_TARGETS ?= k8s
test-k8s: ## all tests of the Kubernetes lab, the slow ones included (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	$(build) tests TARGETS='$(K8S_TARGETS)'
	$(give_back)
	@$(MAKE) -C selftests run_built O=$(abspath $(O)) TARGETS='$(K8S_TARGETS)' SLOW=1

# What runs a guest, and its kernels.
KERNEL_DEPS := kmod qemu-system-x86 xz-utils
KERNELS ?= 6.1 6.12
test-kernels: ## bpf/ and some of e2e/ under Debian's kernels, in QEMU; KERNELS=6.1 chooses (root)
	$(need_root)
	@tools/deps.sh $(DEPS) $(KERNEL_DEPS)
	@sh selftests/kernels/kernel.sh fetch $(KERNELS)
	$(build) tests TARGETS='bpf e2e'
	$(give_back)
	@CV_PROGRAMS=$(abspath $(O))/selftests CULVERT_BIN=$(abspath $(O)) O=$(abspath $(O)) \
		selftests/run -o $(abspath $(O))/selftests/logs $(KERNELS:%=-t kernels:test_debian_%)

bench: ## measure every path against no mesh; ROUNDS=n, ZTUNNEL=path (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	$(build) all helpers
	$(give_back)
	@O=$(abspath $(O)) ROUNDS=$(ROUNDS) selftests/bench/bench.sh

bench-k8s: ## measure the node proxy under istiod and istio-cni; ROUNDS=n, ZTUNNEL=path (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	$(build) all helpers
	$(give_back)
	@O=$(abspath $(O)) ROUNDS=$(ROUNDS) sh selftests/k8s/bench.sh

bench-push: ## measure what a push of 50,000 workloads does to a connection; ROUNDS=n (root)
	$(need_root)
	@tools/deps.sh $(DEPS)
	$(build) all helpers
	$(give_back)
	@O=$(abspath $(O)) ROUNDS=$(ROUNDS) selftests/bench/push.sh

lint: ## everything about the code that a machine can check
	$(build) bpf clang
	@CLANG_FORMAT=$(CLANG_FORMAT) selftests/lint.sh

format: ## rewrite the C files as .clang-format says
	$(Q)git ls-files -z -- '*.c' '*.h' ':!vmlinux' | xargs -0r $(CLANG_FORMAT) -i

MAN := $(wildcard docs/man/*.[1-8])
inst = install -D
install: ## programs, man pages and the systemd unit below $(DESTDIR)$(PREFIX) (root without DESTDIR)
	@[ -n '$(DESTDIR)' ] || [ "$$(id -u)" = 0 ] || \
		{ echo "this needs root: sudo make $@ (or DESTDIR=…)" >&2; exit 1; }
	$(build) all
	$(give_back)
	$(Q)$(inst) -m 755 $(BIN)/culvertd '$(DESTDIR)$(PREFIX)/sbin/culvertd'
	$(Q)$(inst) -m 755 $(BIN)/culvertctl '$(DESTDIR)$(PREFIX)/bin/culvertctl'
	$(Q)for m in $(MAN); do \
		$(inst) -m 644 $$m "$(DESTDIR)$(PREFIX)/share/man/man$${m##*.}/$${m##*/}" || exit; done
	$(Q)mkdir -p '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	$(Q)sed 's|@PREFIX@|$(PREFIX)|g' deploy/systemd/culvertd.service \
		> '$(DESTDIR)$(PREFIX)/lib/systemd/system/culvertd.service'

IMAGE ?= culvert:$(VERSION)
image: ## an OCI image in $(O)/culvert-image.tar, as IMAGE=name:tag; no network, no registry
	$(build) all
	$(give_back)
	@tools/image.sh $(BIN) $(O)/culvert-image.tar '$(IMAGE)'

clean: ## remove $(O)
	$(Q)rm -rf $(O)

vmlinux: ## make vmlinux/*/vmlinux.h anew (vmlinux/generate.py --help)
	$(Q)BPFTOOL=$(BPFTOOL) vmlinux/generate.py

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1 \2/p' $(firstword $(MAKEFILE_LIST)) | \
		while read -r t d; do printf '  %-9s %s\n' "$$t" "$$d"; done

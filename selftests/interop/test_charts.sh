#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Istio's own charts, rendered for ztunnel and for culvert, differ in one image and in nothing else,
# with the values that docs/install.md tells people to set. And what the charts give the node proxy
# is what culvert's image is made for: a change there has to be noticed here.
#
# istioctl, as istioctl.sh finds it, renders without a cluster.
# timeout: 300
# shellcheck disable=SC2154

. "${CV_SELFTESTS:-$(dirname "$0")/..}/lib/ktap.sh"

GUIDE=$CV_SELFTESTS/../docs/install.md
IMAGE=registry.example.com/mesh/culvert:0.1.0
. "$CV_SELFTESTS/interop/istioctl.sh"
missing=$(istioctl_missing)
[ -z "$missing" ] || skip_all "$missing"
[ -f "$GUIDE" ] || skip_all "the tests are installed without docs/install.md"

# render FILE OPTION…
render()
{
	render_file=$CV_TMP/$1
	shift
	"$ISTIOCTL" manifest generate --set profile=ambient "$@" >"$render_file"
}

# only_image A B: the second file is the first with our image for ztunnel's, once. What istiod keeps of
# the values, in two ConfigMaps, has it too.
only_image()
(
	diff "$CV_TMP/$1" "$CV_TMP/$2" | grep '^[<>]' >"$CV_TMP/diff"
	cat "$CV_TMP/diff"
	[ "$(grep -c '^<' "$CV_TMP/diff")" = 1 ] &&
		grep -qE '^< +image: .*/ztunnel:' "$CV_TMP/diff" &&
		[ "$(grep -cxE "> +image: $IMAGE" "$CV_TMP/diff")" = 1 ] &&
		! grep '^>' "$CV_TMP/diff" | grep -vxE "> +(image|\"image\"): \"?$IMAGE\"?,?"
)

# guide_block PATTERN: the YAML documents of the guide in which a line matches
guide_block()
{
	awk -v want="$1" '
		/^```yaml/ { inside = 1; text = ""; next }
		inside && (/^```/ || /^---/) {
			if (text ~ want)
				printf "%s", text
			inside = /^---/
			text = ""
			next
		}
		inside { text = text $0 "\n" }' "$GUIDE"
}

# The values of chart ztunnel, as the overlay that istioctl wants.
helm_overlay()
{
	printf 'apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n  values:\n    ztunnel:\n'
	guide_block 'chart istio/ztunnel' | grep -v '^#' | sed 's/^/      /'
}

sail_overlay()
{
	printf 'apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec:\n'
	guide_block 'kind: ZTunnel' | sed -n '/^  values:/,$p'
}

with_overlay()
{
	"$2" >"$CV_TMP/$1.overlay" && render "$1" -f "$CV_TMP/$1.overlay" && only_image ztunnel "$1"
}

# The DaemonSet of the node proxy.
daemon_set()
{
	awk -v RS='---\n' '/kind: DaemonSet/ && /\n  name: ztunnel\n/' "$CV_TMP/$1"
}

# says LINE: the DaemonSet has this line
says()
{
	daemon_set culvert | sed 's/^[ -]*//' | grep -qxF -- "$1"
}

plan 12
check "istioctl renders ztunnel's manifests" render ztunnel
check "and culvert's" render culvert --set "values.ztunnel.image=$IMAGE"
check "they differ in the image alone" only_image ztunnel culvert
render openshift --set values.global.platform=openshift
render openshift-culvert --set values.global.platform=openshift --set "values.ztunnel.image=$IMAGE"
check "on OpenShift too" only_image openshift openshift-culvert
check "the guide's Helm values" with_overlay helm helm_overlay
check "the guide's ZTunnel resource" with_overlay sail sail_overlay
check_eq "arguments, and no command of its own" "proxy ztunnel" \
	"$(daemon_set culvert | awk '/^ +(- )?command:/ { print "command" }
		/^ +(- )?args:/ { inside = 1; next }
		inside && !/^ +- / { exit }
		inside { sub(/^ +- /, ""); printf "%s%s", sep, $0; sep = " " }')"
check "a read-only root" says "readOnlyRootFilesystem: true"
check_eq "capabilities" "NET_ADMIN SYS_ADMIN NET_RAW" \
	"$(daemon_set culvert | awk '/^ +add:/ { inside = 1; next }
		inside && !/^ +- / { exit }
		inside { sub(/^ +- /, ""); printf "%s%s", sep, $0; sep = " " }')"
check "the readiness probe" says "path: /healthz/ready"
check "the node agent's socket" says "mountPath: /var/run/ztunnel"
check "a writable /tmp" says "mountPath: /tmp"

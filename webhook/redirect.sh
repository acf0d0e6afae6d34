#!/bin/sh
# Applies the redirection rules that the webhook wrote into the pod spec, and checks that they are in place.
# Runs as root in the pod's network namespace; init containers do run again, and the result is the same.
#
#   redirect.sh          apply, link the Envoy bootstrap, check
#   redirect.sh check    only check
#
# Environment:
#   ENVOY_SIDECAR_MODE     redirect or tproxy
#   IPTABLES_RULES_IPV4    iptables-restore text, and the same for ip6tables
#   IPTABLES_RULES_IPV6
#   IPTABLES_BACKEND       nft or legacy; the first of the two that works, if not set
#   BUSYBOX_COPY           where to put a copy of busybox for the hooks of a classic sidecar; none, if not set
set -euf

run=/run/envoy-sidecar
config=/etc/envoy-sidecar
mark=0x539 # as in webhook/redirect.py
table=133
export XTABLES_LOCKFILE="$run/xtables.lock" # iptables-legacy writes one, and the root file system is read-only

main() {
    case ${ENVOY_SIDECAR_MODE-} in
        redirect | tproxy) ;;
        *) fail "ENVOY_SIDECAR_MODE is '${ENVOY_SIDECAR_MODE-}', not redirect or tproxy" ;;
    esac
    action="${1:-apply}_family"
    [ "$action" = check_family ] || trap undo EXIT
    iptables=$(pick iptables) || fail "this node has no iptables with a nat table, neither nft nor legacy"
    "$action" -4 "$IPTABLES_RULES_IPV4"

    families=ipv4
    if [ -e /proc/net/if_inet6 ]; then
        families=dual
        if iptables=$(pick ip6tables); then
            "$action" -6 "$IPTABLES_RULES_IPV6"
        else
            say "this node has no ip6tables with a nat table: IPv6 traffic is not redirected"
        fi
    fi
    [ "$action" = check_family ] || prepare "$families"
    trap - EXIT
    say "redirection is in place ($ENVOY_SIDECAR_MODE, $families)"
}

say() { echo "envoy-sidecar-init: $*"; }

fail() {
    say "$*" >&2
    exit 1
}

# A pod that cannot be redirected as it should be is not redirected at all.
undo() {
    undo_family -4 iptables "$IPTABLES_RULES_IPV4"
    undo_family -6 ip6tables "$IPTABLES_RULES_IPV6"
}

undo_family() {
    remove_route "$1"
    iptables=$(pick "$2") || return 0
    for_each_rule remove_jump "$3"
    for_each_chain -F "$3"
    for_each_chain -X "$3"
}

# The back end of $1 (iptables or ip6tables) that works on this node.
pick() {
    for backend in ${IPTABLES_BACKEND:-nft legacy}; do
        if "$1-$backend" -w 30 -t nat -S OUTPUT >/dev/null 2>&1; then
            echo "$1-$backend"
            return
        fi
    done
    return 1
}

apply_family() {
    # Restoring empties chains that exist, but adds jumps to them again.
    for_each_rule remove_jump "$2"
    echo "$2" | "$iptables-restore" -w 30 --noflush || fail "$iptables-restore refuses the rules"
    [ "$ENVOY_SIDECAR_MODE" != tproxy ] || route_marked "$1"
    check_family "$1" "$2"
}

check_family() {
    for_each_rule check_rule "$2"
    [ "$ENVOY_SIDECAR_MODE" != tproxy ] || check_route "$1"
}

# Calls `$1 TABLE CHAIN RULE...` for every rule of the iptables-restore text $2.
for_each_rule() {
    while read -r verb rule; do
        case $verb in
            \**) rules_table=${verb#\*} ;;
            -A)
                # shellcheck disable=SC2086 # a rule is words; `set -f` leaves them as they are
                "$1" "$rules_table" $rule
                ;;
        esac
    done <<END
$2
END
}

# Calls iptables with `$1 CHAIN` for every chain that the iptables-restore text $2 declares.
for_each_chain() {
    while read -r verb _; do
        case $verb in
            \**) in_table=${verb#\*} ;;
            :*) "$iptables" -w 30 -t "$in_table" "$1" "${verb#:}" 2>/dev/null || : ;;
        esac
    done <<END
$2
END
}

remove_jump() {
    in_table=$1
    shift
    case $1 in ENVOY_SIDECAR_*) return ;; esac
    while "$iptables" -w 30 -t "$in_table" -D "$@" 2>/dev/null; do :; done
}

check_rule() {
    in_table=$1
    shift
    "$iptables" -w 30 -t "$in_table" -C "$@" 2>/dev/null || fail "a rule is missing: $iptables -t $in_table -A $*"
}

# Sends marked packets to the pod itself, whatever their address.
route_marked() {
    remove_route "$1"
    ip "$1" rule add fwmark "$mark" table "$table" || fail "ip $1 rule add fwmark $mark table $table failed"
    ip "$1" route replace local default dev lo table "$table" ||
        fail "ip $1 route replace local default dev lo table $table failed"
}

remove_route() {
    while ip "$1" rule del fwmark "$mark" table "$table" 2>/dev/null; do :; done
}

check_route() {
    ip "$1" rule | grep -q "fwmark $mark lookup $table" ||
        fail "a routing rule is missing: ip $1 rule add fwmark $mark table $table"
}

# A listener on [::] makes Envoy exit on a node without IPv6: only here is it known which bootstrap fits.
prepare() {
    [ "$ENVOY_SIDECAR_MODE" != tproxy ] || set -- "$1-tproxy"
    ln -sf "$config/bootstrap-$1.json" "$run/bootstrap.json"
    [ -n "${BUSYBOX_COPY-}" ] || return 0
    cp "$(command -v busybox)" "$BUSYBOX_COPY.new" && mv -f "$BUSYBOX_COPY.new" "$BUSYBOX_COPY"
}

case ${1-} in
    "" | check) main "$@" ;;
    *) fail "usage: redirect.sh [check]" ;;
esac

#!/usr/bin/env bash
# Compares the latency of one persistent MLLP connection (500-byte messages) through two wardlink sites with that
# through two boringtun-cli 0.7.1 tunnels without a forwarder: one run, the same machine, interleaved rounds, medians.
# Needs root or an unprivileged user namespace, wg, and boringtun-cli (`cargo install --locked boringtun-cli@0.7.1`).
#
#   bench/latency.sh            7 rounds of 3000 messages
#   ROUNDS=15 COUNT=5000 bench/latency.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin"
rounds=${ROUNDS:-7}
count=${COUNT:-3000}
target=2 # p50 at most twice boringtun's (the acceptance criterion)

if [ -z "${INSIDE:-}" ]; then
    for program in wg ip boringtun-cli unshare nsenter setpriv; do
        command -v "$program" >/dev/null || { echo "latency.sh needs $program" >&2; exit 1; }
    done
    cargo build --profile dist --locked --quiet --bin wardlink
    cargo build --release --quiet --manifest-path bench/mllp_latency/Cargo.toml
    # an own process, mount and network namespace: when this script ends, however it ends, everything ends with it
    user=()
    [ "$(id -u)" = 0 ] || user=(--map-root-user)
    INSIDE=1 exec unshare "${user[@]}" --mount --net --pid --fork --kill-child --mount-proc bash "$0"
fi

wardlink=$PWD/target/dist/wardlink
meter=$PWD/bench/mllp_latency/target/release/mllp_latency
mount -t tmpfs tmpfs /run
mkdir -p /run/wireguard /run/bench
cd /run/bench
umask 077

# ---- two namespaces for each pair: a and b, joined by a veth ----
declare -A home
namespace() { # NAME: holds a namespace by a sleeping process, with an own /run/wireguard
    unshare --net --mount bash -c 'mount -t tmpfs tmpfs /run/wireguard; ip link set lo up; touch "$1.made"; exec sleep infinity' - "$1" &
    home[$1]=$!
    until [ -e "$1.made" ]; do sleep 0.01; done
}
at() { # NAME COMMAND…
    local pid=${home[$1]}
    shift
    nsenter --net="/proc/$pid/ns/net" --mount="/proc/$pid/ns/mnt" --wd="$PWD" "$@"
}
waits() { # TRIES WHAT COMMAND…
    local tries=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "latency.sh: $what did not come" >&2; cat ./*.log >&2 || true; exit 1; }
        sleep 0.05
    done
}
pair() { # PREFIX
    namespace "$1a"
    namespace "$1b"
    at "$1a" ip link add v0 type veth peer name v0 netns "${home[$1b]}"
    at "$1a" ip addr add 192.0.2.1/24 dev v0
    at "$1b" ip addr add 192.0.2.2/24 dev v0
    at "$1a" ip link set v0 up
    at "$1b" ip link set v0 up
}
for name in a b; do
    wg genkey >$name.key
    wg pubkey <$name.key >$name.pub
done

# ---- boringtun-cli on both sides, the receiver at the inner address ----
pair plain-
boringtun() { # SIDE OWN-NUMBER OTHER-SIDE OTHER-NUMBER
    at "plain-$1" boringtun-cli --foreground --disable-drop-privileges wg0 >"boringtun-$1.log" 2>&1 &
    waits 100 "boringtun at $1" at "plain-$1" wg show wg0
    at "plain-$1" wg set wg0 listen-port 51820 private-key "$1.key" peer "$(cat "$3.pub")" \
        endpoint "192.0.2.$4:51820" allowed-ips "10.98.0.$4/32"
    at "plain-$1" ip addr add "10.98.0.$2/32" dev wg0
    at "plain-$1" ip link set wg0 up mtu 1420
    at "plain-$1" ip route add "10.98.0.$4/32" dev wg0
}
boringtun a 1 b 2
boringtun b 2 a 1
at plain-b "$meter" receive 10.98.0.2:2575 &

# ---- wardlink on both sides, the receiver and the sender outside the tunnel ----
pair ward-
site() { # SIDE OWN-NUMBER OTHER-SIDE OTHER-NUMBER, then the sections on stdin
    {
        cat <<YAML
site: $1
state_dir: $PWD/state-$1
tunnel:
  interface: wl0
  private_key_file: $PWD/$1.key
  listen_port: 51820
  address: [10.98.0.$2/32]
peers:
  - name: $3
    public_key: "$(cat "$3.pub")"
    endpoint: 192.0.2.$4:51820
    allowed_ips: [10.98.0.$4/32]
health:
  listen: 127.0.0.1:9575
control:
  socket: $PWD/$1.sock
YAML
        cat
    } >"$1.yaml"
    at "ward-$1" "$wardlink" run -c "$1.yaml" >"wardlink-$1.log" 2>&1 &
}
site b 2 a 1 <<'YAML'
services:
  - name: orders
    target: 127.0.0.1:6661
    allow_peers: [a]
YAML
site a 1 b 2 <<'YAML'
forwards:
  - name: orders
    listen: 127.0.0.1:2575
    peer: b
    service: orders
YAML
at ward-b "$meter" receive 127.0.0.1:6661 &

# ---- interleaved rounds ----
round() { # NAME ADDRESS
    at "$1" timeout 120 "$meter" send "$2" "$count" || { cat ./*.log >&2; exit 1; }
}
median() { sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }

printf '%-8s %12s %12s %12s %12s\n' round "boringtun p50" p99 "wardlink p50" p99
for number in $(seq "$rounds"); do
    plain=$(round plain-a 10.98.0.2:2575)
    ward=$(round ward-a 127.0.0.1:2575)
    printf '%-8s %12s %12s %12s %12s\n' "$number" $plain $ward
    echo "${plain% *}" >>plain.p50
    echo "${plain#* }" >>plain.p99
    echo "${ward% *}" >>ward.p50
    echo "${ward#* }" >>ward.p99
done
awk -v p50="$(median <plain.p50)" -v p99="$(median <plain.p99)" -v w50="$(median <ward.p50)" -v w99="$(median <ward.p99)" \
    -v target="$target" 'BEGIN {
        printf "median   %12s %12s %12s %12s   µs, %s\n", p50, p99, w50, w99, "of the rounds"
        printf "ratio    p50 %.2f (at most %s), p99 %.2f\n", w50 / p50, target, w99 / p99
        exit w50 / p50 > target
    }'

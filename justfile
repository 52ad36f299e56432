# The common commands; `just` lists them.

default:
    @just --list --unsorted

# builds what is shipped
build:
    cargo build --release --locked

# two sites on this machine, a real tunnel, real messages, nothing left behind
demo: build
    target/release/wardlink demo

# everything that has a test
test *ARGS:
    cargo test --locked {{ARGS}}

# whole sites in network namespaces, or those whose name contains ARGS
netns *ARGS:
    cargo test --locked --test netns -- {{ARGS}}

# the same, at the sizes and durations of the acceptance criteria
netns-full *ARGS:
    WARDLINK_NETNS_FULL=1 cargo test --release --locked --test netns -- {{ARGS}}

# what a review refuses without
check:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
    cargo deny --locked check

# the latency beside boringtun-cli without a forwarder
bench: build
    bench/latency.sh

# throughput, round trip, processor time and memory beside other implementations
bench-tunnel:
    bench/tunnel/run

# stored delivery: rate by round trip, intake, a long queue, kills
bench-stored:
    bench/stored/run

# thousands of faults against stored delivery
faults *ARGS:
    bench/faults/run {{ARGS}}

# idle connections' memory, and latency beside an abusive source
protect:
    bench/protect/run

# half an hour beside wireguard-go: stalls, each direction for itself
soak:
    bench/soak

# the Debian package, and its test: installed, upgraded, removed and purged in a copy of this root
deb *ARGS:
    packaging/deb {{ARGS}}

test-deb *ARGS:
    packaging/test {{ARGS}}

# what CI runs
ci:
    .ci/run

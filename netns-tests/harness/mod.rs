//! What the tests of whole sites are built from: namespaces, a wire between them, sites, HL7 systems, a capture.
//! Nothing here uses wardlink's own code: what is tested does not judge itself.

pub(crate) mod capture;
pub(crate) mod commit;
pub(crate) mod flood;
pub(crate) mod isolation;
pub(crate) mod load;
pub(crate) mod mllp;
pub(crate) mod namespace;
pub(crate) mod pair;
pub(crate) mod plain;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod tls;
pub(crate) mod wg;
pub(crate) mod wire;

use std::path::Path;
use std::time::{Duration, Instant};

/// Is the pause between two looks at something that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(5);

/// Is one behaviour: its name, the programs (or `ipv6`, or `full`) that it needs, and the test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [&'static str],
    pub(crate) run: fn(),
}

/// Lists the tests of a module: `tests![name, name needs "program" "program"]` defines `tests()`.
macro_rules! tests {
    ($($test:ident $(needs $($program:literal)+)?),* $(,)?) => {
        /// Lists this theme's tests.
        pub(crate) fn tests() -> Vec<$crate::harness::Case> {
            vec![$($crate::harness::Case {
                name: concat!(module_path!(), "::", stringify!($test)),
                needs: &["ip", "setpriv", $($($program),+)?],
                run: $test,
            }),*]
        }
    };
}
pub(crate) use plain as wireguard_go;
pub(crate) use tests;

/// Tells whether the sizes and durations of the acceptance criteria are asked for.
pub(crate) fn full() -> bool {
    std::env::var_os("WARDLINK_NETNS_FULL").is_some_and(|value| value != "0")
}

/// Tells whether a program is on the PATH, or, for `ipv6`, whether the kernel has it, for `full`, whether the sizes and
/// durations of the acceptance criteria are asked for, for `peer:NAME` whether `netns-tests/peers/install` installed it, for
/// `rsyslog-openssl` whether rsyslog has its module of TLS.
pub(crate) fn is_available(need: &str) -> bool {
    if need == "ipv6" {
        return Path::new("/proc/sys/net/ipv6").exists();
    }
    if need == "full" {
        return full();
    }
    if need == "rsyslog-openssl" {
        let mut dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        return dirs.any(|dir| dir.path().join("rsyslog/lmnsd_ossl.so").is_file());
    }
    if let Some(peer) = need.strip_prefix("peer:") {
        return crate::peers::is_installed(peer);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(need).is_file())
}

/// Waits until `look` returns something, at most `limit`; panics with `what` otherwise. Returns it and the time taken.
#[track_caller]
pub(crate) fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < limit, "after {limit:?} still not: {what}");
        std::thread::sleep(POLL_PAUSE);
    }
}

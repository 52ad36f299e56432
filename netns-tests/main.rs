//! Whole sites in network namespaces, behaviour by behaviour: an own "Internet" and own sites for each test, the real
//! binary in them, and HL7 systems that know nothing of a tunnel. Nothing is left behind, also after `kill -9`.
//!
//! Needs root or an unprivileged user namespace, and `ip`; what else a test needs is named beside it, and a test whose
//! programs are missing is reported as ignored with the reason. `WARDLINK_NETNS_FULL=1` runs the sizes and durations of
//! the acceptance criteria.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test: whatever is wrong here must end it loudly"
)]

mod alarms;
mod atna;
mod audit;
mod audit_peers;
mod cases;
mod causes;
mod cli;
mod clock;
mod endpoint_roaming;
mod faults;
mod filter;
mod flood;
mod harness;
mod health;
mod health_beyond;
mod hub;
mod idle;
#[allow(dead_code, unused_imports, reason = "what only its tool by hand and its own tests use")]
mod impair;
mod impairments;
mod interop;
mod interop_matrix;
mod ipv6;
mod message_through;
mod offload;
mod outage;
mod outages;
mod pairing;
mod path_mtu;
mod peer_restart;
mod peers;
mod receiver_down;
mod release_2;
mod reload;
mod rotation;
mod routes;
mod self_test;
mod status_page;
mod stored_faults;
mod stored_intake;
mod stored_rotation;
mod stored_standstill;
mod tls;
mod torrent;
mod tunnel;
mod uapi;
mod unit;
mod wg_quick_files;
mod wireguard_suite;

use std::panic::{catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::harness::{Case, isolation};

/// Bounds one test: the slowest takes a few seconds, a machine that is busy several times that.
const TEST_LIMIT: Duration = Duration::from_secs(90);

/// Bounds one test at the sizes and durations of the acceptance criteria: thousands of faults included.
const TEST_LIMIT_FULL: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    if self_test::is_victim() {
        return self_test::be_the_victim();
    }
    if let Some(socket) = cli::crowded() {
        return cli::be_a_crowd(&socket);
    }
    if let Some(calls) = unit::filtered() {
        return unit::become_filtered(&calls);
    }
    let mut arguments = Arguments::from_args();
    // they mostly wait: for timers, peers and processes
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    arguments.test_threads.get_or_insert(2 * cores);
    // before any thread: a user namespace can only be entered by a process with one thread
    let isolated = isolation::enter();
    if let Err(reason) = &isolated {
        eprintln!("netns tests: {reason}; every test is ignored");
    }
    let cases = [
        self_test::tests(),
        message_through::tests(),
        cases::sender::tests(),
        cases::receiver::tests(),
        receiver_down::tests(),
        release_2::tests(),
        reload::tests(),
        peer_restart::tests(),
        offload::tests(),
        outage::tests(),
        peers::tests(),
        outages::tests(),
        pairing::tests(),
        impairments::tests(),
        path_mtu::tests(),
        endpoint_roaming::tests(),
        filter::tests(),
        interop::tests(),
        interop_matrix::tests(),
        alarms::tests(),
        causes::tests(),
        health::tests(),
        health_beyond::tests(),
        status_page::tests(),
        hub::tests(),
        idle::tests(),
        ipv6::tests(),
        atna::tests(),
        audit::tests(),
        audit_peers::tests(),
        unit::tests(),
        cli::tests(),
        clock::tests(),
        flood::tests(),
        stored_faults::tests(),
        stored_intake::tests(),
        stored_rotation::tests(),
        stored_standstill::tests(),
        tunnel::tests(),
        tls::tests(),
        torrent::tests(),
        uapi::tests(),
        rotation::tests(),
        routes::tests(),
        wg_quick_files::tests(),
        wireguard_suite::tests(),
        faults::tests(),
    ];
    let trials = cases.into_iter().flatten().map(|case| trial(case, isolated.clone())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(case: Case, isolated: Result<(), String>) -> Trial {
    let name = case.name.trim_start_matches("netns::");
    Trial::ignorable_test(name, move || {
        if let Err(reason) = isolated {
            return Ok(Completion::ignored_with(reason));
        }
        if let Some(missing) = case.needs.iter().find(|need| !harness::is_available(need)) {
            return Ok(Completion::ignored_with(match *missing {
                "full" => "it takes minutes: WARDLINK_NETNS_FULL=1 runs it".to_owned(),
                need if need.starts_with("peer:") => {
                    let peer = need.trim_start_matches("peer:");
                    format!("{peer} is not installed: netns-tests/peers/install")
                }
                program => format!("{program} is not available here"),
            }));
        }
        run_bounded(case.run).map(|()| Completion::Completed)
    })
}

/// Runs a test in a thread of its own, so that one that hangs fails instead of stopping all.
fn run_bounded(test: fn()) -> Result<(), Failed> {
    let limit = if harness::full() { TEST_LIMIT_FULL } else { TEST_LIMIT };
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let outcome = catch_unwind(test);
        // nobody waits any more where the limit has passed
        let _ = done.send(outcome);
    });
    match ended.recv_timeout(limit) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err(format!("it did not end within {limit:?}").into()),
    }
}

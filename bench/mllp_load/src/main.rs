//! Loads a way that MLLP goes: numbered messages from many connections, each of which sends the next one when the answer to
//! the last has come; a receiver that keeps account of what came twice or late; what an fdatasync takes.
//!
//! `mllp_load send ADDRESS COUNT CONNECTIONS FIRST [BYTES [fresh]]` prints the seconds, the p50 and p99 of an answer in
//! microseconds, and how often a message was sent again; its senders are numbered from FIRST, a payload has 500 bytes where
//! nothing is said, and `fresh` opens a connection for each message. `mllp_load hold ADDRESS COUNT FIRST` opens so many
//! connections, exchanges a message on each, prints `held` and keeps them. `mllp_load receive ADDRESS` prints its account
//! whenever it has changed, at most ten times a second. `mllp_load sync DIRECTORY COUNT` prints the p50 and p99 of an append
//! and its fdatasync in microseconds.

mod receive;
mod send;
mod sync;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

/// Is the size of each payload, in bytes: a usual ORU.
pub const MESSAGE_BYTES: usize = 500;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["receive", address] => receive::receive(address),
        ["send", address, ref numbers @ .., "fresh"] => match parse(numbers)[..] {
            [count, connections, first, bytes] => send::send(address, count, connections, first, bytes, true),
            _ => return usage(),
        },
        ["send", address, ref numbers @ ..] => match parse(numbers)[..] {
            [count, connections, first] => send::send(address, count, connections, first, MESSAGE_BYTES, false),
            [count, connections, first, bytes] => send::send(address, count, connections, first, bytes, false),
            _ => return usage(),
        },
        ["hold", address, ref numbers @ ..] => match parse(numbers)[..] {
            [count, first] => send::hold(address, count, first),
            _ => return usage(),
        },
        ["sync", directory, count] => match count.parse() {
            Ok(count) => sync::sync(directory.as_ref(), count),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mllp_load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: mllp_load receive ADDRESS | send ADDRESS COUNT CONNECTIONS FIRST [BYTES [fresh]] | hold ADDRESS COUNT FIRST | \
         sync DIRECTORY COUNT"
    );
    ExitCode::from(64)
}

/// Reads numbers; what is none is left out, so that too few remain.
fn parse(words: &[&str]) -> Vec<usize> {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

/// Returns the p50 and p99 in microseconds.
pub fn percentiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    [500, 990].map(|permille| times.get(last * permille / 1000).map_or(0.0, |time| time.as_nanos() as f64 / 1000.0))
}

//! Tests of the chain: whatever is done to a log without the key shows.

use proptest::prelude::*;

use super::*;

fn key() -> ChainKey {
    ChainKey::new(&[7; 32])
}

/// Writes a log of so many entries, one line each.
fn log(entries: u64) -> Vec<Vec<u8>> {
    let (mut chain, mut lines) = (Chain::NONE, Vec::new());
    for n in 1..=entries {
        let object = match n {
            1 => format!(
                "{{\"n\":1,\"at\":\"2026-01-01T00:00:00.000Z\",\"event\":\"segment\",\"site\":\"a\",\"from\":\"{chain}\"}}"
            ),
            _ => format!(
                "{{\"n\":{n},\"at\":\"2026-01-01T00:00:00.000Z\",\"event\":\"accepted\",\"site\":\"a\",\"bytes\":{n}}}"
            ),
        };
        let mut line = Vec::new();
        chain = key().seal(&chain, |out| out.extend_from_slice(object.as_bytes()), &mut line);
        line.pop();
        lines.push(line);
    }
    lines
}

fn walk(lines: &[Vec<u8>]) -> Result<u64, Fault> {
    let mut walk = Walk::new(key());
    lines.iter().try_for_each(|line| walk.handle_line(line).map(drop))?;
    Ok(walk.at().map_or(0, |(n, _)| n))
}

#[test]
fn a_whole_log_is_whole() {
    assert_eq!(walk(&log(20)), Ok(20));
    assert_eq!(walk(&[]), Ok(0));
    let line = String::from_utf8(log(1).remove(0)).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
}

#[test]
fn every_entry_that_is_changed_left_out_or_put_elsewhere_is_named() {
    for at in 0..12 {
        let n = at as u64 + 1;
        let mut changed = log(12);
        let text = String::from_utf8(changed[at].clone()).unwrap().replace("2026-01", "2025-01");
        changed[at] = text.into_bytes();
        assert_eq!(walk(&changed), Err(Fault::Changed { entry: n }));
        let mut less = log(12);
        less.remove(at);
        let expected = match at {
            0 => Err(Fault::NotAnEntry { after: 0 }),
            11 => Ok(11), // what is cut off at the end shows by the head
            _ => Err(Fault::Missing { first: n, last: n }),
        };
        assert_eq!(walk(&less), expected);
        let mut twice = log(12);
        twice.insert(at, twice[at].clone());
        assert_eq!(walk(&twice), Err(Fault::OutOfOrder { expected: n + 1, found: n }));
        let mut torn = log(12);
        torn[at].truncate(40);
        assert_eq!(walk(&torn), Err(Fault::NotAnEntry { after: at as u64 }));
    }
}

#[test]
fn a_log_that_another_key_wrote_is_none() {
    let mut walk = Walk::new(ChainKey::new(&[8; 32]));
    assert_eq!(walk.handle_line(&log(1)[0]), Err(Fault::Changed { entry: 1 }));
    assert_eq!(walk.at(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_can_be_changed(line in 0..8_usize, at in 0..400_usize, to in any::<u8>()) {
        let mut lines = log(8);
        let at = at % lines[line].len();
        prop_assume!(lines[line][at] != to);
        lines[line][at] = to;
        prop_assert!(walk(&lines).is_err());
    }

    #[test]
    fn any_bytes_are_refused_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Walk::new(key()).handle_line(&bytes).is_err());
    }
}

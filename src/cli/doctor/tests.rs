//! Tests of what the doctor concludes from what it found.

use std::time::Duration;

use super::facts::{Both, Facts, Pipelined, Second};
use super::messages::{Asks, Messages};
use super::profile::{Place, Profile};
use crate::mllp::ack::AckCode;
use crate::mllp::message::{Header, Mode};

/// Is a receiver without any fault.
fn good() -> Facts {
    Facts {
        code: Some(AckCode::ApplicationAccept),
        longest: Duration::from_millis(20),
        is_kept: true,
        both: Some(Both { accept: true, application: true }),
        bare_harms: Some(false),
        second: Some(Second::Served),
        at_once: Some(super::probes::AT_ONCE),
        ..Facts::default()
    }
}

fn set(facts: &Facts, key: &str) -> Option<String> {
    Profile::of(facts).settings.into_iter().find(|setting| setting.key == key).map(|setting| setting.value)
}

#[test]
fn a_good_receiver_needs_no_limits() {
    let keys: Vec<_> = Profile::of(&good()).settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
    assert_eq!(
        keys,
        [("ack", "application"), ("ack_timeout", "30s"), ("probe", "tcp")].map(|(key, value)| (key, value.to_owned()))
    );
}

#[test]
fn a_receiver_that_serves_one_connection_gets_one_and_no_probe() {
    for second in [Second::Waits, Second::Unserved, Second::Refused, Second::TakesOver] {
        let facts = Facts { second: Some(second), at_once: None, ..good() };
        assert_eq!(set(&facts, "connections").as_deref(), Some("1"));
        assert_eq!(set(&facts, "probe").as_deref(), Some("none"));
    }
    let facts = Facts { at_once: Some(3), ..good() };
    assert_eq!(set(&facts, "connections").as_deref(), Some("3"));
    assert_eq!(set(&Facts { bare_harms: Some(true), ..good() }, "probe").as_deref(), Some("none"));
}

#[test]
fn the_answer_that_settles_is_one_that_comes() {
    let only_accept = Some(Both { accept: true, application: false });
    assert_eq!(set(&Facts { both: only_accept, ..good() }, "ack").as_deref(), Some("accept"));
    // never ack: none by itself: what is lost then is lost unseen
    let facts = Facts { takes_any: true, ..good() };
    assert_eq!(set(&facts, "ack"), None);
    assert!(Profile::of(&facts).yaml("a:1").contains("use delivery: transparent"));
}

#[test]
fn the_wait_for_an_answer_is_far_above_the_longest() {
    let slow = |seconds| set(&Facts { longest: Duration::from_secs(seconds), ..good() }, "ack_timeout").unwrap();
    assert_eq!([slow(1), slow(20), slow(100_000)], ["30s", "201s", "3600s"]);
}

#[test]
fn what_is_the_forwards_is_a_comment_in_the_service() {
    let facts = Facts { largest: Some("64KiB"), too_large: Some("256KiB"), is_kept: false, ..good() };
    let profile = Profile::of(&facts);
    assert!(profile.settings.iter().any(|setting| setting.place == Place::Forward && setting.value == "64KiB"));
    let yaml = profile.yaml("10.0.0.1:2575");
    assert!(yaml.contains("\n#   max_message_size: 64KiB\n") && yaml.contains("\n    in_doubt: resend\n"), "{yaml}");
    assert!(yaml.lines().all(|line| line.len() <= 120), "{yaml}");
}

#[test]
fn a_target_stays_one_yaml_string() {
    let yaml = Profile::of(&good()).yaml("a\": x\n\u{7}b:1");
    assert_eq!(yaml.lines().filter(|line| line.contains("target")).count(), 1);
    assert!(yaml.contains(r#"target: "a\": x\n\u0007b:1""#), "{yaml}");
}

fn three() -> Pipelined {
    Pipelined { sent: 3, answered: 3, in_order: Some(true), repeated: 0, is_cut: false }
}

#[test]
fn what_is_said_of_repeated_answers_names_the_counters_that_count_them() {
    let mut facts = good();
    facts.quirks.repeated = 2;
    let yaml = Profile::of(&facts).yaml("a:1").replace("\n# ", " ");
    assert!(yaml.contains("(service_dropped_answers_total, kind late)"), "{yaml}");
    assert!(yaml.contains("connections: 1 (service_anomalies_total, kind answer_unmatched)"), "{yaml}");
}

#[test]
fn what_comes_together_is_judged() {
    let means =
        |answered, in_order, repeated| Pipelined { answered, in_order: Some(in_order), repeated, ..three() }.means();
    let counted = |answered| Pipelined { answered, in_order: None, ..three() }.means();
    let flooded = Pipelined { answered: 2, repeated: 700, is_cut: true, ..three() };
    assert!(flooded.means().starts_with("it answers more than once"), "what was not looked at is not lost");
    let facts = Facts { pipelined: Some(flooded), ..good() };
    assert!(!Profile::of(&facts).yaml("a:1").contains("come together"));
    assert!(means(1, true, 0).starts_with("it loses"));
    assert!(means(3, true, 3).starts_with("it answers more than once"));
    assert!(means(3, false, 0).contains("by MSA-2"));
    assert!(means(3, true, 0).contains("need not wait"));
    assert!(counted(3).contains("need not wait"));
    // stored delivery is no way out where answers name no message
    assert!(counted(1).starts_with("it loses") && !counted(1).contains("stored"));
    let lost = Some(Pipelined { answered: 1, in_order: None, ..three() });
    let facts = Facts { takes_any: true, is_kept: true, pipelined: lost, untolerated: vec!["NUL behind"], ..good() };
    let yaml = Profile::of(&facts).yaml("a:1");
    assert!(yaml.contains("must wait for each answer") && !yaml.contains("delivery: stored"), "{yaml}");
}

#[test]
fn messages_are_synthetic_and_differ() {
    let mut messages = Messages::new("ORU^R01", 7);
    let (one, both, large) = (messages.small(), messages.asking(Asks::ForBoth), messages.of_bytes(70_000));
    assert_ne!(one.control_id, both.control_id);
    assert_eq!(large.frame.len(), 70_000 + 3);
    for message in [&one, &both, &large] {
        let payload = &message.frame[1..message.frame.len() - 2];
        let header = Header::parse(payload).expect("an MSH");
        assert_eq!(header.control_id(), message.control_id.as_bytes());
        assert_eq!((header.processing_id(), header.message_type()), (&b"T"[..], &b"ORU^R01"[..]));
        let is_enhanced = matches!(header.mode(), Mode::Enhanced { .. });
        assert_eq!(is_enhanced, message.control_id == both.control_id);
    }
}

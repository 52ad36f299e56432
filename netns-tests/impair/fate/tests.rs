//! What any way keeps to, whatever it is told to do.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn some_impairment() -> impl Strategy<Value = Impairment> {
    let chances = (0.0..0.5, 0.0..0.5, 0.0..0.5, 0.0..0.5);
    let times = (0_u64..50, 0_u64..50, 1_u64..30);
    let rate = prop::option::of((10_000_u64..100_000_000, 3_000_u64..200_000));
    let mtu = prop_oneof![
        Just(None),
        (600_u64..1600).prop_map(|mtu| Some(Mtu::Drop(mtu))),
        (600_u64..1600).prop_map(|mtu| Some(Mtu::Fragment(mtu)))
    ];
    let cut = prop::option::of((0_u64..500, 1_u64..500));
    (chances, times, rate, mtu, cut).prop_map(|(chances, (delay, jitter, by), rate, mtu, cut)| Impairment {
        loss: chances.0,
        delay: MS * delay as u32,
        jitter: MS * jitter as u32,
        reorder: chances.1,
        reorder_by: MS * by as u32,
        duplicate: chances.2,
        corrupt: chances.3,
        rate: rate.map(|(bits_per_s, queue_bytes)| Rate { bits_per_s, queue_bytes }),
        mtu,
        cuts: cut.map(|(from, length)| MS * from as u32..MS * (from + length) as u32).into_iter().collect(),
    })
}

/// Is when packets come, in order, and how long they are.
fn some_packets() -> impl Strategy<Value = Vec<(Duration, u64)>> {
    prop::collection::vec((0_u64..5_000, 28_u64..1600), 1..300).prop_map(|gaps| {
        let mut now = Duration::ZERO;
        let timed = gaps.into_iter().map(|(gap_us, bytes)| {
            now += Duration::from_micros(gap_us);
            (now, bytes)
        });
        timed.collect()
    })
}

fn fates(impairment: &Impairment, seed: u64, packets: &[(Duration, u64)]) -> Vec<Fate> {
    let mut way = Way::new(impairment.clone(), seed);
    packets.iter().map(|(now, bytes)| way.handle_packet(*now, *bytes)).collect()
}

fn arrival(fate: &Fate) -> Option<Duration> {
    match fate {
        Fate::Arrives { at, .. } => Some(*at),
        Fate::Lost(_) => None,
    }
}

proptest! {
    #[test]
    fn the_same_seed_and_packets_have_the_same_fate(how in some_impairment(), seed: u64, packets in some_packets()) {
        prop_assert_eq!(fates(&how, seed, &packets), fates(&how, seed, &packets));
    }

    #[test]
    fn a_way_that_does_nothing_changes_nothing(seed: u64, packets in some_packets()) {
        for (fate, (now, _)) in fates(&Impairment::default(), seed, &packets).iter().zip(&packets) {
            prop_assert_eq!(fate, &Fate::Arrives { at: *now, copies: 1, flip: None });
        }
    }

    #[test]
    fn only_reordering_reorders(how in some_impairment(), seed: u64, packets in some_packets()) {
        let how = Impairment { reorder: 0.0, ..how };
        let at: Vec<Duration> = fates(&how, seed, &packets).iter().filter_map(arrival).collect();
        prop_assert!(at.is_sorted());
    }

    #[test]
    fn a_packet_takes_as_long_as_it_was_told(how in some_impairment(), seed: u64, packets in some_packets()) {
        let queue = how.rate.map_or(Duration::ZERO, |rate| time_of(rate.queue_bytes.max(1600), rate.bits_per_s));
        for (fate, (now, _)) in fates(&how, seed, &packets).iter().zip(&packets) {
            let Some(at) = arrival(fate) else { continue };
            prop_assert!(at >= *now + how.delay.saturating_sub(how.jitter));
            // what keeps the order may add the jitter of those before; they came earlier
            prop_assert!(at <= *now + queue + how.delay + how.jitter + how.reorder_by);
        }
    }

    #[test]
    fn no_more_passes_than_the_rate(bits_per_s in 10_000_u64..100_000_000, seed: u64, packets in some_packets()) {
        let how = Impairment { rate: Some(Rate { bits_per_s, queue_bytes: 20_000 }), ..Impairment::default() };
        let mut passed_bytes = 0;
        for (fate, (_, bytes)) in fates(&how, seed, &packets).iter().zip(&packets) {
            if let Some(at) = arrival(fate) {
                passed_bytes += bytes;
                // each packet's time is rounded down to a nanosecond
                prop_assert!(at + Duration::from_nanos(300) >= packets[0].0 + time_of(passed_bytes, bits_per_s));
            }
        }
    }

    #[test]
    fn nothing_passes_during_a_cut_and_everything_else_does(
        from in 0_u64..400, length in 1_u64..400, seed: u64, packets in some_packets()
    ) {
        let cut = MS * from as u32..MS * (from + length) as u32;
        let how = Impairment { cuts: vec![cut.clone()], ..Impairment::default() };
        for (fate, (now, _)) in fates(&how, seed, &packets).iter().zip(&packets) {
            prop_assert_eq!(*fate == Fate::Lost(Lost::Cut), cut.contains(now));
            prop_assert_eq!(arrival(fate).is_some(), !cut.contains(now));
        }
    }

    #[test]
    fn each_impairment_has_its_own_chance(how in some_impairment(), seed: u64, packets in some_packets()) {
        let lossy = Impairment { loss: how.loss, ..Impairment::default() };
        let more = Impairment { rate: None, mtu: None, cuts: Vec::new(), ..how };
        let lost = |how| fates(how, seed, &packets).iter().map(|fate| arrival(fate).is_none()).collect::<Vec<_>>();
        prop_assert_eq!(lost(&lossy), lost(&more));
    }

    #[test]
    fn only_what_is_too_long_is_dropped_as_such(mtu in 100_u64..1600, seed: u64, packets in some_packets()) {
        let how = Impairment { mtu: Some(Mtu::Drop(mtu)), ..Impairment::default() };
        for (fate, (_, bytes)) in fates(&how, seed, &packets).iter().zip(&packets) {
            prop_assert_eq!(*fate == Fate::Lost(Lost::TooLarge), *bytes > mtu);
        }
    }
}

#[test]
fn as_many_packets_are_hit_as_was_asked_for() {
    let how = Impairment {
        loss: 0.05,
        reorder: 0.02,
        reorder_by: MS,
        duplicate: 0.03,
        corrupt: 0.01,
        ..Impairment::default()
    };
    let packets: Vec<(Duration, u64)> = (0..100_000).map(|n| (MS * n, 1000)).collect();
    let mut way = Way::new(how, 7);
    for (now, bytes) in &packets {
        way.handle_packet(*now, *bytes);
    }
    let counts = way.counts();
    // five standard deviations of a binomial distribution
    for (count, expected) in
        [(counts.lost, 5000), (counts.reordered, 1900), (counts.duplicated, 2850), (counts.corrupted, 950)]
    {
        let spread = 5 * u64::isqrt(expected);
        assert!(count.abs_diff(expected) < spread, "{count} instead of {expected} in {counts:?}");
    }
}

#[test]
fn seeds_differ_and_so_do_the_fates() {
    let how = Impairment { loss: 0.5, ..Impairment::default() };
    let packets: Vec<(Duration, u64)> = (0..64).map(|n| (MS * n, 1000)).collect();
    assert_ne!(fates(&how, 1, &packets), fates(&how, 2, &packets));
}

#[test]
fn a_full_queue_drops_the_newest() {
    // 1000 bytes take 1 ms; two of them wait, with the one that leaves
    let rate = Rate { bits_per_s: 8_000_000, queue_bytes: 3000 };
    let how = Impairment { rate: Some(rate), ..Impairment::default() };
    let packets: Vec<(Duration, u64)> = vec![(Duration::ZERO, 1000); 5];
    let at: Vec<Option<Duration>> = fates(&how, 1, &packets).iter().map(arrival).collect();
    assert_eq!(at, [Some(MS), Some(MS * 2), Some(MS * 3), None, None]);
}

#[test]
fn a_packet_that_is_held_back_is_overtaken() {
    let how = Impairment { reorder: 0.5, reorder_by: MS * 10, delay: MS, ..Impairment::default() };
    let packets: Vec<(Duration, u64)> = (0..100).map(|n| (MS * n, 1000)).collect();
    for (fate, (now, _)) in fates(&how, 3, &packets).iter().zip(&packets) {
        let took = arrival(fate).expect("none is lost") - *now;
        assert!(took == MS || took == MS * 11, "{took:?}");
    }
}

#[test]
fn each_fragment_may_be_lost() {
    let how = |mtu| Impairment { loss: 0.1, mtu: Some(Mtu::Fragment(mtu)), ..Impairment::default() };
    let lost = |mtu| {
        let packets: Vec<(Duration, u64)> = (0..100_000).map(|n| (MS * n, 1500)).collect();
        fates(&how(mtu), 1, &packets).iter().filter(|fate| arrival(fate).is_none()).count()
    };
    assert!(lost(1500).abs_diff(10_000) < 500);
    assert!(lost(1280).abs_diff(19_000) < 700, "two fragments");
    assert_eq!([fragments(1500, 1500), fragments(1501, 1500), fragments(65_535, 1500)], [1, 2, 45]);
}

#[test]
fn another_impairment_takes_over_at_once() {
    let mut way = Way::new(Impairment::default(), 1);
    assert!(arrival(&way.handle_packet(MS, 100)).is_some());
    way.set(Impairment { loss: 1.0, ..Impairment::default() });
    assert_eq!(way.handle_packet(MS * 2, 100), Fate::Lost(Lost::Chance));
    assert_eq!((way.counts().packets, way.counts().lost), (2, 1));
}

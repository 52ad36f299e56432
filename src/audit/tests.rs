//! Tests of the log in its files: what is recorded is there again, and whatever is done to it shows.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::read::{Broken, Verified, Witness, entries, segments, verify, verify_after};
use super::store::{Store, load_or_create_key};
use super::*;

const LIMITS: Limits = Limits { keep: Duration::from_secs(86_400), bytes_max: 1 << 30, segment_bytes: Some(2000) };

fn key(directory: &Path) -> [u8; 32] {
    *load_or_create_key(directory).unwrap().expose()
}

fn open(directory: &Path) -> Store {
    Store::open(directory, &key(directory), "hospital", LIMITS, None).unwrap()
}

fn record(sequence: u64) -> Record {
    let subject = Subject { forward: Some("orders".into()), ..Subject::default() };
    let position = Some(Position { source: "spool:1".into(), through: sequence });
    Record { sequence, position, ..Record::new(SystemTime::now(), Event::Accepted, subject) }
}

/// Writes so many entries into a new log, over several files.
fn written(count: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    for sequence in 1..=count {
        store.append(&record(sequence));
        store.sync().unwrap();
    }
    directory
}

fn verified(directory: &Path, witnesses: &[Witness]) -> Verified {
    verify(directory, &key(directory), witnesses).unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    segments(directory).unwrap().into_iter().map(|segment| segment.path).collect()
}

fn sequences(directory: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    entries(&segments(directory).unwrap(), |entry, _| {
        found.extend(entry.sequence);
        Ok::<(), AuditError>(())
    })
    .unwrap();
    found
}

#[test]
fn what_is_known_to_be_broken_hides_nothing_behind_it() {
    let directory = written(30);
    let files = files(directory.path());
    let change = |file: &PathBuf, from: &str| {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replacen(from, "\"forward\":\"Orders\",\"sequence\":9", 1)).unwrap();
    };
    let fault = |after, witnesses: &[Witness]| {
        let verified = verify_after(directory.path(), &key(directory.path()), witnesses, after).unwrap();
        verified.fault.map(|fault| fault.to_string())
    };
    change(&files[0], "\"forward\":\"orders\",\"sequence\":2");
    let first = fault(0, &[]).unwrap();
    assert!(first.contains("entry 3 is not as it was written"), "{first}");
    assert_eq!(fault(3, &[]), None);
    assert!(fault(2, &[]).is_some());
    // what a peer knows of it, as after a restore
    let other = Witness { name: "lab".into(), n: 8, chain: Chain([1; 32]) };
    assert!(fault(3, std::slice::from_ref(&other)).unwrap().contains("lab was told of"));
    assert_eq!(fault(8, std::slice::from_ref(&other)), None);
    // the entry behind what is known: it is verified, or it is said that it cannot be, and never passed over
    let whole = fs::read_to_string(&files[0]).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    for gone in ["", "x\n"] {
        let edited = lines[5].replacen("hospital", "Hospital", 1);
        for line in [lines[5], &edited] {
            let text =
                [&lines[..4], &[line], &lines[6..]].concat().join("\n").replacen(line, &format!("{gone}{line}"), 1);
            fs::write(&files[0], text + "\n").unwrap();
            assert!(fault(5, &[]).unwrap().contains("entry 6 cannot be verified"), "{:?}", fault(5, &[]));
            assert_eq!(fault(6, &[]), None);
        }
    }
    // where it begins a file, that says what it is chained to
    let short = lines[..lines.len() - 1].join("\n") + "\n";
    fs::write(&files[0], short).unwrap();
    let count = lines.len() as u64;
    assert_eq!(fault(count, &[]), None);
    assert!(fault(count - 1, &[]).unwrap().contains("are missing"));
    let next = fs::read_to_string(&files[1]).unwrap();
    fs::write(&files[1], next.replacen("hospital", "Hospital", 1)).unwrap();
    assert!(fault(count, &[]).unwrap().contains(&format!("entry {} is not as it was written", count + 1)));
    fs::write(&files[1], next).unwrap();
    fs::write(&files[0], &whole).unwrap();
    // a later change shows, in the same file and in another one; a removed line and one that is none are passed over too
    let text = fs::read_to_string(&files[0]).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let count = lines.len() as u64;
    fs::write(&files[0], format!("{}\nx\n{}\n", lines[0], lines[3..].join("\n"))).unwrap();
    assert!(fault(0, &[]).is_some());
    assert_eq!(fault(count, &[]), None);
    change(files.last().unwrap(), "\"forward\":\"orders\",\"sequence\":30");
    assert!(fault(count, &[]).unwrap().contains("is not as it was written"));
}

#[test]
fn the_entry_before_a_record_is_told() {
    let directory = written(3);
    let account = Account::start(directory.path(), "hospital", LIMITS);
    account.record(record(4));
    let behind = account.record_behind(Record::new(SystemTime::now(), Event::Configured, Subject::default()));
    account.record(record(5));
    let behind = behind.blocking_recv().unwrap();
    account.stop();
    let mut numbers = Vec::new();
    entries(&segments(directory.path()).unwrap(), |entry, _| {
        numbers.extend(Some(entry.n).filter(|_| entry.event == "configured"));
        Ok::<(), AuditError>(())
    })
    .unwrap();
    assert_eq!(numbers, [behind + 1]);
    assert!(account.record_behind(record(6)).blocking_recv().is_err(), "it is lost");
}

#[test]
fn what_is_recorded_is_there_after_a_restart_and_goes_on() {
    let directory = written(30);
    assert!(files(directory.path()).len() > 2);
    let mut store = open(directory.path());
    assert_eq!(store.standing().positions.get("spool:1"), Some(&30));
    store.append(&record(31));
    store.sync().unwrap();
    assert_eq!(sequences(directory.path()), (1..=31).collect::<Vec<_>>());
    let verified = verified(directory.path(), &[]);
    assert_eq!((verified.fault, verified.first, verified.last.unwrap().0), (None, 1, store.head().0));
}

#[test]
fn every_changed_line_is_named_by_its_entry() {
    let directory = written(12);
    for path in files(directory.path()) {
        let whole = fs::read_to_string(&path).unwrap();
        for (at, line) in whole.lines().enumerate() {
            let changed: Vec<String> = whole
                .lines()
                .enumerate()
                .map(
                    |(other, line)| {
                        if other == at { line.replacen("hospital", "hospitaL", 1) } else { line.to_owned() }
                    },
                )
                .collect();
            fs::write(&path, changed.join("\n") + "\n").unwrap();
            let n = serde_json::from_str::<event::Entry>(line).unwrap().n;
            let fault = verified(directory.path(), &[]).fault;
            let expected = chain::Fault::Changed { entry: n };
            assert!(matches!(&fault, Some(Broken::Line { fault, .. }) if *fault == expected), "{n}: {fault:?}");
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(verified(directory.path(), &[]).fault, None);
}

#[test]
fn a_changed_line_that_a_start_finds_is_known_of_the_site() {
    for changes in [false, true] {
        let directory = written(3);
        let last = files(directory.path()).pop().unwrap();
        if changes {
            let text = fs::read_to_string(&last).unwrap();
            fs::write(&last, text.replacen("hospital", "hospitaL", 1)).unwrap();
        }
        let account = Account::start(directory.path(), "hospital", LIMITS);
        account.stop();
        let found = account.facts().contradicted.map(|(_, cause)| cause);
        assert_eq!(found.as_ref().map(|cause| cause.contains("is not as it was written")), changes.then_some(true));
    }
}

#[test]
fn a_file_that_goes_while_it_is_written_is_told_and_what_comes_is_in_a_new_one() {
    let empty = |directory: &Path| {
        for entry in fs::read_dir(directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    };
    let replace = |file: &Path| {
        fs::copy(file, file.with_extension("copy")).unwrap();
        fs::rename(file.with_extension("copy"), file).unwrap();
    };
    type Take<'a> = &'a dyn Fn(&Path, &Path);
    let ways: [(Take<'_>, bool); 4] = [
        (&|_, file| fs::remove_file(file).unwrap(), true),
        (&|_, file| fs::write(file, "").unwrap(), true),
        (&|directory, _| empty(directory), true),
        (&|_, file| replace(file), false),
    ];
    for (way, (take, is_missed)) in ways.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path());
        let account = Account::start(directory.path(), "hospital", LIMITS);
        account.record(record(1));
        let wait_for = |is_so: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !is_so() {
                assert!(begun.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait_for(&|| account.facts().synced.is_some_and(|(n, _)| n == 2));
        take(directory.path(), &files(directory.path()).pop().unwrap());
        account.record(record(2));
        wait_for(&|| sequences(directory.path()).contains(&2) && account.facts().failed.is_none());
        account.stop();
        assert_eq!(account.facts().contradicted.is_some(), is_missed);
        let fault = verify(directory.path(), &key, &[]).unwrap().fault;
        assert_eq!(fault.is_some(), is_missed, "way {way}: {fault:?}");
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    for name in ["head", "00000000000000000001.jsonl"] {
        let directory = written(1);
        let key = key(directory.path());
        let path = directory.path().join(name);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let refused = verify(directory.path(), &key, &[]).map(|verified| verified.fault.map(|fault| fault.to_string()));
        let said = refused.unwrap_or_else(|error| Some(error.to_string())).unwrap();
        assert!(said.contains("it is no file"), "{said}");
    }
}

#[test]
fn files_that_are_gone_are_missed() {
    for place in 0..3 {
        let directory = written(30);
        let files = files(directory.path());
        let gone = if place == 2 { files.last().unwrap() } else { &files[place] };
        fs::remove_file(gone).unwrap();
        let fault = verified(directory.path(), &[]).fault.unwrap();
        let is_as_expected = match place {
            0 => matches!(fault, Broken::Begin { first: 1, .. }),
            1 => matches!(&fault, Broken::Line { fault: chain::Fault::Missing { .. }, .. }),
            _ => matches!(fault, Broken::CutOff { .. }),
        };
        assert!(is_as_expected, "{fault:?}");
    }
}

#[test]
fn an_end_that_is_cut_off_shows_also_after_the_site_went_on() {
    let last = |directory: &Path| fs::read_to_string(files(directory).pop().unwrap()).unwrap();
    let directory = (5..12).map(written).find(|log| last(log.path()).lines().count() > 2).unwrap();
    let whole = last(directory.path());
    let last = files(directory.path()).pop().unwrap();
    let kept: Vec<&str> = whole.lines().collect();
    fs::write(&last, kept[..kept.len() - 1].join("\n") + "\n").unwrap();
    assert!(matches!(verified(directory.path(), &[]).fault, Some(Broken::CutOff { .. })));
    let mut store = open(directory.path());
    store.append(&record(9));
    store.sync().unwrap();
    let fault = verified(directory.path(), &[]).fault.unwrap();
    assert!(matches!(&fault, Broken::Line { fault: chain::Fault::Missing { .. }, .. }), "{fault:?}");
    // A log that was rolled back with its head is whole to itself; who knows more says so.
    let rolled = written(5);
    let (n, chain) = (verified(directory.path(), &[]).last.unwrap().0 + 5, Chain([1; 32]));
    let witness = |n| Witness { name: "city-lab".into(), n, chain };
    assert!(matches!(verified(rolled.path(), &[witness(n)]).fault, Some(Broken::CutOff { .. })));
    let fault = verified(rolled.path(), &[witness(3)]).fault;
    assert_eq!(fault, Some(Broken::Rewritten { entry: 3, witness: "city-lab".into() }));
}

#[test]
fn a_line_that_a_power_loss_tore_is_cut_off_and_nothing_is_missed() {
    let directory = written(5);
    let last = files(directory.path()).pop().unwrap();
    let mut torn = fs::read(&last).unwrap();
    torn.extend_from_slice(b"{\"n\":9,\"at\":\"20");
    fs::write(&last, torn).unwrap();
    assert_eq!(verified(directory.path(), &[]).fault, None);
    let mut store = open(directory.path());
    store.append(&record(6));
    store.sync().unwrap();
    assert_eq!((verified(directory.path(), &[]).fault, sequences(directory.path()).len()), (None, 6));
}

#[test]
fn old_files_go_and_what_is_left_is_whole() {
    let directory = written(40);
    let mut store = open(directory.path());
    store.prune(SystemTime::now()).unwrap();
    let before = files(directory.path()).len();
    assert_eq!(sequences(directory.path()).len(), 40);
    store.prune(SystemTime::now() + Duration::from_secs(100_000)).unwrap();
    let left = verified(directory.path(), &[]);
    assert!(files(directory.path()).len() < before && left.first > 1, "{left:?}");
    assert_eq!((left.fault, left.pruned_through + 1), (None, left.first));
    drop(store);
    assert_eq!(open(directory.path()).standing().pruned_through, left.pruned_through);
    assert_eq!(open(directory.path()).standing().positions.get("spool:1"), Some(&40));
    // Somebody else's hand is seen.
    fs::remove_file(&files(directory.path())[0]).unwrap();
    assert!(verified(directory.path(), &[]).fault.is_some());
}

#[test]
fn too_much_goes_as_what_is_old_does() {
    let directory = written(40);
    let limits = Limits { bytes_max: 5000, ..LIMITS };
    let mut store = Store::open(directory.path(), &key(directory.path()), "hospital", limits, None).unwrap();
    store.prune(SystemTime::now()).unwrap();
    let bytes: u64 = files(directory.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes <= 7500, "{bytes}");
    assert_eq!(verified(directory.path(), &[]).fault, None);
}

#[test]
fn a_key_that_is_gone_is_never_made_anew() {
    let directory = written(3);
    fs::remove_file(directory.path().join("key")).unwrap();
    let error = load_or_create_key(directory.path()).unwrap_err();
    assert!(matches!(error, AuditError::KeyMissing { .. }));
    let account = Account::start(directory.path(), "hospital", LIMITS);
    account.record(record(4));
    assert!(account.facts().failed.is_some() && account.trace_key().is_none());
    account.stop();
}

#[test]
fn what_finds_no_room_is_counted_and_said() {
    let directory = tempfile::tempdir().unwrap();
    let account = Account::start(directory.path(), "hospital", LIMITS);
    for sequence in 1..=RECORDS_MAX as u64 * 3 {
        account.record(record(sequence));
    }
    let lost = account.facts().lost;
    account.stop();
    assert!(lost > 0);
    let mut said = 0;
    entries(&segments(directory.path()).unwrap(), |entry, _| {
        said += entry.count.filter(|_| entry.event == "lost").unwrap_or_default();
        Ok::<(), AuditError>(())
    })
    .unwrap();
    assert_eq!((said, sequences(directory.path()).len() as u64 + lost), (lost, RECORDS_MAX as u64 * 3));
    assert_eq!(verified(directory.path(), &[]).fault, None);
}

#[test]
fn keys_are_recorded_where_they_differ() {
    let directory = tempfile::tempdir().unwrap();
    let keys = |lab: &str| BTreeMap::from([(String::new(), "a".to_owned()), ("lab".to_owned(), lab.to_owned())]);
    for (run, lab) in ["b", "b", "c"].into_iter().enumerate() {
        let account = Account::start(directory.path(), "hospital", LIMITS);
        account.keys(keys(lab));
        account.record(record(run as u64 + 1));
        account.stop();
    }
    let mut told = Vec::new();
    entries(&segments(directory.path()).unwrap(), |entry, _| {
        told.extend(entry.detail.filter(|_| entry.event == "key-changed"));
        Ok::<(), AuditError>(())
    })
    .unwrap();
    assert_eq!(told, ["new: this site, new: lab", "changed: lab"]);
}

#[test]
fn who_offers_more_than_there_is_room_for_has_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let account = Account::start(directory.path(), "hospital", LIMITS);
    let back = account.offer((1..=RECORDS_MAX as u64).map(record).collect()).unwrap_err();
    assert_eq!(back.len(), RECORDS_MAX);
    account.offer(vec![record(1)]).unwrap();
    account.stop();
    assert_eq!((sequences(directory.path()), account.facts().lost), (vec![1], 0));
}

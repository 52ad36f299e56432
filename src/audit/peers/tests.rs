//! Tests of two sites' logs together: what is done to one while the other is away shows when it is back.

use std::time::Duration;

use super::super::read::{Broken, verify};
use super::super::store::load_key;
use super::super::{Accepted, Limits, accepted};
use super::*;

const LIMITS: Limits = Limits { keep: Duration::from_secs(86_400), bytes_max: 1 << 30, segment_bytes: Some(2000) };

/// Is one site's log, in a directory of its own.
struct Site {
    state: tempfile::TempDir,
    account: Option<Account>,
}

impl Site {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap(), account: None }
    }

    fn directory(&self) -> std::path::PathBuf {
        self.state.path().join("audit")
    }

    fn stop(&mut self) {
        self.account.take().iter().for_each(Account::stop);
    }

    /// Starts, records so much, and starts again, so that all of it is synced.
    fn start(&mut self, count: u64) -> &Account {
        for count in [count, 0] {
            self.stop();
            let account = Account::start(&self.directory(), "hospital", LIMITS);
            for _ in 0..count {
                account.record(Record::new(SystemTime::now(), Event::Viewed, Subject::default()));
            }
            while account.0.known.lock().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.account = Some(account);
        }
        self.account.as_ref().unwrap()
    }

    fn own(&self) -> &Account {
        self.account.as_ref().unwrap()
    }

    /// Copies the directory of the log.
    fn copied(&self) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        copy(&self.directory(), to.path());
        to
    }

    /// Puts a copy in the place of the log; without one the log is gone with its key.
    fn put_back(&mut self, copied: Option<&tempfile::TempDir>) {
        self.stop();
        fs::remove_dir_all(self.directory()).unwrap();
        copied.into_iter().for_each(|copied| copy(copied.path(), &self.directory()));
    }

    /// Accepts as an operator does, and starts.
    fn accept(&mut self, accepted: Accepted) {
        self.stop();
        let key = load_key(&self.directory()).unwrap();
        accepted::store(&self.directory(), key.expose(), accepted, "uid 0").unwrap();
        self.start(1);
    }

    fn contradicted(&self) -> Option<String> {
        self.own().facts().contradicted.map(|(_, cause)| cause)
    }

    fn fault(&self, peer: &str) -> Option<String> {
        self.own().facts().peers.get(peer).cloned().flatten().map(|(_, cause)| cause)
    }

    /// Has a peer be away for longer than its heads may be late.
    fn miss(&self, peer: &str) {
        self.own().0.known.lock().unwrap().as_mut().unwrap().get_mut(peer).unwrap().age(20);
    }

    /// Counts how often something is in the log.
    fn count(&self, text: &str) -> usize {
        let files = segments(&self.directory()).unwrap();
        files.iter().map(|file| fs::read_to_string(&file.path).unwrap().matches(text).count()).sum()
    }

    fn last(&self) -> u64 {
        self.own().facts().synced.unwrap().0
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Has two sites speak as a new link does: each asks twice, the near one first.
fn meet(north: &Site, lab: &Site) {
    north.own().begin_heads("lab");
    lab.own().begin_heads("north");
    for _ in 0..2 {
        lab.own().hear_heads("north", &north.own().heads_for("lab"));
        north.own().hear_heads("lab", &lab.own().heads_for("north"));
    }
    while north.own().0.known.lock().unwrap().as_ref().unwrap().values().any(|one| one.waiting().is_some()) {
        north.own().compare(&north.directory()).unwrap();
    }
}

/// Makes two sites that know each other's logs, and a copy of the near one's from before its last entries.
fn two() -> (Site, Site, tempfile::TempDir) {
    let (mut north, mut lab) = (Site::new(), Site::new());
    lab.start(3);
    north.start(10);
    meet(&north, &lab);
    north.stop();
    let copied = north.copied();
    for _ in 0..3 {
        north.start(10);
        meet(&north, &lab);
        assert_eq!((north.contradicted(), lab.contradicted()), (None, None), "nobody did anything");
        assert_eq!(lab.own().facts().peers.get("north"), Some(&None));
    }
    (north, lab, copied)
}

#[test]
fn a_log_that_was_put_back_shows_also_where_it_went_further_meanwhile() {
    let (mut north, mut lab, copied) = two();
    let before = north.last();
    lab.stop();
    north.put_back(Some(&copied));
    // Started once more, as one does who hides it.
    north.start(60);
    assert!(north.start(1).facts().synced.unwrap().0 > before);
    lab.start(1);
    meet(&north, &lab);
    let cause = north.contradicted().expect("named");
    assert!(cause.contains("is not the one that the peer was told of (lab)"), "{cause}");
    // also at each start from then on, and by `verify`
    for _ in 0..2 {
        north.start(1);
        meet(&north, &lab);
        assert!(north.contradicted().is_some());
    }
    north.stop();
    let key = load_key(&north.directory()).unwrap();
    let verified = verify(&north.directory(), key.expose(), &witnesses(&north.directory(), key.expose())).unwrap();
    assert!(matches!(verified.fault, Some(Broken::Rewritten { .. })), "{verified:?}");
}

#[test]
fn what_an_operator_accepts_of_a_restored_log_counts_no_more_and_hides_nothing_behind_it() {
    let (mut north, mut lab, copied) = two();
    let before = north.last();
    north.put_back(Some(&copied));
    north.start(60);
    north.accept(Accepted { own: before, foreign: 0 });
    lab.start(1);
    for _ in 0..2 {
        meet(&north, &lab);
        assert_eq!(north.contradicted(), None);
        north.start(10);
        lab.start(1);
    }
    north.stop();
    let copied = north.copied();
    north.start(30);
    meet(&north, &lab);
    north.put_back(Some(&copied));
    north.start(90);
    meet(&north, &lab);
    assert!(north.contradicted().is_some(), "another one");
}

#[test]
fn a_new_log_is_accepted_in_place_of_one_that_is_gone_with_its_key_until_that_is_gone_too() {
    let (mut north, mut lab, _copied) = two();
    let before = north.last();
    for _ in 0..2 {
        north.put_back(None);
        north.start(120);
        lab.start(1);
        meet(&north, &lab);
        assert!(north.contradicted().is_some(), "the key that accepted the one before is gone");
        north.stop();
        let key = load_key(&north.directory()).unwrap();
        assert!(foreign(&north.directory(), key.expose())[0].1 >= before);
        north.accept(Accepted { own: 0, foreign: u64::MAX });
        meet(&north, &lab);
        assert_eq!(north.contradicted(), None);
    }
}

#[test]
fn a_new_log_has_its_witness_at_once_and_the_warning_stays_until_the_other_site_accepts_it() {
    let (mut north, mut lab, _copied) = two();
    let before = north.last();
    north.put_back(None);
    north.start(3);
    north.accept(Accepted { own: 0, foreign: u64::MAX });
    let mut foreign = before;
    for is_accepted in [false, true, true] {
        lab.miss("north");
        meet(&north, &lab);
        assert_eq!(north.contradicted(), None);
        for _ in 0..2 {
            lab.start(1);
            assert!(lab.fault("north").is_some(), "also while the peer is away");
            meet(&north, &lab);
            let fault = lab.fault("north").expect("it stands, also over restarts");
            assert!(fault.contains(&format!("and went on to entry {foreign} before")), "{fault}");
        }
        if is_accepted {
            lab.stop();
            let ended = ended(&lab.directory(), "north");
            let said = lab.count("accepted of the peer's log");
            accepted::store_of_peer(&lab.directory(), "north", &ended, "uid 7").unwrap();
            lab.start(1);
            assert_eq!(lab.count("accepted of the peer's log"), said + ended.len());
            assert!(lab.count("uid 7") > said && !lab.directory().join("peers/north.accepted").exists());
            assert_eq!(lab.fault("north"), None);
            meet(&north, &lab);
            lab.start(1);
            meet(&north, &lab);
            assert_eq!(lab.fault("north"), None, "nor after a restart");
        }
        // What is done to the new log is found, whether the other site has accepted it or not.
        north.stop();
        let copied = north.copied();
        north.start(10);
        meet(&north, &lab);
        foreign = north.last();
        north.put_back(Some(&copied));
        north.start(1);
        lab.miss("north");
        meet(&north, &lab);
        assert!(north.contradicted().is_some(), "the other site keeps its heads");
        assert!(lab.fault("north").is_some());
        assert!(verify_fails(&mut north));
        north.accept(Accepted { own: foreign, foreign: u64::MAX });
    }
}

/// Tells whether `verify` finds the log broken by what peers know of it.
fn verify_fails(site: &mut Site) -> bool {
    site.stop();
    let key = load_key(&site.directory()).unwrap();
    let (accepted, _) = accepted::load(&site.directory(), key.expose());
    let mut witnesses = witnesses(&site.directory(), key.expose());
    witnesses.retain(|witness| witness.n > accepted.own);
    verify(&site.directory(), key.expose(), &witnesses).unwrap().fault.is_some()
}

#[test]
fn what_a_peer_knows_is_named_where_it_was_changed_and_told_anew() {
    let (mut north, lab, _copied) = two();
    let path = north.directory().join("peers/lab.json");
    let whole = fs::read_to_string(&path).unwrap();
    for changed in ["{".to_owned(), whole.replacen("\"chain\":\"", "\"chain\":\"x", 1)] {
        north.stop();
        fs::write(&path, changed).unwrap();
        let unread = unread(&north.directory());
        assert_eq!(unread.len(), 1);
        assert!(unread[0].to_string().ends_with("was changed: it does not say what lab knows of the log"));
        north.start(1);
        assert!(north.contradicted().expect("named").ends_with("knows of the log (lab)"));
        meet(&north, &lab);
        north.start(1);
        assert_eq!((north.contradicted(), super::unread(&north.directory()).len()), (None, 0));
        meet(&north, &lab);
        assert_eq!(north.contradicted(), None);
    }
}

#[test]
fn a_log_that_was_taken_away_with_its_key_shows_also_where_the_new_one_is_longer() {
    for restarts in [0, 2] {
        let (mut north, mut lab, _copied) = two();
        let before = north.last();
        lab.stop();
        north.put_back(None);
        assert!(north.start(120).facts().synced.unwrap().0 > before);
        lab.start(1);
        for _ in 0..=restarts {
            meet(&north, &lab);
            let cause = north.contradicted().expect("named");
            assert!(cause.contains("that another key made"), "{cause}");
            north.start(1);
            lab.start(1);
        }
    }
}

#[test]
fn an_entry_that_is_gone_from_the_files_shows() {
    let (mut north, lab, _copied) = two();
    north.stop();
    let files = segments(&north.directory()).unwrap();
    fs::remove_file(&files[files.len() / 2].path).unwrap();
    north.start(1);
    north.own().begin_heads("lab");
    let key = ProofKey::new(load_key(&north.directory()).unwrap().expose());
    let gone = key.head(files[files.len() / 2].first, super::super::Chain([1; 32]));
    north.own().hear_heads("lab", &Heads { own: None, kept: vec![gone] });
    meet(&north, &lab);
    let cause = north.contradicted().expect("named");
    assert!(cause.contains("is gone (lab)"), "{cause}");
}

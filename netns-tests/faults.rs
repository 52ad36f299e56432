//! Acknowledged means kept, across any failure: whole sites with stored delivery, and fault after fault that a seed draws,
//! power losses included. A few here; `bench/faults/run` draws thousands and prints the table.
//!
//! The disk that loses power (`disk.c`) and the judge (`account`) are tested first: where they are blind, nothing is proven.

mod account;
mod disk;
mod life;
mod steps;
mod table;
mod traffic;

use std::any::Any;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::isolation::STATE;
use crate::harness::{full, tests};
use crate::impair::fate::Chance;
use account::planted;
use disk::{Action, Class, Disk};
use life::{Fault, Life};
use steps::Begins;
use table::Table;

tests![
    the_judge_finds_what_must_not_be,
    the_judge_accepts_what_has_a_reason,
    a_power_loss_takes_what_was_not_synced needs "cc" "python3",
    a_failing_fsync_makes_nothing_durable needs "cc" "python3",
    a_name_is_durable_with_its_directory needs "cc" "python3",
    a_program_dies_at_the_event_that_is_said needs "cc" "python3",
    a_full_disk_takes_no_more needs "cc" "python3",
    what_is_acknowledged_is_kept_at_every_step needs "cc",
    a_disk_that_lies_is_found_out_at_the_near_site needs "cc",
    nothing_is_lost_whatever_happens needs "cc",
    a_disk_that_lies_is_found_out needs "cc",
    a_restored_near_site_waits_for_a_decision needs "cc",
];

/// Counts the faults of one life of a pair of sites.
const FAULTS_OF_A_LIFE: usize = 40;

/// Counts the faults in all, here and at the size of the acceptance criteria.
const FAULTS: (usize, usize) = (24, 3000);

/// Counts the lives at the same time.
const LIVES_AT_ONCE: (usize, usize) = (2, 6);

fn the_judge_finds_what_must_not_be() {
    planted::what_must_not_be_is_found();
}

fn the_judge_accepts_what_has_a_reason() {
    planted::what_has_a_reason_is_not();
}

/// Is every how many steps one is tried here; all of them at the size of the acceptance criteria.
const STRIDE: u64 = 13;

/// Loses power at one event after the other, of the first start with the first messages, and of a later one.
fn what_is_acknowledged_is_kept_at_every_step() {
    let stride = if full() { 1 } else { STRIDE };
    let seed = number("WARDLINK_FAULT_SEED", 1) as u64;
    for begins in [Begins::Fresh, Begins::Again] {
        let (steps, lost) = steps::every_step(begins, false, stride, seed);
        if full() {
            eprintln!("{begins:?}: power lost at each of {steps} events, {} messages lost", lost.len());
        }
        assert!(steps > 20, "only {steps} events");
        assert!(lost.is_empty(), "lost: {}", lost.join("\n"));
    }
}

/// A site whose fsync does nothing, as with `synchronous=OFF`, must be found to lose messages; else nothing is proven.
fn a_disk_that_lies_is_found_out_at_the_near_site() {
    let (_, lost) = steps::every_step(Begins::Again, true, 5 * STRIDE, 1);
    assert!(!lost.is_empty());
}

/// Reads a number from the environment.
fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Lives lives at once until so many faults have happened; with `WARDLINK_FAULT_TABLE` the table goes to that file.
fn nothing_is_lost_whatever_happens() {
    let of = |sizes: (usize, usize)| if full() { sizes.1 } else { sizes.0 };
    let faults = number("WARDLINK_FAULT_RUNS", of(FAULTS));
    let at_once = number("WARDLINK_FAULT_LIVES", of(LIVES_AT_ONCE)).max(1);
    let each = FAULTS_OF_A_LIFE.min(faults.div_ceil(at_once));
    let first = number("WARDLINK_FAULT_SEED", 1);
    let (lives, next) = (faults.div_ceil(each), AtomicUsize::new(0));
    let outcome = Mutex::new((Table::default(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once.min(lives) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= lives {
                        return;
                    }
                    let seed = (first + seed) as u64;
                    let (table, wrong) = catch_unwind(|| life::live(seed, each))
                        .unwrap_or_else(|panic| (Table::default(), vec![format!("seed {seed}: {}", text_of(&*panic))]));
                    let mut outcome = outcome.lock().unwrap();
                    outcome.0.merge(&table);
                    outcome.1.extend(wrong);
                }
            });
        }
    });
    let (table, wrong) = outcome.into_inner().unwrap();
    if let Some(path) = std::env::var_os("WARDLINK_FAULT_TABLE") {
        fs::write(path, table.to_string()).expect("the table is written");
    }
    if full() {
        eprintln!("{table}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(table.total().0 >= faults as u64 && table.messages > 0 && table.total().1.is_clean());
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// A site whose fsync does nothing, as with `synchronous=OFF`, must be found to lose messages; else nothing is proven.
fn a_disk_that_lies_is_found_out() {
    let (table, wrong) = life::live_on_a_lie(1);
    assert!(table.total().1.lost > 0, "{table}\n{}", wrong.join("\n"));
}

fn a_restored_near_site_waits_for_a_decision() {
    let mut life = Life::start(3);
    life.suffer(Fault::NearRestored);
    life.suffer(Fault::NearRestored);
    let (table, wrong) = life.account();
    assert!(wrong.is_empty() && table.total().1.is_clean(), "{table}\n{}", wrong.join("\n"));
}

/// Runs a program in python on a disk of its own: `live` is its state. Returns what it printed.
fn python(disk: &Disk, site: &Path, program: &str) -> String {
    let environment = disk.environment();
    let variables = environment.iter().map(|entry| entry.split_once('=').expect("NAME=value"));
    let live = format!("live = {:?}\n", site.join("state").display().to_string());
    let output = Command::new("python3")
        .args(["-c", &(live + program)])
        .envs(variables)
        .stderr(Stdio::inherit())
        .output()
        .expect("python3");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn disk_of(name: &str) -> (std::path::PathBuf, Disk) {
    let site = Path::new(STATE).join(name);
    let disk = Disk::new(&site);
    (site, disk)
}

/// Commits rows in SQLite, and ends as `kill -9` does.
fn commit(disk: &Disk, site: &Path, synchronous: &str) -> String {
    let program = format!(
        "import os, sqlite3\n\
         database = sqlite3.connect(live + '/a.db', isolation_level=None)\n\
         database.execute('pragma journal_mode=wal')\n\
         database.execute('pragma synchronous={synchronous}')\n\
         database.execute('create table if not exists t(n)')\n\
         for n in range(100):\n\
         \x20   database.execute('insert into t values(?)', (n,))\n\
         print('committed', flush=True)\n\
         os.kill(os.getpid(), 9)\n"
    );
    python(disk, site, &program)
}

/// Counts the rows, or says what is wrong.
fn rows(site: &Path) -> String {
    let program = "import sqlite3, sys\n\
                   try: print(sqlite3.connect(sys.argv[1]).execute('select count(*) from t').fetchone()[0])\n\
                   except sqlite3.Error as error: print(error)\n";
    let database = site.join("state/a.db");
    let output = Command::new("python3").args(["-c", program]).arg(database).output().expect("python3");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn a_power_loss_takes_what_was_not_synced() {
    let run = |name: &str, synchronous: &str, lies: bool, torn: Option<u64>| {
        let (site, disk) = disk_of(name);
        disk.lie(lies);
        assert_eq!(commit(&disk, &site, synchronous), "committed\n");
        assert_eq!(rows_live(&site), "100", "a kill alone loses nothing");
        disk.lose_power(torn.map(Chance).as_mut());
        rows(&site)
    };
    assert_eq!(run("full", "full", false, None), "100");
    for seed in 0..8 {
        assert_eq!(run(&format!("torn-{seed}"), "full", false, Some(seed)), "100", "seed {seed}");
    }
    assert_eq!(run("off", "off", false, None), "no such table: t");
    assert_eq!(run("lies", "full", true, None), "no such table: t");
}

/// Counts the rows of a copy: a reader would leave its own traces.
fn rows_live(site: &Path) -> String {
    let copy = site.with_extension("copy");
    fs::create_dir_all(copy.join("state")).expect("a directory");
    for name in ["a.db", "a.db-wal"] {
        fs::copy(site.join("state").join(name), copy.join("state").join(name)).expect("a copy");
    }
    rows(&copy)
}

fn a_failing_fsync_makes_nothing_durable() {
    let (site, disk) = disk_of("failing");
    disk.arm(Class::Sync, Action::Fail, 1);
    let program = "import os\n\
                   fd = os.open(live + '/f', os.O_CREAT | os.O_WRONLY)\n\
                   os.write(fd, b'one')\n\
                   try: os.fsync(fd)\n\
                   except OSError as error: print(error.errno)\n\
                   os.fsync(fd)\n\
                   os.write(fd, b'two')\n\
                   os.fsync(fd)\n\
                   os.fsync(os.open(live, os.O_RDONLY))\n";
    assert_eq!(python(&disk, &site, program), "5\n");
    assert_eq!(disk.fired(), 1);
    disk.lose_power(None);
    assert_eq!(
        fs::read(site.join("state/f")).expect("the file"),
        b"\0\0\0two",
        "a later fsync does not make up for it"
    );
}

fn a_name_is_durable_with_its_directory() {
    let (site, disk) = disk_of("names");
    let program = "import os\n\
                   def file(name, text, sync=True):\n\
                   \x20   fd = os.open(live + name, os.O_CREAT | os.O_WRONLY)\n\
                   \x20   os.write(fd, text)\n\
                   \x20   if sync: os.fsync(fd)\n\
                   def sync(name): os.fsync(os.open(live + name, os.O_RDONLY))\n\
                   os.mkdir(live + '/d')\n\
                   file('/kept', b'old')\n\
                   file('/moved', b'moved')\n\
                   file('/gone', b'gone')\n\
                   file('/empty', b'never synced', False)\n\
                   sync('/')\n\
                   file('/d/inside', b'inside')\n\
                   sync('/d')\n\
                   file('/new', b'new')\n\
                   os.rename(live + '/new', live + '/kept')\n\
                   os.rename(live + '/moved', live + '/d/moved')\n\
                   os.unlink(live + '/gone')\n\
                   file('/d/late', b'late')\n\
                   os.mkdir(live + '/late')\n\
                   file('/late/f', b'late')\n\
                   sync('/late')\n";
    python(&disk, &site, program);
    let read = |name: &str| fs::read(site.join("state").join(name)).ok();
    assert_eq!(read("kept").as_deref(), Some(&b"new"[..]));
    disk.lose_power(None);
    assert_eq!(read("kept").as_deref(), Some(&b"old"[..]));
    assert_eq!(read("moved").as_deref(), Some(&b"moved"[..]));
    assert_eq!(read("gone").as_deref(), Some(&b"gone"[..]));
    assert_eq!(read("empty").as_deref(), Some(&b""[..]));
    assert_eq!(read("d/inside").as_deref(), Some(&b"inside"[..]));
    assert_eq!((read("d/moved"), read("d/late"), read("late/f"), read("new")), (None, None, None, None));
}

fn a_program_dies_at_the_event_that_is_said() {
    let program = "import os\n\
                   fd = os.open(live + '/f', os.O_CREAT | os.O_WRONLY)\n\
                   for n in range(3):\n\
                   \x20   os.write(fd, b'%d%d' % (n, n))\n\
                   \x20   os.fsync(fd)\n\
                   os.fsync(os.open(live, os.O_RDONLY))\n";
    let left = |name: &str, class, action, countdown| {
        let (site, disk) = disk_of(name);
        disk.arm(class, action, countdown);
        python(&disk, &site, program);
        assert_eq!(disk.fired(), 1, "{name}");
        fs::read(site.join("state/f")).ok()
    };
    assert_eq!(left("die-1", Class::Write, Action::DieBefore, 2).as_deref(), Some(&b"00"[..]));
    assert_eq!(left("die-2", Class::Write, Action::DieHalfway, 2).as_deref(), Some(&b"001"[..]));
    assert_eq!(left("die-3", Class::Write, Action::DieAfter, 2).as_deref(), Some(&b"0011"[..]));
    assert_eq!(left("die-4", Class::Sync, Action::DieBefore, 3).as_deref(), Some(&b"001122"[..]));
    assert_eq!(left("die-5", Class::Name, Action::DieBefore, 1), None);
    assert_eq!(left("die-6", Class::Name, Action::DieAfter, 1).as_deref(), Some(&b""[..]));
}

fn a_full_disk_takes_no_more() {
    let (site, disk) = disk_of("full-disk");
    let program = "import os\n\
                   fd = os.open(live + '/f', os.O_CREAT | os.O_RDWR)\n\
                   print(os.write(fd, b'some'))\n\
                   try: os.open(live + '/g', os.O_CREAT | os.O_RDWR)\n\
                   except OSError as error: print(error.errno)\n";
    assert_eq!(python(&disk, &site, program), "4\n");
    disk.fill(true);
    let program = "import os\n\
                   fd = os.open(live + '/f', os.O_CREAT | os.O_RDWR)\n\
                   print(os.write(fd, b'SOME'))\n\
                   for what in (lambda: os.write(fd, b'more'), lambda: os.open(live + '/h', os.O_CREAT)):\n\
                   \x20   try: what()\n\
                   \x20   except OSError as error: print(error.errno)\n";
    assert_eq!(python(&disk, &site, program), "4\n28\n28\n");
    assert_eq!(fs::read(site.join("state/f")).expect("the file"), b"SOME");
    // What one file gives another one may take, and no more.
    let program = "import os\n\
                   fd, other = os.open(live + '/f', os.O_RDWR), os.open(live + '/g', os.O_RDWR)\n\
                   os.ftruncate(fd, 1)\n\
                   for what in (lambda: os.posix_fallocate(other, 0, 4), lambda: os.write(other, b'new'),\n\
                                lambda: os.posix_fallocate(other, 0, 4)):\n\
                   \x20   try: print(what())\n\
                   \x20   except OSError as error: print(error.errno)\n";
    assert_eq!(python(&disk, &site, program), "28\n3\n28\n");
}

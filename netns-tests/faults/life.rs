//! One life of a pair of sites: messages flow, and fault after fault, drawn from a seed, hits one of the sites, the wire,
//! or the receiver. At the end everything is well and drains, and the account is made.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::account::{Answer, Number, Seen, judge};
use super::disk::{Action, Class, Disk};
use super::table::Table;
use super::traffic::{Mood, Recorder, Run, Senders, Sent, below};
use crate::harness::pair::{FORWARD, Pair, TARGET};
use crate::harness::plan::Plan;
use crate::harness::site::Site;
use crate::harness::until;
use crate::impair::fate::Chance;

/// Is the number of senders, each with a connection of its own.
const SENDERS: usize = 2;

/// Is the pause of a sender between two messages: enough for a queue, and for a fault to hit anything.
const SENDER_PAUSE: Duration = Duration::from_millis(2);

/// Bounds the wait for the event that a fault waits for; some are rare. Afterwards it happens at once.
const EVENT_LIMIT: Duration = Duration::from_millis(1500);

/// Bounds the number of the event.
const EVENTS_MAX: u64 = 24;

/// Bounds the time until messages flow again after everything is well.
const FLOW_LIMIT: Duration = Duration::from_secs(40);

/// Bounds the time in which nothing comes at the end, though something is to come.
const DRAIN_LIMIT: Duration = Duration::from_secs(15);

/// Is how long after the last arrival a repeat is waited for.
const QUIET: Duration = Duration::from_millis(300);

/// Bounds what is in flight between the sites, in messages.
const WINDOW: usize = 4096;

/// Names one of the two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Near,
    Far,
}

/// Is what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Killed(End),
    PowerLost(End),
    PowerLostTorn(End),
    SyncFails(End),
    WriteFails(End),
    DiskFull(End),
    WireCut,
    ReceiverKilled,
    ReceiverSlow,
    ReceiverCloses,
    ReceiverFails,
    ReceiverRejects,
    FarStateLost,
    FarRestored,
    NearRestored,
}

/// Lists what is drawn from; what has many steps is there more often.
const DRAWN: [Fault; 37] = {
    use End::{Far, Near};
    use Fault::{
        DiskFull, FarRestored, FarStateLost, Killed, NearRestored, PowerLost, PowerLostTorn, ReceiverCloses,
        ReceiverFails, ReceiverKilled, ReceiverRejects, ReceiverSlow, SyncFails, WireCut, WriteFails,
    };
    [
        Killed(Near),
        Killed(Near),
        Killed(Near),
        Killed(Far),
        Killed(Far),
        Killed(Far),
        PowerLost(Near),
        PowerLost(Near),
        PowerLost(Near),
        PowerLost(Near),
        PowerLost(Far),
        PowerLost(Far),
        PowerLost(Far),
        PowerLost(Far),
        PowerLostTorn(Near),
        PowerLostTorn(Near),
        PowerLostTorn(Near),
        PowerLostTorn(Far),
        PowerLostTorn(Far),
        PowerLostTorn(Far),
        SyncFails(Near),
        SyncFails(Near),
        SyncFails(Far),
        SyncFails(Far),
        WriteFails(Near),
        WriteFails(Far),
        DiskFull(Near),
        DiskFull(Far),
        WireCut,
        ReceiverKilled,
        ReceiverSlow,
        ReceiverCloses,
        ReceiverFails,
        ReceiverRejects,
        FarStateLost,
        FarRestored,
        NearRestored,
    ]
};

/// Says when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// At any moment.
    Any,
    /// At an event.
    At(Class, Action),
}

/// Is a pair of sites with its disks, its senders and its receiver.
pub(crate) struct Life {
    pair: Pair,
    disks: [Disk; 2],
    senders: Senders,
    recorder: Recorder,
    chance: Chance,
    run: Run,
    losses: Vec<usize>,
    has_backup: bool,
    what: Vec<(Fault, Step)>,
}

impl Life {
    /// Starts both sites and lets messages flow. The same seed draws the same faults.
    pub(crate) fn start(seed: u64) -> Self {
        let mut pair = Pair::unstarted();
        let (north, south) = plans(&pair);
        let disks = [Disk::new(&pair.north.dir), Disk::new(&pair.south.dir)];
        pair.north.environment = disks[0].environment();
        pair.south.environment = disks[1].environment();
        pair.south.start(&south);
        pair.north.start(&north);
        let run = Arc::new(AtomicUsize::new(0));
        let recorder = Recorder::start(&pair.south.namespace, TARGET, &run);
        let senders = Senders::start(&pair.north.namespace, FORWARD, SENDERS, SENDER_PAUSE, &run);
        let mut life = Self {
            pair,
            disks,
            senders,
            recorder,
            chance: Chance(seed),
            run,
            losses: Vec::new(),
            has_backup: false,
            what: Vec::new(),
        };
        life.flows();
        life
    }

    /// Lets one fault happen, drawn by chance, and makes everything well again.
    pub(crate) fn suffer_any(&mut self) {
        let fault = DRAWN[self.draw(DRAWN.len() as u64) as usize];
        self.suffer(fault);
    }

    /// Lets this happen, and makes everything well again.
    pub(crate) fn suffer(&mut self, fault: Fault) {
        let number = self.what.len();
        self.run.store(number, Ordering::Relaxed);
        let pause = Duration::from_millis(self.draw(150));
        thread::sleep(pause);
        let step = match fault {
            Fault::Killed(end) => self.ends(end, None),
            Fault::PowerLost(end) => self.ends(end, Some(false)),
            Fault::PowerLostTorn(end) => self.ends(end, Some(true)),
            Fault::SyncFails(end) => self.fails(end, Class::Sync),
            Fault::WriteFails(end) => self.fails(end, Class::Write),
            Fault::DiskFull(end) => self.is_full(end),
            Fault::WireCut => self.is_cut(),
            Fault::FarStateLost => self.loses_state(),
            Fault::FarRestored => self.far_is_restored(),
            Fault::NearRestored => self.near_is_restored(),
            Fault::ReceiverKilled => self.receiver_is_killed(),
            Fault::ReceiverSlow => self.receiver_is(Mood::Slow(Duration::from_millis(100))),
            Fault::ReceiverCloses => self.receiver_is(Mood::Closes(1)),
            Fault::ReceiverFails => self.receiver_is(Mood::Fails(2)),
            Fault::ReceiverRejects => self.receiver_is(Mood::Rejects(2)),
        };
        self.what.push((fault, step));
        self.flows();
    }

    /// Ends the life: everything drains, and the account is made, fault by fault.
    pub(crate) fn account(self) -> (Table, Vec<String>) {
        let Self { pair, senders, recorder, losses, what, .. } = self;
        let sent = senders.stop();
        drains(&pair, &sent, &recorder);
        let Sent { acked, resent, wrong: mut faults, .. } = sent;
        faults.extend(recorder.spoiled().into_iter().map(|head| format!("no message that was sent: {head}")));
        let seen = Seen { acked, resent, arrivals: recorder.arrivals(), losses, window: WINDOW };
        let (accounts, wrong) = judge(&seen);
        faults.extend(wrong);
        let named = named(&pair);
        let in_doubt = accounts.values().map(|account| account.in_doubt - account.in_doubt_or_resent).sum::<u64>();
        if in_doubt > named {
            faults.push(format!("{in_doubt} messages came again in doubt, and wardlink names {named}"));
        }
        let mut table = Table::default();
        table.named = named;
        for (run, (fault, step)) in what.iter().enumerate() {
            table.add(*fault, *step, &accounts.get(&run).copied().unwrap_or_default());
        }
        table.messages += seen.acked.len() as u64;
        if faults.is_empty() {
            return (table, faults);
        }
        faults.truncate(40);
        faults.extend(what.iter().enumerate().map(|(run, what)| format!("run {run}: {what:?}")));
        (table, faults)
    }

    fn draw(&mut self, bound: u64) -> u64 {
        below(&mut self.chance, bound)
    }

    fn site(&mut self, end: End) -> (&mut Site, &Disk) {
        let [near, far] = &self.disks;
        match end {
            End::Near => (&mut self.pair.north, near),
            End::Far => (&mut self.pair.south, far),
        }
    }

    /// Ends the program at a step or any time, takes the power from its disk where it says so, and starts it again.
    fn ends(&mut self, end: End, power_and_torn: Option<bool>) -> Step {
        let step = self.dies(end);
        let mut chance = Chance(self.chance.next());
        let backs_up = end == End::Far && self.draw(4) == 0;
        let (site, disk) = self.site(end);
        match power_and_torn {
            Some(true) => disk.lose_power(Some(&mut chance)),
            Some(false) => disk.lose_power(None),
            None => {}
        }
        if backs_up {
            let to = backup_of(site);
            let _ = std::fs::remove_dir_all(&to);
            disk.back_up(&to);
            self.has_backup = true;
        }
        self.site(end).0.restart();
        step
    }

    /// Ends the program; returns the step.
    fn dies(&mut self, end: End) -> Step {
        let classes = [Class::Write, Class::Sync, Class::Name, Class::Send];
        let actions = [Action::DieBefore, Action::DieAfter, Action::DieHalfway];
        let step = match self.draw(5) as usize {
            4 => Step::Any,
            class => Step::At(classes[class], actions[self.draw(3) as usize]),
        };
        let countdown = 1 + self.draw(EVENTS_MAX);
        let (site, disk) = self.site(end);
        if let Step::At(class, action) = step {
            disk.arm(class, action, if class == Class::Name { 1 } else { countdown });
            let start = Instant::now();
            while start.elapsed() < EVENT_LIMIT {
                if site.program().ended().is_some() {
                    return step;
                }
                thread::sleep(Duration::from_millis(2));
            }
            disk.disarm();
        }
        site.kill();
        Step::Any
    }

    /// Lets a write or an fsync fail; a site that ends by that is started again. Half of the times the power goes after.
    fn fails(&mut self, end: End, class: Class) -> Step {
        let (countdown, loses_power) = (1 + self.draw(EVENTS_MAX), self.draw(2) == 0);
        let pause = Duration::from_millis(100 + self.draw(300));
        let (site, disk) = self.site(end);
        let before = disk.fired();
        disk.arm(class, Action::Fail, countdown);
        let start = Instant::now();
        while start.elapsed() < EVENT_LIMIT && disk.fired() == before {
            thread::sleep(Duration::from_millis(2));
        }
        disk.disarm();
        thread::sleep(pause);
        let ended = site.program().ended().is_some();
        if loses_power {
            site.kill();
            disk.lose_power(None);
        }
        if ended || loses_power {
            site.restart();
        }
        Step::At(class, Action::Fail)
    }

    fn is_full(&mut self, end: End) -> Step {
        let pause = Duration::from_millis(200 + self.draw(600));
        let (site, disk) = self.site(end);
        disk.fill(true);
        thread::sleep(pause);
        disk.fill(false);
        if site.program().ended().is_some() {
            site.restart();
        }
        Step::Any
    }

    fn is_cut(&mut self) -> Step {
        let pause = match self.draw(8) {
            0 => Duration::from_secs(6),
            _ => Duration::from_millis(100 + self.draw(1200)),
        };
        self.pair.wire.cut();
        thread::sleep(pause);
        self.pair.wire.mend();
        Step::Any
    }

    fn loses_state(&mut self) -> Step {
        let step = self.dies(End::Far);
        self.losses.push(self.recorder.count());
        self.disks[1].lose_state();
        self.pair.south.restart();
        step
    }

    /// Puts a backup of the far site in place, where there is one that the life has gone on from.
    fn far_is_restored(&mut self) -> Step {
        let step = self.dies(End::Far);
        if self.has_backup {
            self.losses.push(self.recorder.count());
            self.disks[1].restore(&backup_of(&self.pair.south));
        }
        self.pair.south.restart();
        step
    }

    /// Puts a backup of the near site in place that knows nothing of the latest messages, all of which have come. The
    /// sites are held as diverged; meanwhile messages are kept, and what an operator decides lets them flow again.
    fn near_is_restored(&mut self) -> Step {
        let backup = backup_of(&self.pair.north);
        let accept_far = self.draw(2) == 0;
        {
            let _nothing_is_under_way = self.senders.pause();
            drains(&self.pair, &self.senders.sent(), &self.recorder);
            self.pair.north.kill();
            let _ = std::fs::remove_dir_all(&backup);
            self.disks[0].back_up(&backup);
            self.pair.north.restart();
        }
        self.flows();
        {
            let _nothing_is_under_way = self.senders.pause();
            drains(&self.pair, &self.senders.sent(), &self.recorder);
            self.pair.north.kill();
            self.losses.push(self.recorder.count());
            self.disks[0].restore(&backup);
            self.pair.north.restart();
            until(FLOW_LIMIT, "the sites are held as diverged", || {
                let state = "forward=\"orders\",state=\"diverged\"";
                (self.pair.north.metric("forward_queue_state", state) > 0.5).then_some(())
            });
        }
        let (acked, came) = (self.senders.acked(), self.recorder.count());
        until(FLOW_LIMIT, "messages are kept meanwhile", || (self.senders.acked() > acked + 10).then_some(()));
        assert_eq!(self.recorder.count(), came, "nothing is sent until somebody decides");
        let command =
            if accept_far { "queue reconcile orders --accept-far" } else { "queue reconcile orders --resend" };
        operator(&self.pair, command);
        Step::Any
    }

    fn receiver_is_killed(&mut self) -> Step {
        let pause = Duration::from_millis(50 + self.draw(800));
        self.recorder.down();
        thread::sleep(pause);
        self.recorder.up();
        Step::Any
    }

    fn receiver_is(&mut self, mood: Mood) -> Step {
        self.recorder.set(mood);
        thread::sleep(Duration::from_millis(300));
        if matches!(mood, Mood::Slow(_)) {
            self.recorder.set(Mood::Well);
        }
        Step::Any
    }

    /// Waits until every sender has got an answer and the receiver a message, all from now on.
    #[track_caller]
    fn flows(&mut self) {
        let (now, before) = (Instant::now(), self.recorder.count());
        while !(self.senders.all_answered_since(now) && self.recorder.count() > before) {
            assert!(now.elapsed() < FLOW_LIMIT, "no messages flow after {:?}: {}", self.what.last(), self.state());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Describes what everybody sees.
    fn state(&self) -> String {
        let sent = self.senders.sent();
        let (acked, refused, came) = (sent.acked.len(), sent.refused, self.recorder.count());
        let health = |site: &Site| site.try_get("/healthz").map(|answer| answer.body).unwrap_or_default();
        let (near, far) = (health(&self.pair.north), health(&self.pair.south));
        format!("{acked} acknowledged, {refused} refused, {came} came, {:?}\n{near}\n{far}", sent.wrong)
    }
}

/// Waits until all that was acknowledged has come, or no more comes; the judge says what that means.
fn drains(pair: &Pair, sent: &Sent, recorder: &Recorder) {
    let acked: BTreeSet<Number> = sent.acked.iter().map(|(message, _)| *message).collect();
    let is_settled = |answer| matches!(answer, Answer::Accepted | Answer::Rejected);
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < DRAIN_LIMIT {
        let came = recorder.arrivals().into_iter().filter(|arrival| is_settled(arrival.answer));
        let came: BTreeSet<Number> = came.map(|arrival| arrival.message).collect();
        if acked.is_subset(&came) {
            break;
        }
        if came.len() > last {
            (last, since) = (came.len(), Instant::now());
        }
        thread::sleep(Duration::from_millis(100));
    }
    if since.elapsed() >= DRAIN_LIMIT {
        eprintln!("not drained: {}\n{}", pair.north.health(), pair.south.health());
    }
    let mut count = recorder.count();
    loop {
        thread::sleep(QUIET);
        if recorder.count() == count {
            return;
        }
        count = recorder.count();
    }
}

/// Runs a command of wardlink at north, as an operator does.
#[track_caller]
fn operator(pair: &Pair, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let socket = pair.north.dir.join("control.sock").display().to_string();
    let command = pair.north.command(&[&words[..], &["--socket", &socket]].concat());
    pair.north.namespace.must(&command.join(" "))
}

/// Counts the attempts that wardlink's own account calls in doubt, once all of it is settled. Of a message that the far
/// site has from before a loss of its state no more is known: it counts as one.
fn named(pair: &Pair) -> u64 {
    let start = Instant::now();
    while pair.north.metric("forward_queue_depth", "forward=\"orders\"") > 0.5 && start.elapsed() < DRAIN_LIMIT {
        thread::sleep(Duration::from_millis(20));
    }
    let (mut from, mut named) = (Some(1), 0);
    while let Some(first) = from {
        let page = operator(pair, &format!("queue list orders --all --json --max 1000 --from {first}"));
        let page: serde_json::Value = serde_json::from_str(&page).expect("json");
        for entry in page["entries"].as_array().expect("entries") {
            let before = entry["verdict"].as_str().is_some_and(|verdict| verdict.contains("state was lost"));
            named += entry["in_doubt"].as_u64().expect("a number") + u64::from(before);
        }
        from = page["next"].as_u64();
    }
    named
}

/// Returns the configurations: a stored forward at north, the receiver's policy at south.
fn plans(pair: &Pair) -> (Plan, Plan) {
    let key = pair.north.dir.join("keys/spool.key").display().to_string();
    let lines = ["delivery: stored", "on_full: nak"];
    // the disk stands inside the program, and writes beside what that may
    let off = "sandbox: off";
    let north = Plan::of(&pair.north).peer(&pair.south).spool(&key).section(off);
    let south = Plan::of(&pair.south).peer(&pair.north).section(off);
    let policy = ["retry_min: 100ms", "retry_max: 1s", "retries: 5", "ack_timeout: 2s"];
    (
        north.forward("orders", FORWARD, "south", "service: orders", &lines),
        south.service("orders", TARGET, "north", &policy),
    )
}

fn backup_of(site: &Site) -> std::path::PathBuf {
    site.dir.with_extension("backup")
}

/// Adds up the accounts of many lives.
pub(crate) fn live(seed: u64, faults: usize) -> (Table, Vec<String>) {
    let mut life = Life::start(seed);
    for _ in 0..faults {
        life.suffer_any();
    }
    let (table, wrong) = life.account();
    let wrong = wrong.into_iter().map(|line| format!("seed {seed}: {line}")).collect();
    (table, wrong)
}

/// Lives on a near disk that says yes to every fsync and does nothing, and loses power with messages in its queue.
pub(crate) fn live_on_a_lie(seed: u64) -> (Table, Vec<String>) {
    let mut life = Life::start(seed);
    life.disks[0].lie(true);
    life.recorder.down();
    let acked = life.senders.acked();
    until(FLOW_LIMIT, "messages are kept", || (life.senders.acked() > acked + 50).then_some(()));
    life.pair.north.kill();
    life.disks[0].lose_power(None);
    life.pair.north.restart();
    life.recorder.up();
    life.what.push((Fault::PowerLost(End::Near), Step::Any));
    life.flows();
    life.account()
}

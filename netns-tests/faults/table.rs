//! The table of all runs: fault by fault and step by step, what came of it. It only counts and prints.

use std::collections::BTreeMap;
use std::fmt;

use super::account::Account;
use super::disk::{Action, Class};
use super::life::{End, Fault, Step};

/// Is what came of each kind of fault.
#[derive(Default)]
pub(crate) struct Table {
    rows: BTreeMap<(Fault, Step), (u64, Account)>,
    /// Counts the messages that were acknowledged.
    pub(crate) messages: u64,
    /// Counts the attempts that wardlink's own account calls in doubt.
    pub(crate) named: u64,
}

impl Table {
    /// Adds a run.
    pub(crate) fn add(&mut self, fault: Fault, step: Step, account: &Account) {
        // A name is there or not: half-way is before.
        let is_half_a_name = step == Step::At(Class::Name, Action::DieHalfway);
        let step = if is_half_a_name { Step::At(Class::Name, Action::DieBefore) } else { step };
        self.add_row((fault, step), 1, account);
    }

    /// Adds all of another table.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (row, (runs, account)) in &other.rows {
            self.add_row(*row, *runs, account);
        }
        self.messages += other.messages;
        self.named += other.named;
    }

    fn add_row(&mut self, row: (Fault, Step), runs: u64, account: &Account) {
        let (count, sum) = self.rows.entry(row).or_default();
        *count += runs;
        sum.add(account);
    }

    /// Returns how many runs there were, and the sum of all.
    pub(crate) fn total(&self) -> (u64, Account) {
        let (mut runs, mut sum) = (0, Account::default());
        for (count, account) in self.rows.values() {
            runs += count;
            sum.add(account);
        }
        (runs, sum)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "| fault | step | runs | lost | duplicated | reordered | sender resends | in-doubt resends | retries |\n",
        )?;
        f.write_str("|---|---|---:|---:|---:|---:|---:|---:|---:|\n")?;
        for ((fault, step), (runs, account)) in &self.rows {
            row(f, fault.words(), step.words(), *runs, account)?;
        }
        let (runs, sum) = self.total();
        row(f, "all", "", runs, &sum)?;
        let Self { messages, named, .. } = self;
        writeln!(f, "\n{messages} messages acknowledged; {named} attempts in doubt in wardlink's own account.")
    }
}

fn row(f: &mut fmt::Formatter<'_>, fault: &str, step: &str, runs: u64, account: &Account) -> fmt::Result {
    let Account { lost, duplicated, reordered, sender_resends, in_doubt, retried, in_doubt_or_resent: _ } = account;
    writeln!(
        f,
        "| {fault} | {step} | {runs} | {lost} | {duplicated} | {reordered} | {sender_resends} | {in_doubt} | {retried} |"
    )
}

impl Fault {
    fn words(self) -> &'static str {
        match self {
            Self::Killed(End::Near) => "near site killed",
            Self::Killed(End::Far) => "far site killed",
            Self::PowerLost(End::Near) => "near site loses power",
            Self::PowerLost(End::Far) => "far site loses power",
            Self::PowerLostTorn(End::Near) => "near site loses power, sectors survive at random",
            Self::PowerLostTorn(End::Far) => "far site loses power, sectors survive at random",
            Self::SyncFails(End::Near) => "an fsync fails at the near site",
            Self::SyncFails(End::Far) => "an fsync fails at the far site",
            Self::WriteFails(End::Near) => "a write fails at the near site",
            Self::WriteFails(End::Far) => "a write fails at the far site",
            Self::DiskFull(End::Near) => "near disk full",
            Self::DiskFull(End::Far) => "far disk full",
            Self::WireCut => "wire cut",
            Self::ReceiverKilled => "receiver killed",
            Self::ReceiverSlow => "receiver slow",
            Self::ReceiverCloses => "receiver closes before its answer",
            Self::ReceiverFails => "receiver says AE",
            Self::ReceiverRejects => "receiver says AR",
            Self::FarStateLost => "far site loses its state",
            Self::FarRestored => "far site restored from a backup",
            Self::NearRestored => "near site restored from a backup",
        }
    }
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Self::Any => "any moment",
            Self::At(_, Action::Fail) => "with it",
            Self::At(Class::Write, Action::DieBefore) => "before a write",
            Self::At(Class::Write, Action::DieAfter) => "after a write",
            Self::At(Class::Write, Action::DieHalfway) => "within a write",
            Self::At(Class::Sync, Action::DieBefore) => "before an fsync",
            Self::At(Class::Sync, Action::DieAfter) => "after an fsync",
            Self::At(Class::Sync, Action::DieHalfway) => "within an fsync",
            Self::At(Class::Name, Action::DieAfter) => "after a file is made, renamed or removed",
            Self::At(Class::Name, _) => "before a file is made, renamed or removed",
            Self::At(Class::Send, Action::DieBefore) => "before a send",
            Self::At(Class::Send, Action::DieAfter) => "after a send",
            Self::At(Class::Send, Action::DieHalfway) => "within a send",
            Self::At(Class::Any, _) => "at any event",
        }
    }
}

//! The writing of one metric of many things: its description once, then a sample for each.
//!
//! Knows no metric by name. The format's rules are those of OpenMetrics 1.0.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::super::facts::{ForwardFacts, PeerFacts, Receiver, ServiceFacts};
use super::super::state::{Entry, Status};
use crate::mllp::ack::AckCode;
use crate::mllp::frame::Anomaly;
use crate::spool::codes::CODES;
use crate::tunnel::drops::Drop;

/// Describes a metric, by its name without prefix and unit.
pub(super) struct Metric {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    unit: Option<Unit>,
}

impl Metric {
    pub(super) fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self { name, help, kind, unit: None }
    }

    pub(super) fn seconds(self) -> Self {
        Self { unit: Some(Unit::Seconds), ..self }
    }

    pub(super) fn bytes(self) -> Self {
        Self { unit: Some(Unit::Bytes), ..self }
    }
}

pub(super) fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric::new(name, help, MetricType::Gauge)
}

pub(super) fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric::new(name, help, MetricType::Counter)
}

/// Writes one metric of all `things`.
pub(super) fn family<T>(
    encoder: &mut DescriptorEncoder,
    metric: Metric,
    things: &[T],
    write: impl Fn(&mut MetricEncoder, &T) -> fmt::Result,
) -> fmt::Result {
    let mut to = encoder.encode_descriptor(metric.name, metric.help, metric.unit.as_ref(), metric.kind)?;
    things.iter().try_for_each(|thing| write(&mut to, thing))
}

/// Is a label's key and value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// Gives what a metric is of its label.
pub(super) fn label<'a, F: Labelled>(entry: &Entry<'a, F>) -> Label<'a> {
    entry.facts.label()
}

pub(super) trait Labelled {
    fn label(&self) -> Label<'_>;
}

impl Labelled for PeerFacts {
    fn label(&self) -> Label<'_> {
        ("peer", &self.name)
    }
}

impl Labelled for ForwardFacts {
    fn label(&self) -> Label<'_> {
        ("forward", &self.name)
    }
}

impl Labelled for ServiceFacts {
    fn label(&self) -> Label<'_> {
        ("service", &self.name)
    }
}

pub(super) fn number(to: &mut MetricEncoder, of: Label, value: u64) -> fmt::Result {
    to.encode_family(&[of])?.encode_gauge(&value)
}

pub(super) fn count(to: &mut MetricEncoder, labels: &[Label], value: u64) -> fmt::Result {
    to.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// Writes counts by a label; what is known to have a count and has none yet is 0, because `increase` and `rate` see no rise
/// from what is not there: the first message that is refused would raise no alert.
pub(super) fn counts(
    to: &mut MetricEncoder,
    of: &[Label],
    (key, known): (&'static str, impl IntoIterator<Item = &'static str>),
    values: &BTreeMap<&'static str, u64>,
) -> fmt::Result {
    let mut all: BTreeMap<&str, u64> = known.into_iter().map(|name| (name, 0)).collect();
    all.extend(values);
    all.into_iter().try_for_each(|(name, value)| {
        let labels: Vec<_> = of.iter().copied().chain([(key, name)]).collect();
        count(to, &labels, value)
    })
}

/// Lists the codes of answers.
pub(super) fn codes() -> impl Iterator<Item = &'static str> {
    CODES.into_iter().map(AckCode::code)
}

/// Lists what may be odd in framing or answers.
pub(super) fn anomalies() -> impl Iterator<Item = &'static str> {
    Anomaly::ALL.into_iter().map(Anomaly::code)
}

/// Lists why packets are dropped.
pub(super) fn drops() -> impl Iterator<Item = &'static str> {
    Drop::ALL.iter().map(|reason| reason.code())
}

/// Writes an age, and nothing where there is none: what never happened has no age.
pub(super) fn age(to: &mut MetricEncoder, of: Label, value: Option<Duration>) -> fmt::Result {
    match value {
        Some(value) => to.encode_family(&[of])?.encode_gauge(&value.as_secs_f64()),
        None => Ok(()),
    }
}

pub(super) fn receiver(to: &mut MetricEncoder, of: Label, receiver: &Receiver) -> fmt::Result {
    match receiver {
        Receiver::Unknown => Ok(()),
        Receiver::Ok { .. } => number(to, of, 1),
        Receiver::Down { .. } => number(to, of, 0),
    }
}

/// Writes every status, 1 at the one that holds: an alert is then `wardlink_forward_status{status="down"} == 1`.
pub(super) fn states(to: &mut MetricEncoder, of: Option<Label>, holds: Status) -> fmt::Result {
    Status::ALL.iter().try_for_each(|status| {
        let labels: Vec<_> = of.into_iter().chain([("status", status.as_str())]).collect();
        to.encode_family(&labels)?.encode_gauge(&u64::from(*status == holds))
    })
}

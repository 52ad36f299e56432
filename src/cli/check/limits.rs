//! The limits that `wardlink check` takes on its command line. Pure.

use std::time::Duration;

/// Limits how long a plugin may wait: schedulers end one long before.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Names a figure that may have a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    QueueDepth,
    Parked,
    OldestQueuedAge,
    OldestUnansweredAge,
    LastAckAge,
    Connections,
    HandshakeAge,
}

impl Figure {
    pub(super) const ALL: [Self; 7] = [
        Self::QueueDepth,
        Self::Parked,
        Self::OldestQueuedAge,
        Self::OldestUnansweredAge,
        Self::LastAckAge,
        Self::Connections,
        Self::HandshakeAge,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::QueueDepth => "queue_depth",
            Self::Parked => "parked",
            Self::OldestQueuedAge => "oldest_queued_age",
            Self::OldestUnansweredAge => "oldest_unanswered_age",
            Self::LastAckAge => "last_ack_age",
            Self::Connections => "connections",
            Self::HandshakeAge => "handshake_age",
        }
    }

    /// Tells that only a queue has it.
    pub(super) fn is_of_queues(self) -> bool {
        matches!(self, Self::QueueDepth | Self::Parked | Self::OldestQueuedAge)
    }

    /// Is the unit of measurement of the performance data: seconds, or nothing for a count.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::OldestQueuedAge | Self::OldestUnansweredAge | Self::LastAckAge | Self::HandshakeAge => "s",
            Self::QueueDepth | Self::Parked | Self::Connections => "",
        }
    }
}

/// Is from which value on a figure counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    pub(super) figure: Figure,
    pub(super) value: f64,
}

/// Finds the limit of a figure.
pub(super) fn of(limits: &[Limit], figure: Figure) -> Option<f64> {
    limits.iter().find(|limit| limit.figure == figure).map(|limit| limit.value)
}

/// Says what is wrong with limits together, and what to write instead.
pub(super) fn fault(warning: &[Limit], critical: &[Limit]) -> Option<String> {
    let twice = |limits: &[Limit]| {
        let is_again = |place: usize, one: &Limit| limits.iter().take(place).any(|before| before.figure == one.figure);
        limits.iter().enumerate().find(|(place, one)| is_again(*place, one)).map(|(_, one)| one.figure.as_str())
    };
    if let Some(name) = twice(warning).or_else(|| twice(critical)) {
        return Some(format!("{name} has two limits: write one for --warning and one for --critical"));
    }
    Figure::ALL.into_iter().find_map(|figure| {
        let (name, unit) = (figure.as_str(), figure.unit());
        let (warn, crit) = of(warning, figure).zip(of(critical, figure))?;
        (warn > crit).then(|| {
            format!(
                "--warning {name}={warn:.0}{unit} is above --critical {name}={crit:.0}{unit}: the first must be the lower one"
            )
        })
    })
}

/// Reads FIGURE=VALUE.
pub(super) fn parse(text: &str) -> Result<Limit, String> {
    let names = || Figure::ALL.map(Figure::as_str).join(", ");
    let (name, value) =
        text.split_once('=').ok_or_else(|| "write FIGURE=VALUE, such as queue_depth=1000".to_owned())?;
    let figure = Figure::ALL.into_iter().find(|figure| figure.as_str() == name);
    let figure = figure.ok_or_else(|| format!("the figures are {}", names()))?;
    let value = if figure.unit() == "s" { seconds(value) } else { value.parse().ok().map(count) };
    let value = value.ok_or_else(|| match figure.unit() {
        "s" => format!("write {name}=90s, {name}=5m or {name}=2h"),
        _ => format!("write {name}=1000"),
    })?;
    Ok(Limit { figure, value })
}

/// Reads how long to wait, in seconds or with a unit.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let whole = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
    let time =
        whole.or_else(|| humantime::parse_duration(text).ok()).filter(|time| !time.is_zero() && *time <= TIME_MAX);
    time.ok_or_else(|| format!("write 5, 5s or 1m, at most {}s", TIME_MAX.as_secs()))
}

fn count(number: u32) -> f64 {
    f64::from(number)
}

fn seconds(text: &str) -> Option<f64> {
    let whole = text.parse::<u32>().ok().map(f64::from);
    whole.or_else(|| humantime::parse_duration(text).ok().map(|duration| duration.as_secs_f64()))
}

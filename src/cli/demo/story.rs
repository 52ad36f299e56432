//! The demo from its first step to its verdict, and what it says at each.
//!
//! Decides nothing about tunnels or messages: it starts the parts, and reports what they saw.

use std::cell::Cell;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::DemoError;
use super::capture::Capture;
use super::confine::Rights;
use super::findings::{self, Observed};
use super::messages::{self, Message};
use super::needles::Needles;
use super::place::Place;
use super::plan::{self, Flow, Ledger};
use super::report::{Latencies, grouped, megabytes, milliseconds, paragraph, say};
use super::sites::{self, HOSPITAL, LAB, RECEIVER, SENDERS, Site};
use super::systems::{self, Sent};
use super::wire::{self, LOOPBACK, WIRE};
use crate::app::{self, AppError};
use crate::config::Config;

/// Is how long the demo waits for the first handshake before it sends all the same.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Is how long the sites may drain at the end; the process takes them along in any case.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Tells the whole demo; returns whether everything went as promised. `step` names what is under way.
///
/// # Errors
/// A step is impossible here, or a site ended.
pub(super) async fn tell(count: u32, rights: Rights, step: &Cell<&'static str>) -> Result<bool, DemoError> {
    let begun = Instant::now();
    say(&format!(
        "wardlink demo: two sites on this machine, {} HL7 messages through a real WireGuard tunnel\n\n",
        grouped(count as usize)
    ));
    let prepared = tokio::task::spawn_blocking(move || Prepared::new(count as usize));
    step.set("the namespaces and the wire between them");
    let stage = Stage::build(rights).await?;
    step.set("making the messages");
    let prepared = prepared.await.map_err(|_| DemoError::ThreadEnded { thread: "messages" })?;
    step.set("the start of the two sites");
    let started = Instant::now();
    let mut sites = Sites::start(&stage).await?;
    say_handshake(&stage, started).await;
    step.set("the messages and their answers");
    let traffic = tokio::select! {
        traffic = exchange(&stage, &prepared.messages) => traffic?,
        error = sites.ended() => return Err(error),
    };
    let (wire, loopback) = (stage.wire.finish(), stage.loopback.finish());
    sites.stop().await;
    step.set("the search of the recording");
    let observed = Observed::new(wire, loopback, prepared.needles, prepared.messages.len());
    let observed = tokio::task::spawn_blocking(|| observed.search()).await;
    let observed = observed.map_err(|_| DemoError::ThreadEnded { thread: "search" })?;
    let mut complaints = traffic.complaints();
    traffic.say(&prepared.messages);
    observed.say();
    complaints.extend(observed.complaints());
    Ok(findings::say_verdict(&complaints, &observed, count as usize, begun.elapsed()))
}

/// Holds what can be made before the sites exist.
struct Prepared {
    messages: Arc<[Message]>,
    needles: Needles,
}

impl Prepared {
    fn new(count: usize) -> Self {
        let messages = messages::generate(count);
        let payloads = messages.iter().map(|message| message.payload.as_slice());
        let answers = messages.iter().map(|message| message.answer.as_slice());
        let needles = Needles::new(payloads.chain(answers));
        Self { messages: messages.into(), needles }
    }
}

/// Holds the two places with the wire between them, each with a thread for its site and one for its HL7 systems.
struct Stage {
    hospital: Place,
    hospital_systems: Place,
    lab: Place,
    lab_systems: Place,
    wire: Capture,
    loopback: Capture,
}

impl Stage {
    async fn build(rights: Rights) -> Result<Self, DemoError> {
        let (hospital, lab) = (Place::new(HOSPITAL.name).await?, Place::new(LAB.name).await?);
        let lab_namespace = lab.namespace_fd();
        hospital.run(move || wire::lay(lab_namespace)).await??;
        let start = || async { Ok::<_, DemoError>((Capture::start(WIRE)?, Capture::start(LOOPBACK)?)) };
        let (wire, loopback) = hospital.run(start).await??;
        lab.run(|| wire::raise(LAB.wire)).await??;
        hospital.run(|| wire::raise(HOSPITAL.wire)).await??;
        let by = match rights {
            Rights::Root => "as root",
            Rights::UserNamespace => "in a user namespace, without root",
        };
        let [near, far] = [HOSPITAL, LAB].map(|site| format!("{} ({})", site.name, site.wire));
        paragraph(
            "Sites",
            &[
                format!("{near} and {far}, in network namespaces of their own, joined by one wire;"),
                format!("made {by}. All of it lives in this process and ends with it."),
            ],
        );
        let hospital_systems = hospital.beside("hospital-hl7").await?;
        let lab_systems = lab.beside("lab-hl7").await?;
        Ok(Self { hospital, hospital_systems, lab, lab_systems, wire, loopback })
    }
}

/// Holds the two running sites.
struct Sites {
    stop: watch::Sender<bool>,
    hospital: Running,
    lab: Running,
}

/// Tells how a site ended.
type Running = oneshot::Receiver<Result<(), AppError>>;

impl Sites {
    async fn start(stage: &Stage) -> Result<Self, DemoError> {
        let (hospital, lab) = sites::configs()?;
        let (stop, stopped) = watch::channel(false);
        let lab = start_site(&stage.lab, LAB, lab, stopped.clone()).await?;
        let hospital = start_site(&stage.hospital, HOSPITAL, hospital, stopped).await?;
        Ok(Self { stop, hospital, lab })
    }

    /// Waits until a site ends by itself, which it must not. Cancel-safe.
    async fn ended(&mut self) -> DemoError {
        let (site, ended) = tokio::select! {
            ended = &mut self.hospital => (HOSPITAL.name, ended),
            ended = &mut self.lab => (LAB.name, ended),
        };
        match ended {
            Ok(Err(source)) => DemoError::SiteFailed { site, source },
            Ok(Ok(())) | Err(_) => DemoError::SiteEnded { site },
        }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        let both = async { tokio::join!(self.hospital, self.lab) };
        // What a site says at its end changes nothing about what was seen.
        tokio::time::timeout(STOP_TIMEOUT, both).await.ok();
    }
}

async fn start_site(
    place: &Place,
    site: Site,
    config: Config,
    stop: watch::Receiver<bool>,
) -> Result<Running, DemoError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir);
    created.map_err(|source| DemoError::System { what: "a private directory", source })?;
    let start = move || async move {
        let again = config.clone();
        let site = app::Site::start(config, Arc::new(move || Ok(again.clone()))).await?;
        let (ended, running) = oneshot::channel();
        tokio::task::spawn_local(async move {
            ended.send(site.run(stop).await).ok();
        });
        Ok(running)
    };
    place.run(start).await?.map_err(|source| DemoError::Site { site: site.name, source })
}

async fn say_handshake(stage: &Stage, started: Instant) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, stage.wire.handshake()).await;
    let outcome = match handshake {
        Ok(true) => format!("handshake done {} after the start of the sites,", milliseconds(started.elapsed())),
        Ok(false) | Err(_) => format!("no handshake in {} s yet,", HANDSHAKE_TIMEOUT.as_secs()),
    };
    let [near, far] = [HOSPITAL, LAB].map(|site| format!("{} is {}", site.name, site.tunnel));
    paragraph("Tunnel", &[format!("{outcome} with keys made for this run."), format!("Inside it, {near} and {far}.")]);
}

/// Holds what the HL7 systems saw.
struct Traffic {
    directions: [Direction; 2],
    took: Duration,
}

/// Holds what was sent one way, and what arrived.
struct Direction {
    flows: Vec<Flow>,
    sent: Vec<Sent>,
    ledger: Arc<Mutex<Ledger>>,
}

async fn exchange(stage: &Stage, messages: &Arc<[Message]>) -> Result<Traffic, DemoError> {
    let (hospital, lab) = (&stage.hospital_systems, &stage.lab_systems);
    let (at_hospital, at_lab) = (listen(hospital, messages).await?, listen(lab, messages).await?);
    let begun = Instant::now();
    let (orders, results) = tokio::try_join!(
        one_way(hospital, messages, plan::flows(messages, true), at_lab),
        one_way(lab, messages, plan::flows(messages, false), at_hospital),
    )?;
    Ok(Traffic { directions: [orders, results], took: begun.elapsed() })
}

async fn listen(place: &Place, messages: &Arc<[Message]>) -> Result<Arc<Mutex<Ledger>>, DemoError> {
    let messages = Arc::clone(messages);
    let listening = place.run(|| systems::receive(RECEIVER, messages)).await?;
    listening.map_err(|source| DemoError::System { what: "the receiver's port", source })
}

async fn one_way(
    from: &Place,
    messages: &Arc<[Message]>,
    flows: Vec<Flow>,
    ledger: Arc<Mutex<Ledger>>,
) -> Result<Direction, DemoError> {
    let sending = flows.iter().map(|flow| {
        let (messages, flow) = (Arc::clone(messages), flow.clone());
        from.run(|| systems::send(SENDERS, messages, flow))
    });
    let sent = futures_util::future::try_join_all(sending).await?;
    Ok(Direction { flows, sent, ledger })
}

impl Traffic {
    fn complaints(&self) -> Vec<String> {
        let of = |direction: &Direction| {
            let ledger = direction.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            let mut complaints = plan::complaints(&direction.flows, &ledger);
            complaints.extend(direction.sent.iter().flat_map(|sent| sent.failures.clone()));
            complaints
        };
        self.directions.iter().flat_map(of).collect()
    }

    fn say(&self, messages: &[Message]) {
        let answered: Vec<(usize, Duration)> =
            self.directions.iter().flat_map(|way| &way.sent).flat_map(|sent| sent.answered.clone()).collect();
        self.say_counts(messages, answered.len());
        let latencies = |kinds: &dyn Fn(messages::Kind) -> bool| {
            let of_kinds = answered.iter().filter(|(number, _)| messages.get(*number).is_some_and(|m| kinds(m.kind)));
            Latencies::new(of_kinds.map(|(_, latency)| *latency))
        };
        let rows = messages::Kind::ALL.map(|kind| (kind.label(), latencies(&|other| other == kind)));
        let rows = rows.iter().filter(|(_, latencies)| !latencies.is_empty());
        let mut lines = vec![Latencies::heading()];
        lines.extend(rows.map(|(label, latencies)| latencies.row(label)));
        lines.push(latencies(&|_| true).row("all"));
        paragraph("Latency", &lines);
    }

    fn say_counts(&self, messages: &[Message], answered: usize) {
        let flows = || self.directions.iter().flat_map(|way| &way.flows);
        let persistent = flows().filter(|flow| matches!(flow, Flow::OneConnection(_))).count();
        let connections: usize = flows().map(|flow| flow.connections().len()).sum();
        let from_hospital = messages.iter().filter(|message| message.kind.is_from_hospital()).count();
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        let total = grouped(messages.len());
        let back = messages.len() - from_hospital;
        let mut lines = vec![
            format!("{} from hospital to lab (ADT, ORM), {} back (ORU),", grouped(from_hospital), grouped(back)),
            format!(
                "over {persistent} persistent connections and {} of one message each; {} in {}.",
                grouped(connections - persistent),
                megabytes(bytes),
                milliseconds(self.took)
            ),
        ];
        let complaints = self.complaints();
        if complaints.is_empty() {
            lines.push(format!("{total} of {total} arrived: byte for byte, once each, in their connection's order."));
        }
        lines.extend(complaints);
        paragraph("Messages", &lines);
        let what = "AA, with the message's own MSH-10 and byte for byte as the receiver wrote it.";
        paragraph("ACKs", &[format!("{} of {total} {what}", grouped(answered))]);
    }
}

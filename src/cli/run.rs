//! `wardlink run`: the site in the foreground, as systemd starts it.
//!
//! It never daemonizes. SIGTERM and SIGINT drain and stop, SIGHUP reloads; systemd is told READY, RELOADING, STOPPING and
//! WATCHDOG (sd_notify(3)).

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{EXIT_NOT_PERMITTED, EXIT_USAGE};
use crate::app::{self, AppError, LoadConfig, Reloader, Site};
use crate::config::{self, Config};
use crate::link::cause_chain;

/// Names the log filter's variable.
const LOG_VARIABLE: &str = "WARDLINK_LOG";

/// Runs the site until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = "The log goes to standard error. WARDLINK_LOG sets its level (error, warn, info, debug), \
    --log-format its form. No byte of a message is ever logged.\n\n\
    SIGTERM and SIGINT stop it as soon as no message is on its way, within 12 s. SIGHUP reads the file again, as \
    `wardlink reload` does.\n\n\
    It needs CAP_NET_ADMIN, for the tunnel interface: run it as root, by its systemd unit, or give it the capability \
    with `setcap cap_net_admin+ep`.")]
pub struct Args {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "/etc/wardlink/wardlink.yaml")]
    config: PathBuf,
    /// The form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// A line for a person.
    Text,
    /// A JSON object a line.
    Json,
}

/// Runs the command.
#[expect(clippy::print_stderr, reason = "errors of the configuration are the command's output")]
pub fn run(args: &Args) -> ExitCode {
    start_log(args.log_format);
    let config = match config::load_to_run(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let path = args.config.clone();
    // before there is any thread
    let confined = config.sandbox.then(|| app::confine(&config, &path));
    let load: LoadConfig =
        Arc::new(move || confined.as_ref().map_or_else(|| config::load_to_run(&path), |confined| confined.load(&path)));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(serve(config, &args.config, load));
    // Not dropped: that would wait for a look-up of a peer's name that no name server answers, 10 s and more.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_not_permitted() => {
            tracing::error!(
                error = %cause_chain(&error),
                "run as root, by the systemd unit, or after `setcap cap_net_admin+ep` on the binary"
            );
            ExitCode::from(EXIT_NOT_PERMITTED)
        }
        Err(error) => {
            tracing::error!(error = %cause_chain(&error), "cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    // boringtun says neither whom it means nor that the site goes on; who wants it all the same names it.
    let wanted = std::env::var(LOG_VARIABLE).map(|wanted| format!("boringtun=off,{wanted}"));
    let filter = wanted.ok().and_then(|wanted| tracing_subscriber::EnvFilter::try_new(wanted).ok());
    let filter = filter.unwrap_or_else(|| tracing_subscriber::EnvFilter::new("warn,wardlink=info,boringtun=off"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

async fn serve(config: Config, file: &Path, load: LoadConfig) -> Result<(), AppError> {
    // From now on: a signal during the start is not lost, and SIGHUP does not end the process.
    let hangup = signal(SignalKind::hangup()).ok();
    let (stop, stopped) = watch::channel(false);
    let site_name = config.site.clone();
    let site = Site::start(config, load).await?.with_file(file);
    tracing::info!(site = %site_name, version = env!("CARGO_PKG_VERSION"), "runs");
    tell_systemd(&[NotifyState::Ready]);
    let watchdog = tokio::spawn(feed_watchdog());
    let reloads = tokio::spawn(reload_at(hangup, site.reloader()));
    let signals = tokio::spawn(async move {
        wait_for_signal().await;
        tell_systemd(&[NotifyState::Stopping]);
        stop.send_replace(true);
        std::future::pending::<()>().await; // keeps the channel open
    });
    let result = site.run(stopped).await;
    watchdog.abort();
    reloads.abort();
    signals.abort();
    if result.is_ok() {
        tracing::info!(site = %site_name, "stopped");
    }
    result
}

async fn wait_for_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Reloads at each SIGHUP, one after the other; those that come meanwhile are one.
async fn reload_at(hangup: Option<Signal>, reloader: Reloader) {
    let Some(mut hangup) = hangup else { return };
    while hangup.recv().await.is_some() {
        let mut reloading = vec![NotifyState::Reloading];
        reloading.extend(NotifyState::monotonic_usec_now().ok());
        tell_systemd(&reloading);
        // What came of it stands in the log and in `status`; the site runs on in any case.
        reloader.reload().await.ok();
        tell_systemd(&[NotifyState::Ready]);
    }
}

/// Tells systemd at half its interval that the runtime still turns, if it asked for it.
async fn feed_watchdog() {
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    loop {
        tell_systemd(&[NotifyState::Watchdog]);
        tokio::time::sleep((every / 2).max(Duration::from_millis(100))).await;
    }
}

/// Notifies systemd; without it there is nobody to tell.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

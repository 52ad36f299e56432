//! Alarms at whole sites: told once when they start and once when they clear, to a real web server and a real program, also
//! while the network is away and over a restart.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::harness::mllp::{Behaviour, MARKER, message};
use crate::harness::pair::Pair;
use crate::harness::process::Process;
use crate::harness::tls::Authority;
use crate::harness::{tests, until};

tests![
    an_alarm_is_told_once_when_it_starts_and_once_when_it_clears needs "python3",
    what_cannot_be_told_waits_over_a_restart_and_keeps_its_order needs "python3",
];

/// Bounds the time until an alarm is told: seconds, on a machine that is busy.
const TOLD_LIMIT: Duration = Duration::from_secs(30);

/// Writes what it is posted to a file, one line each; over TLS where it is given a certificate.
const SERVER: &str = r#"
import http.server, ssl, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[2], "ab") as out:
            out.write(body + b"\n")
        self.send_response(204 if self.path == "/hook?token=SECRET" else 404)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Hook)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// Starts the web server at north.
fn serve(pair: &Pair, tls: &[String]) -> Process {
    let path = |name: &str| pair.north.dir.join(name).display().to_string();
    fs::write(path("server.py"), SERVER).expect("the server");
    let words = ["python3".to_owned(), path("server.py"), "8099".to_owned(), path("posted")];
    let words = [&words[..], tls].concat();
    Process::start(&pair.north.namespace, &words, &pair.north.dir.join("server.log"))
}

/// Reads what was told, one event each: the event, the alarm, and of what.
fn told(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn events(path: &Path) -> Vec<String> {
    let told = told(path);
    told.iter().map(|one| format!("{} {} {}", one["event"], one["alarm"], one["of"]).replace('"', "")).collect()
}

const BOTH: [&str; 2] = ["start down forward orders", "clear down forward orders"];

fn an_alarm_is_told_once_when_it_starts_and_once_when_it_clears() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["on_unreachable: close"]);
    let dir = pair.north.dir.clone();
    let script = "#!/bin/sh\nread -r line\nprintf '%s\\n' \"$line\" >> \"$1\"\n\
                  echo \"$WARDLINK_EVENT $WARDLINK_ALARM $WARDLINK_OF $WARDLINK_SITE\" >> \"$1.env\"\n";
    let page = dir.join("page");
    fs::write(&page, script).expect("the script");
    fs::set_permissions(&page, fs::Permissions::from_mode(0o755)).expect("it runs");
    let issuer = Authority::new("hook issuer");
    let (certificate, key) = issuer.issue(&pair.north, "hook", "localhost", 90);
    issuer.write(&pair.north, "hook-ca.pem");
    let ran = dir.join("ran");
    let north = north.section(&format!(
        "alarms:\n  for: 0s\n  down: 1s\n  webhook: https://localhost:8099/hook?token=SECRET\n  \
         webhook_ca_file: hook-ca.pem\n  command: [{}, {}]",
        page.display(),
        ran.display()
    ));
    let _server = serve(&pair, &[certificate, key]);
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let _ = pair.sender().send(&message("1", 500));
    let posted = dir.join("posted");
    let start = |path: &Path| events(path).first().is_some_and(|first| first == BOTH[0]).then_some(());
    until(TOLD_LIMIT, "the start is posted", || start(&posted));
    until(TOLD_LIMIT, "the start is run", || start(&ran));
    let cause = told(&posted)[0]["cause"].as_str().unwrap_or_default().to_owned();
    assert!(cause.contains("refuses connections") && cause.contains("south"), "{cause}");
    let health = pair.north.health();
    assert_eq!(health["alarms"][0]["alarm"], "down", "{health}");
    assert!(pair.north.metric("alarm", "alarm=\"down\",of=\"forward orders\"") > 0.5);
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(TOLD_LIMIT, "the clear is posted", || {
        let _ = pair.sender().send(&message("2", 500));
        (events(&posted).len() == 2 && events(&ran).len() == 2).then_some(())
    });
    assert_eq!((events(&posted), events(&ran)), (BOTH.map(str::to_owned).to_vec(), BOTH.map(str::to_owned).to_vec()));
    let environment = fs::read_to_string(dir.join("ran.env")).expect("the environment");
    assert_eq!(environment, BOTH.map(|line| format!("{line} north\n")).concat());
    assert_eq!(pair.north.health()["alarms"], serde_json::json!([]));
    let shown =
        [pair.north.log(), fs::read_to_string(&posted).expect("posted"), pair.north.get("/healthz").body].concat();
    for secret in [MARKER, "SECRET"] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
    assert_eq!(pair.north.log().matches("alarm starts").count(), 1, "{}", pair.north.log());
    assert_eq!(pair.north.log().matches("alarm clears").count(), 1);
}

fn what_cannot_be_told_waits_over_a_restart_and_keeps_its_order() {
    let mut pair = Pair::unstarted();
    let (north, south) = pair.plans(&["on_unreachable: close"]);
    let north = north.section("alarms: {for: 0s, down: 1s, webhook: \"http://127.0.0.1:8099/hook?token=SECRET\"}");
    pair.south.start(&south);
    pair.north.start(&north);
    pair.is_linked();
    let _ = pair.sender().send(&message("1", 500));
    until(TOLD_LIMIT, "the alarm starts", || pair.north.log().contains("alarm starts").then_some(()));
    pair.north.kill();
    pair.north.restart();
    pair.is_linked();
    assert_eq!(pair.north.health()["alarms"][0]["of"], "forward orders", "it is raised still");
    let _receiver = pair.receiver(Behaviour::Answer("AA"));
    until(TOLD_LIMIT, "the alarm clears", || {
        let _ = pair.sender().send(&message("2", 500));
        pair.north.log().contains("alarm clears").then_some(())
    });
    let posted = pair.north.dir.join("posted");
    assert_eq!(events(&posted), Vec::<String>::new());
    let _server = serve(&pair, &[]);
    until(TOLD_LIMIT * 2, "both are posted", || (events(&posted).len() == 2).then_some(()));
    assert_eq!(events(&posted), BOTH);
    let ids: Vec<_> = told(&posted).iter().map(|one| one["id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(2)], "numbers go on over a restart");
    assert_eq!(pair.north.log().matches("alarm starts").count(), 1, "the log goes on, and has it once");
}

//! Tests of the health endpoints with a real server.

mod door;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::super::facts::{Part, Receiver, Session};
use super::super::fixture::{NOW, ago, site};
use super::super::page::stream::STREAMS_MAX;
use super::*;

/// Is a server on a port of its own.
struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), HealthError>>,
}

async fn serve_facts(facts: SiteFacts) -> Server {
    serve_source(Arc::new(move || facts.clone())).await
}

async fn serve_source(source: Source) -> Server {
    serve_behind(Arc::new(|| None), source).await
}

async fn serve_behind(doors: Doors, source: Source) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (stop, stopped) = watch::channel(false);
    let history = SharedHistory::default();
    {
        let mut history = history.lock().expect("not poisoned");
        (0..3).for_each(|_| history.handle_look(&site(), *NOW));
    }
    let task = tokio::spawn(serve(listener, doors, source, history, stopped));
    Server { address, stop, task }
}

impl Server {
    /// Sends these bytes on a connection of their own and reads until the server closes it.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    /// Returns the status code, the head and the body.
    async fn get(&self, path: &str) -> (u16, String, String) {
        split(&self.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await)
    }
}

fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status code");
    (code, head.to_lowercase(), body.to_owned())
}

fn unhealthy() -> SiteFacts {
    let mut facts = site();
    facts.forwards[0].receiver =
        Receiver::Down { since: ago(60), cause: "192.168.10.40:6661 refuses connections".into() };
    facts
}

#[tokio::test]
async fn a_healthy_site() {
    let server = serve_facts(site()).await;
    for path in ["/livez", "/readyz"] {
        let (code, _, body) = server.get(path).await;
        assert_eq!((code, body.as_str()), (200, ""), "{path}");
    }
    let (code, head, body) = server.get("/healthz").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!(json["status"], "ok");
    assert_eq!(json["forwards"][1]["name"], "images");
    let (code, head, body) = server.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("# TYPE wardlink_forward_messages counter\n"), "{body}");
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_dead_receiver_alarms_only_its_own_forward() {
    let server = serve_facts(unhealthy()).await;
    assert_eq!(server.get("/livez").await.0, 200);
    assert_eq!(server.get("/readyz").await.0, 200);
    let (code, _, body) = server.get("/healthz").await;
    assert_eq!(code, 503);
    assert!(body.starts_with(r#"{"status":"down","site":"north-hospital""#), "{body}");
    let (code, _, body) = server.get("/healthz/forwards/orders").await;
    assert_eq!(code, 503);
    let json: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!((&json["name"], &json["status"]), (&"orders".into(), &"down".into()));
    assert_eq!(server.get("/healthz/forwards/images").await.0, 200);
    let (code, _, body) = server.get("/healthz/forwards/other").await;
    assert_eq!(code, 404);
    let json: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!(json["forwards"], serde_json::json!(["orders", "images"]));
}

#[tokio::test]
async fn readiness_and_unknown_by_their_codes() {
    let mut facts = site();
    facts.interface = Part::Down { since: ago(1), cause: "wl0 is gone".into() };
    let server = serve_facts(facts).await;
    let (code, _, body) = server.get("/readyz").await;
    assert_eq!((code, body.as_str()), (503, ""));
    assert_eq!(server.get("/livez").await.0, 200);

    let mut facts = site();
    facts.forwards.clear();
    facts.peers[0].session = Session::Down { since: ago(1) };
    let server = serve_facts(facts).await;
    let (code, _, body) = server.get("/healthz").await;
    assert_eq!(code, 200, "unknown does not alarm");
    assert!(body.starts_with(r#"{"status":"unknown""#), "{body}");
}

#[tokio::test]
async fn the_host_must_be_this_one() {
    let server = serve_facts(site()).await;
    let port = server.address.port();
    let host = |host: &str| format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for right in ["localhost", "LocalHost:9575", "127.0.0.1", "127.0.0.1:1", "127.8.8.8", "[::1]", "[::1]:80"] {
        assert_eq!(split(&server.raw(&host(right)).await).0, 200, "{right}");
    }
    assert_eq!(split(&server.raw(&host(&format!("127.0.0.1:{port}"))).await).0, 200);
    for wrong in ["evil.example", "localhost.evil.example", "192.168.10.40", "127.0.0.1.evil.example:9575", "[::2]"] {
        let (code, _, body) = split(&server.raw(&host(wrong)).await);
        assert_eq!(code, 421, "{wrong}");
        assert!(!body.contains("north-hospital"), "{wrong}");
    }
    for malformed in ["", "localhost:port", "[::1", "[::1]x", ":80", "::1"] {
        assert_eq!(split(&server.raw(&host(malformed)).await).0, 400, "{malformed}");
    }
    let two = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n";
    assert_eq!(split(&server.raw(two).await).0, 400);
    assert_eq!(split(&server.raw("GET /livez HTTP/1.1\r\n\r\n").await).0, 400);
    assert_eq!(split(&server.raw("GET /livez HTTP/1.0\r\n\r\n").await).0, 200);
    let absolute = "GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(split(&server.raw(absolute).await).0, 421);
    assert_eq!(split(&server.raw("GET /none HTTP/1.1\r\nHost: evil.example\r\n\r\n").await).0, 421);
}

#[test]
fn the_listen_address_is_a_right_host() {
    let is_own = |host: &str, local: &str| {
        let local = SocketAddr::new(local.parse().expect("address"), 9575);
        Asker { local, from: local, door: None, advice: Arc::default() }.is_own(host)
    };
    assert!(is_own("192.168.10.5", "192.168.10.5") && is_own("192.168.10.5", "::ffff:192.168.10.5"));
    assert!(!is_own("192.168.10.6", "192.168.10.5"));
    assert!(is_own("fd00::5", "fd00::5") && is_own("[fd00::5]", "fd00::5"));
}

#[tokio::test]
async fn only_these_paths_and_only_reading() {
    let server = serve_facts(site()).await;
    for path in ["/index.html", "/events/", "/healthz/", "/healthz/forwards", "/metrics/x", "/healthz/forwards/a/b"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
    let page = ["/", "/page.css", "/page.js", "/parts.js", "/events"];
    for path in ["/livez", "/readyz", "/healthz", "/healthz/forwards/orders", "/metrics"].into_iter().chain(page) {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(split(&server.raw(&request).await).0, 405, "{method} {path}");
        }
        let head = server.raw(&format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!((split(&head).0, split(&head).2.as_str()), (200, ""), "{path}");
    }
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let server = serve_facts(site()).await;
    let mut stream = TcpStream::connect(server.address).await.expect("connect");
    let request = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(CONNECTION_BUFFER_BYTES_MAX));
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("read");
    assert_eq!(&answer, b"HTTP/1.1 431");
}

/// Stuck probers fill every slot; when their time is over the next probe is answered. The time is virtual.
#[tokio::test]
async fn stuck_probers_do_not_last() {
    let server = serve_facts(site()).await;
    let mut stuck = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(server.address).await.expect("connect");
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("write");
        stuck.push(stream);
    }
    tokio::time::pause();
    assert_eq!(server.get("/livez").await.0, 200);
    for mut stream in stuck {
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed in order"), 0);
    }
}

#[tokio::test]
async fn a_panic_costs_only_its_own_connection() {
    let server = serve_source(Arc::new(|| panic!("no facts"))).await;
    assert_eq!(server.raw("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await, "");
    assert_eq!(server.get("/livez").await.0, 200);
}

#[tokio::test]
async fn it_stops_with_an_idle_connection_open() {
    let server = serve_facts(site()).await;
    let mut idle = TcpStream::connect(server.address).await.expect("connect");
    assert_eq!(server.get("/livez").await.0, 200, "the idle one was accepted before");
    server.stop.send(true).expect("still served");
    server.task.await.expect("no panic").expect("no error");
    assert_eq!(idle.read(&mut [0; 1]).await.expect("closed in order"), 0);
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is free");
}

/// Is a stream of the page.
struct Events(TcpStream);

impl Server {
    async fn events(&self, more: &str) -> Events {
        let mut stream = TcpStream::connect(self.address).await.expect("connect");
        let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        Events(stream)
    }
}

impl Events {
    /// Reads until that was said, and returns all that was.
    async fn until(&mut self, what: &str) -> String {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(what) {
            let count = self.0.read_buf(&mut said).await.expect("read");
            assert_ne!(count, 0, "it ended: {}", String::from_utf8_lossy(&said));
        }
        String::from_utf8(said).expect("UTF-8")
    }
}

/// Returns the JSON of the first event of that name.
fn event(said: &str, name: &str) -> serde_json::Value {
    let (_, data) = said.split_once(&format!("event: {name}\ndata: ")).expect("the event");
    serde_json::from_str(data.lines().next().expect("a line")).expect("json")
}

#[tokio::test]
async fn the_page_asks_nobody_else_for_anything() {
    let server = serve_facts(site()).await;
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                  img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";
    let scripts = ["/page.js", "/parts.js", "/chart.js", "/hour.js", "/words.js"].map(|path| (path, "javascript"));
    for (path, kind) in [("/", "html"), ("/page.css", "css")].into_iter().chain(scripts) {
        let (code, head, body) = server.get(path).await;
        assert_eq!(code, 200, "{path}");
        for line in [policy, "x-content-type-options: nosniff\r\n", "referrer-policy: no-referrer\r\n"] {
            assert!(head.contains(line), "{path}: {line}: {head}");
        }
        assert!(head.contains(&format!("content-type: text/{kind}; charset=utf-8\r\n")), "{path}: {head}");
        // the name of SVG is no address
        let body = body.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "//cdn", "@import", "innerHTML", "outerHTML", "insertAdjacent", "eval("] {
            assert!(!body.contains(foreign), "{path} has {foreign}");
        }
    }
    let html = server.get("/").await.2;
    for inline in ["style=", "<style", "onclick", "onload", "javascript:"] {
        assert!(!html.contains(inline), "{inline}");
    }
    assert!(server.get("/nowhere").await.1.starts_with("http/1.1 404"));
}

#[tokio::test]
async fn a_stream_tells_how_the_site_is_and_was() {
    let server = serve_facts(unhealthy()).await;
    let mut events = server.events("").await;
    let said = events.until("\"feeds\"").await;
    let said = said + &events.until("\n\n").await;
    let head = said.to_lowercase();
    assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("content-type: text/event-stream\r\n"), "{said}");
    assert!(
        head.contains("cache-control: no-store\r\n") && said.contains("\r\nretry: 2000\n\nevent: state\n"),
        "{said}"
    );
    let state = event(&said, "state");
    assert_eq!(state["site"]["forwards"][0]["status"], "down", "{state}");
    assert!(state["now"].as_str().is_some_and(|now| now.ends_with('Z')), "{state}");
    let history = event(&said, "history");
    assert_eq!((&history["replace"], &history["step_seconds"]), (&true.into(), &10.into()), "{history}");
    assert_eq!(history["feeds"][0]["name"], "orders", "{history}");
    assert_eq!(history["feeds"][0]["messages"], serde_json::json!([0, 0]), "{history}");
    assert_eq!(history["feeds"][0]["ack_p99_us"], serde_json::json!([null, null]), "{history}");
    let more = events.until("event: state").await;
    assert!(!more.contains("event: history"), "nothing new: {more}");
}

#[tokio::test]
async fn streams_have_places_of_their_own() {
    let server = serve_facts(site()).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut events = server.events("").await;
        events.until("event: state").await;
        streams.push(events);
    }
    let (code, head, _) = server.get("/events").await;
    assert_eq!((code, head.contains("retry-after: 5\r\n")), (503, true), "{head}");
    // as many probes as ever are open at once beside them
    let mut stuck = Vec::new();
    for _ in 0..CONNECTIONS_MAX - 1 {
        stuck.push(TcpStream::connect(server.address).await.expect("connect"));
    }
    assert_eq!(server.get("/livez").await.0, 200);
    assert!(stuck[0].try_read(&mut [0; 1]).is_err(), "it had to wait until the first of them was closed");
    drop((stuck, streams.pop()));
    let free = async {
        while server.events("").await.until("\r\n").await.contains(" 503 ") {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), free).await.expect("the place is free again");
}

#[tokio::test]
async fn another_sites_page_gets_no_stream() {
    let server = serve_facts(site()).await;
    for (from, code) in [("cross-site", "403"), ("same-site", "403"), ("same-origin", "200"), ("none", "200")] {
        let said = server.events(&format!("Sec-Fetch-Site: {from}\r\n")).await.until("\r\n").await;
        assert!(said.starts_with(&format!("HTTP/1.1 {code} ")), "{from}: {said}");
    }
    let other = "GET /events HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(split(&server.raw(other).await).0, 421);
}

/// A page that takes no event is closed, and one that does lives on. The time is virtual.
#[tokio::test]
async fn a_stream_lives_as_long_as_it_is_read() {
    let mut large = site();
    large.forwards = vec![large.forwards[0].clone(); 2000];
    let server = serve_facts(large).await;
    let mut unread = server.events("").await;
    unread.until("event: state").await;
    let small = serve_facts(site()).await;
    let mut read = small.events("").await;
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(200) {
        read.until("event: state").await;
    }
    let rest = async {
        let mut rest = Vec::new();
        // an end or a reset, both are a close
        unread.0.read_to_end(&mut rest).await.ok();
    };
    timeout(Duration::from_secs(5), rest).await.expect("it was closed");
}

#[tokio::test]
async fn streams_end_at_the_stop() {
    let server = serve_facts(site()).await;
    let mut events = server.events("").await;
    events.until("event: state").await;
    server.stop.send(true).expect("still served");
    let mut rest = String::new();
    events.0.read_to_string(&mut rest).await.expect("closed in order");
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
    server.task.await.expect("no panic").expect("no error");
}

//! Tests of the endpoints over TLS: who is let in, and what becomes of who is not.

use super::*;
use crate::config::Token;
use crate::tls::fixture::{Authority, Issued};
use crate::tls::{self, Listener, Socket};

const TOKEN: &str = "q7Xv9-2mLrT4.kE8_zWc0~Nf5HbY";

/// Is a server over TLS, and who issued its certificate.
struct Door {
    server: Server,
    authority: Authority,
}

fn door_of(authority: &Authority, clients: Option<&Authority>, token: Option<&str>) -> Arc<crate::config::Door> {
    let identity = authority.issue("gateway.example", 90).identity();
    let tls = Listener::new(identity, clients.map(Authority::anchors)).expect("usable");
    Arc::new(crate::config::Door { tls, token: token.map(|token| Token::new(token.as_bytes()).expect("a token")) })
}

async fn start(clients: Option<&Authority>, token: Option<&str>) -> Door {
    let authority = Authority::new("hospital");
    let door = door_of(&authority, clients, token);
    let server = serve_behind(Arc::new(move || Some(Arc::clone(&door))), Arc::new(site)).await;
    Door { server, authority }
}

impl Door {
    async fn connect(&self, shown: Option<&Issued>) -> Result<Socket, tls::Failure> {
        let tcp = TcpStream::connect(self.server.address).await.expect("connect");
        let identity = shown.map(Issued::identity);
        let receiver = tls::Receiver::new(self.authority.anchors(), "gateway.example", identity).expect("usable");
        Socket::connect(tcp, &receiver).await
    }

    /// Sends a request with more lines, and returns the status code, the head and the body.
    async fn ask(&self, line: &str, more: &str) -> (u16, String, String) {
        let mut socket = self.connect(None).await.expect("a handshake");
        let request = format!("{line} HTTP/1.1\r\nHost: gateway.example\r\n{more}\r\n");
        socket.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("read");
        split(&answer)
    }

    async fn log_in(&self, form: &str) -> (u16, String, String) {
        let length = form.len();
        let more = format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{form}"
        );
        let mut socket = self.connect(None).await.expect("a handshake");
        let request = format!("POST /login HTTP/1.1\r\nHost: gateway.example:9575\r\n{more}");
        socket.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status code");
        (code, head.to_owned(), body.to_owned())
    }
}

#[tokio::test]
async fn only_who_has_the_token_is_told_of_the_site() {
    let door = start(None, Some(TOKEN)).await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/", "/page.js", "/healthz", "/healthz/forwards/orders", "/metrics", "/events-not", "/nowhere"] {
        let line = format!("GET {path}");
        let wrong = [
            String::new(),
            format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
            format!("Authorization: Bearer {TOKEN}x\r\n"),
            format!("Authorization: Basic {TOKEN}\r\n"),
            "Authorization: Bearer\r\n".to_owned(),
            format!("Cookie: __Host-wardlink-{}={TOKEN}\r\n", door.server.address.port()),
        ];
        for more in &wrong {
            let (code, head, body) = door.ask(&line, more).await;
            assert_eq!(code, 401, "{path}: {more}");
            assert!(head.contains("www-authenticate: bearer realm=\"wardlink\""), "{head}");
            assert!(body.contains("health.token_file") && !body.contains("north-hospital"), "{body}");
            assert!(!head.contains(TOKEN) && !body.contains(TOKEN));
        }
        let expected = if path.starts_with("/events-not") || path == "/nowhere" { 404 } else { 200 };
        assert_eq!(door.ask(&line, &right).await.0, expected, "{path}");
    }
    assert!(door.ask("GET /metrics", &right).await.2.ends_with("# EOF\n"), "all of it");
    for path in ["/livez", "/readyz"] {
        let (code, _, body) = door.ask(&format!("GET {path}"), "").await;
        assert_eq!((code, body.as_str()), (200, ""), "{path}");
    }
    let (code, _, body) = door.ask("GET /livez", "").await;
    assert_eq!((code, body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_browser_shows_the_token_once() {
    let door = start(None, Some(TOKEN)).await;
    let (code, head, body) = door.ask("GET /", "Accept: text/html,application/xhtml+xml\r\n").await;
    assert_eq!(code, 401);
    assert!(head.contains("form-action 'self'") && body.contains("action=\"/login\""), "{head}");
    assert!(!body.contains("north-hospital") && !body.contains("not the token"), "{body}");
    assert_eq!(door.ask("GET /page.css", "").await.0, 200, "it has a look");
    let (code, head, body) = door.log_in("token=guessed").await;
    assert_eq!((code, head.to_lowercase().contains("set-cookie")), (401, false));
    assert!(body.contains("That is not the token."), "{body}");
    assert_eq!(door.log_in("other=1").await.0, 422);
    assert_eq!(door.log_in(&format!("token={}", "x".repeat(2000))).await.0, 413);
    let (code, head, _) = door.log_in(&format!("token={}", TOKEN.replace('~', "%7E"))).await;
    assert_eq!(code, 303);
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    for attribute in ["; Path=/;", "; Secure;", "; HttpOnly;", "; SameSite=Strict", "; Max-Age=2592000"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(
        cookie.starts_with("__Host-wardlink-") && !cookie.contains(TOKEN) && !cookie.contains("Domain"),
        "{cookie}"
    );
    let pair = cookie.split(';').next().expect("a pair");
    for path in ["/", "/page.js", "/healthz"] {
        let (code, ..) = door.ask(&format!("GET {path}"), &format!("Cookie: a=b; {pair}\r\n")).await;
        assert_eq!(code, 200, "{path}");
    }
    let mut socket = door.connect(None).await.expect("a handshake");
    let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\nCookie: {pair}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("write");
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("event: history") {
        assert_ne!(socket.read_buf(&mut said).await.expect("read"), 0, "{}", String::from_utf8_lossy(&said));
    }
    let (code, ..) = door.ask("GET /healthz", &format!("Cookie: {}0\r\n", &pair[..pair.len() - 1])).await;
    assert!(code == 401 || pair.ends_with('0'));
}

#[tokio::test]
async fn names_are_those_of_the_certificate() {
    let door = start(None, None).await;
    for (host, expected) in [
        ("gateway.example", 200),
        ("Gateway.Example:9575", 200),
        ("localhost", 200),
        ("127.0.0.1", 200),
        ("evil.example", 421),
        ("gateway.example.evil.example", 421),
        ("192.168.10.40", 421),
    ] {
        let mut socket = door.connect(None).await.expect("a handshake");
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("read");
        assert_eq!(split(&answer).0, expected, "{host}");
    }
}

#[tokio::test]
async fn only_who_has_a_certificate_of_the_named_issuer_gets_in() {
    let (clients, strangers) = (Authority::new("clients"), Authority::new("strangers"));
    let door = start(Some(&clients), None).await;
    assert_eq!(door.connect(None).await.err(), Some(tls::Failure::CertificateRequired));
    let stranger = strangers.issue("prometheus", 90);
    assert!(door.connect(Some(&stranger)).await.is_err());
    let expired = clients.issue("prometheus", -1);
    assert!(door.connect(Some(&expired)).await.is_err());
    let mut socket = door.connect(Some(&clients.issue("prometheus", 90))).await.expect("a handshake");
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("write");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("read");
    assert_eq!(split(&answer).0, 200);
}

#[tokio::test]
async fn what_is_no_tls_is_told_or_closed_and_nothing_panics() {
    let door = start(None, Some(TOKEN)).await;
    let answer = door.server.raw("GET / HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    let (code, _, body) = split(&answer);
    assert_eq!((code, body.as_str()), (400, "this port speaks TLS: ask for it with https://\n"));
    let mut hello = vec![0x16, 3, 1, 0xff, 0xff];
    hello.extend_from_slice(&[0xff; 3000]);
    let junk: [&[u8]; 6] =
        [b"\x0bMSH|", &[0x16], &[0x16, 3, 1, 0, 0], &hello, &[0x16, 3, 3, 0, 4, 1, 0, 0, 0], &[0; 70_000]];
    for bytes in junk {
        let mut stream = TcpStream::connect(door.server.address).await.expect("connect");
        stream.write_all(bytes).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    }
    assert_eq!(door.ask("GET /livez", "").await.0, 200);
}

/// Slow handshakes and slow requests end, and the next probe is answered.
#[tokio::test]
async fn who_trickles_does_not_last() {
    let door = start(None, None).await;
    let mut stuck = Vec::new();
    for count in 0..CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(door.server.address).await.expect("connect");
        if count % 2 == 0 {
            stream.write_all(&[0x16, 3, 1]).await.expect("write");
        }
        stuck.push(stream);
    }
    let mut said = door.server.raw("GET /").await;
    assert!(said.is_empty() || said.contains("400"), "{said}");
    let begin = std::time::Instant::now();
    said = format!("{}", door.ask("GET /livez", "").await.0);
    assert_eq!(said, "200");
    assert!(begin.elapsed() < TLS_CONNECTION_TIME_MAX * 2);
}

#[tokio::test]
async fn another_certificate_and_token_count_for_the_next_connection() {
    let authority = Authority::new("hospital");
    let first = door_of(&authority, None, Some(TOKEN));
    let now = Arc::new(std::sync::Mutex::new(first));
    let doors = Arc::clone(&now);
    let doors: Doors = Arc::new(move || Some(Arc::clone(&doors.lock().expect("not poisoned"))));
    let door = Door { server: serve_behind(doors, Arc::new(site)).await, authority };
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(door.ask("GET /healthz", &right).await.0, 200);
    let other = TOKEN.to_uppercase();
    *now.lock().expect("not poisoned") = door_of(&door.authority, None, Some(&other));
    assert_eq!(door.ask("GET /healthz", &right).await.0, 401);
    assert_eq!(door.ask("GET /healthz", &format!("Authorization: bearer {other}\r\n")).await.0, 200);
}

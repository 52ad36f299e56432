//! Holds the laws of ARCHITECTURE.md by reading the source tree: which room may import which, which files are pure,
//! who may name boringtun and rusqlite, how long a file may be, where `unsafe` may stand. It never compiles or changes
//! what it reads. Each law is shown to fail on a bad sample, for a check that cannot fail is a defect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Limits a source file without its tests, in lines: what one can hold in mind, and the house's law.
const FILE_LINES_MAX: usize = 400;

/// Limits the distance between an `unsafe` and the comment that justifies it, in lines.
const SAFETY_DISTANCE_LINES_MAX: usize = 3;

/// Counts the cases of MLLP in the field that the design lists.
const CASES: usize = 37;

/// Lists the rooms, level by level; a room imports from lower levels only.
const LEVELS: [&[&str]; 9] = [
    &["main"],
    &["cli"],
    &["app"],
    &["forward", "service", "health", "control"],
    &["link"],
    &["spool", "audit", "tunnel"],
    &["config"],
    &["mllp"],
    &["tls"],
];

/// Lists what must be pure: a file with its submodules, or a whole room.
const PURE: [&str; 56] = [
    "src/config/succession",
    "src/config/alarms",
    "src/config/card",
    "src/config/edit",
    "src/config/delivery",
    "src/config/policy",
    "src/control/queue",
    "src/forward/stored/judge",
    "src/cli/audit/line",
    "src/health/audit",
    "src/forward/stored/unconfirmed",
    "src/health/alarms",
    "src/health/certificate",
    "src/health/history",
    "src/health/queue",
    "src/health/rates",
    "src/health/settings",
    "src/mllp",
    "src/config/changes",
    "src/config/raw",
    "src/link/wire",
    "src/link/cause",
    "src/link/half",
    "src/link/stream",
    "src/link/streams",
    "src/link/records",
    "src/link/resume",
    "src/link/ending",
    "src/link/outbound/news",
    "src/link/feed/account",
    "src/link/feed/far",
    "src/link/feed/near",
    "src/link/feed/wire",
    "src/tunnel/allowed_ips",
    "src/tunnel/clock",
    "src/tunnel/filter",
    "src/tunnel/flows",
    "src/tunnel/packet",
    "src/tunnel/interface/wanted",
    "src/tunnel/unreachable",
    "src/config/wg_quick",
    "src/tunnel/offload",
    "src/tunnel/peer/load",
    "src/tunnel/settings",
    "src/tunnel/uapi/request",
    "src/tunnel/uapi/apply",
    "src/tunnel/uapi/answer",
    "src/health/state",
    "src/spool/codes",
    "src/spool/rows",
    "src/spool/queue",
    "src/spool/delivery/course",
    "src/audit/atna",
    "src/audit/chain",
    "src/audit/event",
    "src/audit/witness",
];

/// Lists crates, and modules of std, that touch the world.
const IMPURE_PATHS: [&str; 20] = [
    "tokio",
    "socket2",
    "nix",
    "libc",
    "rustix",
    "caps",
    "getrandom",
    "rand",
    "rtnetlink",
    "tun_tap",
    "tun_rs",
    "quinn_udp",
    "rusqlite",
    "axum",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "std::net::ToSocketAddrs",
];

/// Lists names that touch the world, wherever they were imported from.
const IMPURE_NAMES: [&str; 8] =
    ["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener", "UnixDatagram", "OsRng", "thread_rng"];

/// Lists words that say nothing about a file's job.
const EMPTY_NAMES: [&str; 4] = ["util", "helper", "manager", "common"];

/// Is one file as the laws see it.
struct Source {
    /// Relative to the package, with `/`.
    path: String,
    /// As it is on the disk.
    text: String,
    /// Comments and literals blanked; lines stay where they are.
    code: String,
    /// `code` without what is under `#[cfg(test)]`, blanked as well; all of it in a file of tests.
    bare: String,
    /// The number of lines outside `#[cfg(test)]`.
    bare_lines: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_literals(text);
        let (bare, test_lines) = blank_tests(&code);
        let is_tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        let lines = text.lines().count();
        let (bare, bare_lines) = if is_tests { (String::new(), 0) } else { (bare, lines.saturating_sub(test_lines)) };
        Self { path: path.to_owned(), text: text.to_owned(), code, bare, bare_lines }
    }

    /// Tells whether this is the module `module` ("src/a/b") or lies under it.
    fn is_in(&self, module: &str) -> bool {
        self.path == format!("{module}.rs") || self.path.starts_with(&format!("{module}/"))
    }

    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let room = inside.split('/').next()?.trim_end_matches(".rs");
        (room != "lib").then_some(room)
    }

    /// Counts the modules from the crate's root down to this file's own.
    fn depth(&self) -> usize {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inside.split('/').count()
    }
}

// ---- the laws: each returns what is wrong, nothing where all is well ----

fn pure_files_touch_nothing(source: &Source) -> Vec<String> {
    if !PURE.iter().any(|module| source.is_in(module)) {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for path in paths(&source.bare) {
        let world = IMPURE_PATHS.iter().any(|p| path == *p || path.starts_with(&format!("{p}::")));
        let name = path.split("::").any(|segment| IMPURE_NAMES.contains(&segment));
        let clock = ["Instant::now", "SystemTime::now", "Utc::now"].iter().any(|c| path.ends_with(c));
        if world || name || clock {
            wrong.push(format!("{}: a pure file uses {path}", source.path));
        }
    }
    if source.bare.contains(".elapsed()") {
        wrong.push(format!("{}: a pure file reads the clock by elapsed()", source.path));
    }
    wrong
}

fn imports_go_down(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else {
        return Vec::new();
    };
    let Some(from) = level(room) else {
        return vec![format!("{}: ARCHITECTURE.md has no room {room}", source.path)];
    };
    let mut wrong = BTreeSet::new();
    for path in paths(&source.bare) {
        let Some(target) = imported_room(source, &path) else {
            continue;
        };
        if target != room && level(&target).is_some_and(|to| to <= from) {
            wrong.insert(format!("{}: {room} must not import {target} ({path})", source.path));
        }
    }
    wrong.into_iter().collect()
}

fn one_owner_for_each_engine(source: &Source) -> Vec<String> {
    let owners: [(&str, &[&str]); 3] = [
        ("boringtun", &["src/tunnel/peer"]),
        ("rusqlite", &["src/spool/store", "src/spool/inbox/store", "src/audit/store"]),
        ("libsqlite3_sys", &["src/spool/store", "src/spool/inbox/store", "src/audit/store"]),
    ];
    let mut wrong = Vec::new();
    for (engine, homes) in owners {
        let named = words(&source.code).any(|(_, word)| word == engine);
        if source.path.starts_with("src/") && named && !homes.iter().any(|home| source.is_in(home)) {
            wrong.push(format!("{}: names {engine}; only {} may", source.path, homes.join(", ")));
        }
    }
    wrong
}

fn files_are_short(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.bare_lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {} lines without tests, {FILE_LINES_MAX} are allowed", source.path, source.bare_lines)]
}

fn files_say_their_job(source: &Source) -> Vec<String> {
    match source.text.lines().find(|line| !line.trim().is_empty()) {
        Some(first) if first.starts_with("//! ") => Vec::new(),
        _ => vec![format!("{}: does not open with `//!`", source.path)],
    }
}

fn names_mean_something(source: &Source) -> Vec<String> {
    let empty = source
        .path
        .trim_end_matches(".rs")
        .split(['/', '_', '-'])
        .any(|word| EMPTY_NAMES.contains(&word.trim_end_matches('s')));
    if empty { vec![format!("{}: this name says nothing about its job", source.path)] } else { Vec::new() }
}

fn nothing_is_left_undone(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, word) in words(&source.code) {
        let rest = &source.code.lines().nth(line).unwrap_or_default();
        if ["todo", "unimplemented", "dbg"].contains(&word) && rest.contains(&format!("{word}!")) {
            wrong.push(format!("{}:{}: {word}!", source.path, line + 1));
        }
    }
    for (line, text) in source.code.lines().enumerate() {
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if dense.contains("#[ignore") || (dense.contains("cfg_attr(") && dense.contains(",ignore")) {
            wrong.push(format!("{}:{}: an ignored test", source.path, line + 1));
        }
    }
    wrong
}

fn unsafe_is_justified(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut wrong = Vec::new();
    for (line, _) in words(&source.code).filter(|(_, word)| *word == "unsafe") {
        if !source.path.starts_with("src/tunnel/") {
            wrong.push(format!("{}:{}: unsafe outside src/tunnel", source.path, line + 1));
        }
        let above = &lines[line.saturating_sub(SAFETY_DISTANCE_LINES_MAX)..=line];
        if !above.iter().any(|text| text.contains("// SAFETY:")) {
            wrong.push(format!("{}:{}: unsafe without a SAFETY comment above it", source.path, line + 1));
        }
    }
    wrong
}

fn no_home_paths(source: &Source) -> Vec<String> {
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];
    let mut wrong = Vec::new();
    for (line, text) in source.text.lines().enumerate() {
        if homes.iter().any(|home| text.contains(home)) {
            wrong.push(format!("{}:{}: somebody's home directory", source.path, line + 1));
        }
    }
    wrong
}

/// Compares the table of the cases with the tests in these files: a row for each case, in order, with tests of its number,
/// and no test beside the table.
fn cases_have_tests(table: &str, tests: &[Source]) -> Vec<String> {
    let row = |line: &str| line.strip_prefix("| ")?.split(' ').next()?.parse::<usize>().ok();
    let rows: Vec<(usize, &str)> = table.lines().filter_map(|line| Some((row(line)?, line))).collect();
    let mut wrong = Vec::new();
    if !rows.iter().map(|(number, _)| *number).eq(1..=CASES) {
        wrong.push(format!("the table has not the rows 1 to {CASES}"));
    }
    let is_test = |word: &&str| word.starts_with("case_");
    let there: BTreeSet<&str> = tests
        .iter()
        .flat_map(|source| source.code.lines())
        .filter_map(|line| line.trim().strip_prefix("fn ")?.split('(').next())
        .filter(is_test)
        .collect();
    let mut named = BTreeSet::new();
    for (number, line) in rows {
        let before = named.len();
        let own = format!("case_{number:02}_");
        named.extend(words(line).map(|(_, word)| word).filter(is_test).filter(|word| word.starts_with(&own)));
        if named.len() == before {
            wrong.push(format!("case {number} names no test of its own"));
        }
    }
    wrong.extend(named.difference(&there).map(|name| format!("the table names {name}, which is no test")));
    wrong.extend(there.difference(&named).map(|name| format!("{name} is not in its row of the table")));
    wrong
}

// ---- reading Rust, as far as the laws need it ----

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}

/// Returns the room that `path` leads to, if it leaves by `crate`, by `super` or (in the binary) by the crate's name.
fn imported_room(source: &Source, path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split("::").collect();
    let supers = segments.iter().take_while(|segment| **segment == "super").count();
    let at = match *segments.first()? {
        "crate" => 1,
        "wardlink" if source.path == "src/main.rs" => 1,
        "super" if supers == source.depth() => supers,
        _ => return None,
    };
    segments.get(at).map(|room| (*room).to_owned())
}

/// Returns every path of the code: those written in one piece, and those that `use` trees expand to.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c == '_' || c.is_alphanumeric()) {
        rest = &rest[start..];
        let end = path_length(rest);
        let path = rest[..end].trim_end_matches(':');
        rest = &rest[end..];
        if path == "use" {
            let tree_end = rest.find(';').unwrap_or(rest.len());
            expand_use(&rest[..tree_end], "", &mut found);
            rest = &rest[tree_end..];
        } else {
            found.push(path.to_owned());
        }
    }
    found
}

/// Measures `a::b::c` at the start of `text`, in bytes; a single colon ends it.
fn path_length(text: &str) -> usize {
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        if c == '_' || c.is_alphanumeric() {
            at += c.len_utf8();
        } else if text[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    at
}

fn expand_use(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        let leaf: String = name.chars().filter(|c| !c.is_whitespace()).collect();
        let path = format!("{prefix}{leaf}");
        found.push(path.trim_end_matches("::self").trim_start_matches("::").to_owned());
        return;
    };
    let head: String = tree[..open].chars().filter(|c| !c.is_whitespace()).collect();
    let inner = tree[open + 1..].trim_end().trim_end_matches('}');
    let mut depth = 0_usize;
    let split = |c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    let leaves: Vec<&str> = inner.split(split).collect();
    for leaf in leaves.into_iter().filter(|leaf| !leaf.trim().is_empty()) {
        expand_use(leaf, &format!("{prefix}{head}"), found);
    }
}

/// Yields each word of the code with its line, counted from 0.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(move |word| (line, word))
    })
}

/// Replaces comments, strings and character literals by spaces; lines stay.
fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Returns where the comment or literal that starts at `at` ends; `at` itself where none starts.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', '/') => at + chars[at..].iter().take_while(|c| **c != '\n').count(),
        ('/', '*') => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at),
        ('r', '"' | '#') if !inside_word || chars[at - 1] == 'b' => raw_string_end(chars, at),
        ('\'', '\\') => at + 3 + chars[(at + 3).min(chars.len())..].iter().take_while(|c| **c != '\'').count() + 1,
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let closes =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (open + 1..chars.len()).find(|at| closes(*at)).map_or(chars.len(), |at| at + 1 + hashes)
}

/// Blanks what stands under `#[cfg(test)]`; returns the rest and the number of lines blanked.
fn blank_tests(code: &str) -> (String, usize) {
    const MARK: &str = "#[cfg(test)]";
    let (mut out, mut rest, mut lines) = (String::new(), code, 0);
    while let Some(start) = rest.find(MARK) {
        let after = start + MARK.len();
        let end = after + item_length(&rest[after..]);
        let block = &rest[start..end];
        lines += block.matches('\n').count() + 1;
        out.push_str(&rest[..start]);
        out.extend(block.chars().filter(|c| *c == '\n'));
        rest = &rest[end..];
    }
    out.push_str(rest);
    (out, lines)
}

/// Measures the item at the start of `code`, up to its `;` or its closing brace, in bytes.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

// ---- the tree ----

fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Collects the files under `dir` with one of the extensions; a directory that does not exist has none.
fn files(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                files(&path, extensions, found);
            }
        } else if extensions.iter().any(|e| name.ends_with(e)) {
            found.push(path);
        }
    }
}

fn sources(dirs: &[&str], extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for dir in dirs {
        files(&package().join(dir), extensions, &mut found);
    }
    found.sort();
    let relative = |path: &Path| path.strip_prefix(package()).unwrap().to_string_lossy().into_owned();
    // a fixture may be anything, also no UTF-8
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    found.iter().map(|path| Source::new(&relative(path), &text(path))).collect()
}

fn rust_sources() -> Vec<Source> {
    sources(&["src", "tests", "netns-tests", "bench", "fuzz"], &[".rs"])
}

fn holds(sources: &[Source], law: fn(&Source) -> Vec<String>) {
    let wrong: Vec<String> = sources.iter().flat_map(law).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Asserts that the law complains about each bad sample, and about none of the good ones.
fn tells_apart(law: fn(&Source) -> Vec<String>, bad: &[(&str, &str)], good: &[(&str, &str)]) {
    for (path, text) in bad {
        assert!(!law(&Source::new(path, text)).is_empty(), "not noticed in {path}: {text}");
    }
    for (path, text) in good {
        assert_eq!(law(&Source::new(path, text)), Vec::<String>::new(), "in {path}: {text}");
    }
}

#[test]
fn the_tree_is_found() {
    let found = rust_sources();
    for path in ["src/lib.rs", "src/config/mod.rs", "tests/tidy.rs", "netns-tests/main.rs"] {
        assert!(found.iter().any(|source| source.path == path), "{path} was not read");
    }
}

#[test]
fn pure_files_touch_nothing_of_the_world() {
    holds(&rust_sources(), pure_files_touch_nothing);
    tells_apart(
        pure_files_touch_nothing,
        &[
            ("src/mllp/frame.rs", "use tokio::io::AsyncRead;"),
            ("src/mllp/a/b.rs", "fn f() { std::fs::read(\"x\"); }"),
            ("src/mllp/frame.rs", "use std::{fmt, thread};"),
            ("src/link/wire.rs", "use std::net::{IpAddr, TcpStream};"),
            ("src/link/wire/read.rs", "use std::net::UdpSocket as Socket;"),
            ("src/tunnel/filter.rs", "let now = std::time::Instant::now();"),
            ("src/tunnel/filter.rs", "let age = since.elapsed();"),
            ("src/health/state.rs", "let t = SystemTime::now();"),
            ("src/config/raw.rs", "use std::{net::{IpAddr}, os::unix::fs::MetadataExt};"),
            ("src/link/streams.rs", "getrandom::fill(&mut id);"),
        ],
        &[
            ("src/mllp/frame.rs", "//! No tokio here.\nuse std::net::{IpAddr, SocketAddr};\n// tokio"),
            ("src/mllp/frame.rs", "#[cfg(test)]\nmod tests { use std::fs; }"),
            ("src/mllp/frame/tests.rs", "use std::fs;"),
            ("src/tunnel/driver.rs", "use std::thread;"),
            ("src/link/wire_dump.rs", "use tokio::net::TcpStream;"),
            ("src/health/state.rs", "use std::time::{Duration, Instant};\nfn poll(now: Instant) {}"),
        ],
    );
}

#[test]
fn imports_only_go_down() {
    holds(&rust_sources(), imports_go_down);
    tells_apart(
        imports_go_down,
        &[
            ("src/mllp/frame.rs", "use crate::config::Name;"),
            ("src/tunnel/peer.rs", "use crate::{config::Peer, link::wire};"),
            ("src/tunnel/peer.rs", "fn f() -> crate::health::State { todo }"),
            ("src/tunnel/mod.rs", "use crate::link;"),
            ("src/forward/mod.rs", "use crate::{\n    config,\n    service::{Service, Probe},\n};"),
            ("src/link/wire.rs", "use super::super::forward;"),
            ("src/link/mod.rs", "use super::forward;"),
            ("src/app.rs", "use crate::cli;"),
            ("src/stuff/mod.rs", "fn f() {}"),
        ],
        &[
            ("src/main.rs", "fn main() { wardlink::cli::main() }"),
            ("src/app.rs", "use crate::{config, forward, health, link, tunnel};"),
            ("src/forward/mod.rs", "use crate::{link, mllp::frame::Decoder};\nuse super::link;"),
            ("src/link/wire.rs", "use super::streams;\nuse crate::link::wire;\n// crate::forward"),
            ("src/lib.rs", "pub mod forward;"),
            ("src/link/mod.rs", "#[cfg(test)]\nmod tests { use crate::tunnel; }"),
        ],
    );
}

#[test]
fn each_engine_has_one_owner() {
    holds(&rust_sources(), one_owner_for_each_engine);
    tells_apart(
        one_owner_for_each_engine,
        &[
            ("src/tunnel/driver.rs", "use boringtun::noise::Tunn;"),
            ("src/tunnel/peerage.rs", "use boringtun as b;"),
            ("src/spool/queue.rs", "fn f(c: rusqlite::Connection) {}"),
        ],
        &[
            ("src/tunnel/peer.rs", "use boringtun::noise::Tunn;"),
            ("src/tunnel/peer/tests.rs", "use boringtun::noise::Tunn;"),
            ("src/tunnel/driver.rs", "// as boringtun does\nlet s = \"boringtun\";"),
            ("src/spool/store.rs", "use rusqlite::Connection;"),
        ],
    );
}

#[test]
fn files_stay_short() {
    holds(&rust_sources(), files_are_short);
    let long = "fn f() {}\n".repeat(FILE_LINES_MAX + 1);
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    tells_apart(
        files_are_short,
        &[("src/app.rs", &long)],
        &[("src/app.rs", &tested), ("src/mllp/frame/tests.rs", &long), ("src/app.rs", &long[10..])],
    );
}

#[test]
fn each_file_says_its_job() {
    holds(&rust_sources(), files_say_their_job);
    tells_apart(
        files_say_their_job,
        &[("src/app.rs", "use std::fs;"), ("src/app.rs", ""), ("src/app.rs", "// job\n//! job")],
        &[("src/app.rs", "//! Builds the rooms.\n")],
    );
}

#[test]
fn each_name_means_something() {
    holds(&rust_sources(), names_mean_something);
    tells_apart(
        names_mean_something,
        &[("src/link/utils.rs", ""), ("src/common/mod.rs", ""), ("src/link/stream_manager.rs", "")],
        &[("src/link/streams.rs", "")],
    );
}

#[test]
fn nothing_is_undone_or_ignored() {
    holds(&rust_sources(), nothing_is_left_undone);
    tells_apart(
        nothing_is_left_undone,
        &[
            ("src/app.rs", "fn f() { todo!() }"),
            ("src/app.rs", "fn f() { unimplemented!(\"later\") }"),
            ("tests/a.rs", "fn f() { dbg!(1); }"),
            ("tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"),
            ("tests/a.rs", "#[cfg_attr(x, ignore)]\nfn f() {}"),
        ],
        &[("src/app.rs", "// todo!\nfn todo() { let s = \"#[ignore]\"; }")],
    );
}

#[test]
fn unsafe_stands_in_the_tunnel_and_is_justified() {
    holds(&rust_sources(), unsafe_is_justified);
    tells_apart(
        unsafe_is_justified,
        &[
            ("src/link/mod.rs", "// SAFETY: no\nunsafe { f() }"),
            ("src/tunnel/udp.rs", "unsafe { f() }"),
            ("src/tunnel/udp.rs", "// SAFETY: far away\n\n\n\nunsafe { f() }"),
        ],
        &[
            ("src/tunnel/udp.rs", "// SAFETY: the descriptor is open\nunsafe { f() }"),
            ("src/link/mod.rs", "// unsafe\n#![deny(unsafe_code)]"),
        ],
    );
}

#[test]
fn nobody_is_at_home() {
    let extensions = [".rs", ".toml", ".md", ".yaml", ".yml", ".service", ".conf", ".sh", ".py", ".json"];
    let mut all = sources(&["."], &extensions);
    all.extend(sources(&["."], &["justfile"]));
    all.extend(sources(&[".ci"], &["run"]));
    holds(&all, no_home_paths);
    tells_apart(
        no_home_paths,
        &[("src/app.rs", concat!("// see /ho", "me/me/notes")), ("justfile", concat!("cp /ro", "ot/x ."))],
        &[("src/app.rs", "// owner root:wardlink, see https://example.org/homes/")],
    );
}

#[test]
fn each_case_of_mllp_has_its_test() {
    let tests = sources(&["netns-tests/cases"], &[".rs"]);
    let table = fs::read_to_string(package().join("docs/mllp-cases.md")).unwrap();
    let readme = fs::read_to_string(package().join("README.md")).unwrap();
    assert!(readme.contains("(docs/mllp-cases.md)"), "README.md links to the table");
    let wrong = cases_have_tests(&table, &tests);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for (old, new) in [("| 7 |", "| 70 |"), ("`case_09_control", "`case_09_other"), ("`case_10_", "`case_01_")] {
        assert!(!cases_have_tests(&table.replace(old, new), &tests).is_empty(), "not noticed: {new}");
    }
    let beside = Source::new("netns-tests/cases/more.rs", "fn case_03_another() {}");
    let one = cases_have_tests(
        &table,
        &[tests.into_iter().collect::<Vec<_>>(), vec![beside]].into_iter().flatten().collect::<Vec<_>>(),
    );
    assert_eq!(one.len(), 1, "{one:?}");
}

#[test]
fn literals_and_comments_are_blanked() {
    let text = "a /* b /* c */ d */ e \"f\\\" g\" 'h' '\\'' r#\"i \" j\"# b\"k\" 'life: l // m\nn";
    let code = blank_comments_and_literals(text);
    let left: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(left, ["a", "e", "b", "life", "l", "n"]);
    assert_eq!(code.chars().count(), text.chars().count());
}

//! The screen of `wardlink status --watch`: as much of the status as it has room for, the worst first.
//!
//! It never scrolls, so that the lines above it and the scrollback stay as they are.

use std::cmp::Reverse;
use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;

use super::table::{self, Status};

/// Puts the cursor at the top left (ECMA-48, CUP).
const HOME: &str = "\x1b[H";
/// Clears what an earlier look left of a line (EL), and ends it.
const END_OF_LINE: &str = "\x1b[K\n";
/// Clears what an earlier look left below (ED).
const CLEAR_BELOW: &str = "\x1b[J";
/// Is what a terminal has that does not say, in rows and columns: a VT100's.
const USUAL: (u16, u16) = (24, 80);
/// Ends a line that is cut.
const CUT: &str = "...";

/// Is how much fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Screen {
    rows: usize,
    columns: usize,
}

/// Tells whether a terminal of this type (TERM, term(7)) takes a cursor's address.
pub(super) fn is_addressable(terminal: Option<&str>) -> bool {
    !matches!(terminal, None | Some("" | "dumb"))
}

impl Screen {
    /// Asks a terminal for its size.
    pub(super) fn of(terminal: impl AsFd) -> Self {
        let told = tcgetwinsize(terminal).map(|size| (size.ws_row, size.ws_col));
        let (rows, columns) = told.ok().filter(|(rows, columns)| *rows > 0 && *columns > 0).unwrap_or(USUAL);
        // the cursor's own row stays free: what ends there would scroll
        Self { rows: usize::from(rows).saturating_sub(1), columns: usize::from(columns) }
    }

    /// Writes as much of a status as there is room for.
    pub(super) fn shown(self, mut status: Status) -> String {
        table::worst_first(&mut status);
        let mut tables = table::tables(&status);
        tables.sort_by_key(|(weight, _)| Reverse(*weight));
        let head = cut(table::head(&status).lines(), (self.rows / 2).max(1), "in `wardlink status`");
        let tables = tables.iter().flat_map(|(_, table)| table.lines());
        let all: Vec<&str> = head.iter().map(String::as_str).chain(tables).collect();
        let lines = cut(all.into_iter(), self.rows, "below: `wardlink status` shows all");
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Writes a text in the place of the look before, cut to the screen.
    pub(super) fn drawn(self, text: &str) -> String {
        let lines = text.lines().take(self.rows).map(|line| within(line, self.columns) + END_OF_LINE);
        format!("{HOME}{}{CLEAR_BELOW}", lines.collect::<String>())
    }
}

/// Keeps so many lines; where there are more, the last one says how many and where they are.
fn cut<'a>(lines: impl Iterator<Item = &'a str>, rows: usize, place: &str) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    let more = lines.len().saturating_sub(rows);
    if more > 0 {
        lines.truncate(rows.saturating_sub(1));
        lines.push(format!("{CUT} {} more lines {place}", more + 1));
    }
    lines
}

/// Cuts a line to so many columns.
fn within(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept = line.chars().take(columns.saturating_sub(CUT.len()));
    kept.chain(CUT.chars()).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Is a site with many forwards, of which the last but one is down.
    fn status(forwards: usize, alarms: usize) -> Status {
        let forward = |number: usize| {
            let (status, cause) = match number + 2 == forwards {
                true => ("down", json!("receiver 192.168.10.40:6661 at city-lab refuses connections ".repeat(4))),
                false => ("ok", json!(null)),
            };
            json!({
                "name": format!("forward-{number}"), "status": status, "since": "2026-11-22T13:59:00Z", "cause": cause,
                "listen": "0.0.0.0:2575", "peer": "city-lab", "target": "service orders",
            })
        };
        let alarm = json!({
            "alarm": "down", "of": "forward orders", "since": "2026-11-22T13:00:00Z", "cause": "it is down",
        });
        let status = json!({
            "status": "down", "site": "north", "version": "0.1.0", "started": "2026-11-22T11:00:00Z",
            "alarms": vec![alarm; alarms],
            "peers": [{ "name": "city-lab", "status": "ok", "since": "2026-11-22T12:00:00Z" }],
            "forwards": (0..forwards).map(forward).collect::<Vec<_>>(),
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn what_is_drawn_fits_and_begins_with_the_worst() {
        for (rows, columns) in [(23, 80), (19, 40), (50, 200), (5, 20), (1, 1), (0, 0)] {
            for alarms in [0, 1, 40] {
                let screen = Screen { rows, columns };
                let drawn = screen.drawn(&screen.shown(status(20, alarms)));
                let lines: Vec<&str> = drawn.trim_start_matches(HOME).split(END_OF_LINE).collect();
                assert!(lines.len() <= rows + 1, "{screen:?}: {drawn}");
                assert!(lines.iter().all(|line| line.trim_end_matches(CLEAR_BELOW).len() <= columns), "{drawn}");
                if rows >= 19 {
                    assert!(lines[0].starts_with("north: down"), "{drawn}");
                    let found = |name: &str| lines.iter().position(|line| line.starts_with(name));
                    assert!(found("forward-18").is_some_and(|down| found("forward-0").is_none_or(|ok| down < ok)));
                    assert!(found("PEER").is_none_or(|peers| found("FORWARD").is_some_and(|down| down < peers)));
                }
            }
        }
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let screen = Screen { rows: 10, columns: 80 };
        let shown = screen.shown(status(20, 8));
        let whole = table::render(&status(20, 8)).lines().count();
        // the head has half of the screen: the site, three alarms, and how many there are beside
        assert_eq!(shown.lines().nth(4), Some("... 5 more lines in `wardlink status`"), "{shown}");
        let below = whole - 9 - 4;
        let last = format!("... {below} more lines below: `wardlink status` shows all");
        assert_eq!(shown.lines().last(), Some(last.as_str()), "{shown}");
        assert_eq!(screen.shown(status(1, 0)), {
            let mut status = status(1, 0);
            table::worst_first(&mut status);
            table::render(&status)
        });
    }

    #[test]
    fn only_a_terminal_that_can_is_drawn_on() {
        for (terminal, can) in [
            (Some("xterm-256color"), true),
            (Some("linux"), true),
            (Some("dumb"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(is_addressable(terminal), can, "{terminal:?}");
        }
    }
}

//! Entries of the log as IHE ATNA has them: the audit message of DICOM in XML, in a line of syslog. Pure.
//!
//! Never has a byte of a message, as the log has none: no patient is named, and so no participant is one. The forms are those
//! of DICOM PS3.15, A.5, of IHE ITI TF-2, ITI-20, and of RFC 5424 and RFC 6587, 3.4.1 (octet counting).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::event::Entry;

/// Is the priority of an audit message: security (10), normal but significant (5), as ITI-20 says.
const PRIORITY: u8 = 10 * 8 + 5;
/// Is the kind of message, as ITI-20 says; what is in it is DICOM's.
const MESSAGE_ID: &str = "IHE+RFC-3881";
/// Begins a text in UTF-8 (RFC 5424, 6.4).
const BOM: &str = "\u{feff}";
/// Bounds a name in the header (RFC 5424, 6: HOSTNAME), in characters.
const HOST_CHARS_MAX: usize = 255;

/// Says what an entry is to ATNA: what happened, of which kind, by which action, and how it ended.
struct Kind {
    event: Code,
    of: Option<Code>,
    action: char,
    outcome: u8,
}

/// Is a code of DICOM with its meaning.
#[derive(Clone, Copy)]
struct Code(&'static str, &'static str);

const ACTIVITY: Code = Code("110100", "Application Activity");
const EXPORT: Code = Code("110106", "Export");
const IMPORT: Code = Code("110107", "Import");
const NETWORK: Code = Code("110108", "Network Entry");
const ALERT: Code = Code("110113", "Security Alert");
const RESTRICTED: Code = Code("110132", "Use of Restricted Function");
const CHANGED: Code = Code("110135", "Object Security Attributes Changed");

/// Is how it ended: as it should, or not, or so that somebody must look.
const SUCCESS: u8 = 0;
const MINOR: u8 = 4;
const SERIOUS: u8 = 8;

/// Says what an event is; none of one that is about a file of the log only.
fn kind(event: &str, is_of_service: bool) -> Option<Kind> {
    let new = |event, of, action, outcome| Some(Kind { event, of, action, outcome });
    // A.5.3.11: the action is E, and one code of CID 403 says what it is about.
    let alert = |of, outcome| new(ALERT, Some(of), 'E', outcome);
    // What leaves this site for a peer is exported, what comes from one is imported; the log of each site has its own half.
    let moved = if is_of_service { (IMPORT, 'C') } else { (EXPORT, 'R') };
    match event {
        "started" => new(ACTIVITY, Some(Code("110120", "Application Start")), 'E', SUCCESS),
        "stopped" => new(ACTIVITY, Some(Code("110121", "Application Stop")), 'E', SUCCESS),
        "configured" => alert(Code("110131", "Software Configuration"), SUCCESS),
        "config-refused" => alert(Code("110131", "Software Configuration"), MINOR),
        "key-changed" => alert(Code("110129", "Security Configuration"), SUCCESS),
        "link-up" => new(NETWORK, Some(Code("110124", "Attach")), 'E', SUCCESS),
        "link-down" => new(NETWORK, Some(Code("110125", "Detach")), 'E', SUCCESS),
        "accepted" => new(IMPORT, None, 'C', SUCCESS),
        "refused" => new(IMPORT, None, 'C', MINOR),
        "passed" | "delivered" => new(moved.0, None, moved.1, SUCCESS),
        "rejected" | "unanswered" | "withdrawn" => new(moved.0, None, moved.1, MINOR),
        "not-done" => alert(RESTRICTED, MINOR),
        "viewed" | "discarded" | "forgotten" | "parked" | "released" | "retried" | "moved" | "paused" | "resumed"
        | "reconciled" | "pruned" => alert(RESTRICTED, SUCCESS),
        "lost" => alert(Code("110133", "Audit Recording Stopped"), SERIOUS),
        "segment" => None,
        // Damage of a queue or of a log, and what a later version adds.
        _ => alert(CHANGED, SERIOUS),
    }
}

/// Writes an entry as a message of XML; none where ATNA has nothing to do with it.
pub fn xml(entry: &Entry) -> Option<String> {
    let kind = kind(&entry.event, entry.service.is_some())?;
    let mut out = String::with_capacity(2048);
    out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?><AuditMessage><EventIdentification");
    attribute(&mut out, "EventActionCode", kind.action.encode_utf8(&mut [0; 4]));
    attribute(&mut out, "EventDateTime", &entry.at);
    attribute(&mut out, "EventOutcomeIndicator", &kind.outcome.to_string());
    out.push('>');
    coded(&mut out, "EventID", kind.event.0, "DCM", kind.event.1);
    if let Some(of) = kind.of {
        coded(&mut out, "EventTypeCode", of.0, "DCM", of.1);
    }
    coded(&mut out, "EventTypeCode", &entry.event, "wardlink", &entry.event);
    out.push_str("</EventIdentification>");
    participants(&mut out, entry, kind.event);
    out.push_str("<AuditSourceIdentification");
    attribute(&mut out, "AuditSourceID", &entry.site);
    out.push_str("><AuditSourceTypeCode csd-code=\"4\"/></AuditSourceIdentification>");
    object(&mut out, entry, kind.event);
    out.push_str("</AuditMessage>");
    Some(out)
}

/// Writes who took part: an operator, and this site's and the peer's systems as source and destination.
fn participants(out: &mut String, entry: &Entry, event: Code) {
    let (source, destination) = (Some(Code("110153", "Source")), Some(Code("110152", "Destination")));
    if let Some(operator) = entry.operator.as_ref().filter(|_| event.0 != NETWORK.0) {
        let role = match event.0 {
            "110106" => source,
            "110107" => destination,
            _ => None,
        };
        participant(out, operator, true, role, None);
    }
    let is_asked = entry.operator.is_none();
    let here = Some(entry.site.as_str());
    let named = entry.forward.as_ref().map(|name| format!("forward {name}"));
    let named = named.or_else(|| entry.service.as_ref().map(|name| format!("service {name}")));
    let named = named.unwrap_or_else(|| "wardlink".to_owned());
    let peer = entry.peer.as_deref();
    match (event.0, peer) {
        ("110106", Some(peer)) => {
            participant(out, &named, is_asked, source, here);
            participant(out, peer, false, destination, Some(peer));
        }
        ("110107", Some(peer)) if entry.service.is_some() => {
            participant(out, peer, is_asked, source, Some(peer));
            participant(out, &named, false, destination, here);
        }
        // A.5.3.9: who enters or leaves, and nobody else.
        ("110108", peer) => {
            let name = peer.unwrap_or(&entry.site);
            participant(out, name, false, None, Some(name));
        }
        ("110107", _) => participant(out, &named, is_asked, destination, here),
        ("110100", _) => participant(out, &named, is_asked, Some(Code("110150", "Application")), here),
        (_, peer) => {
            participant(out, &named, is_asked, None, here);
            if let Some(peer) = peer {
                participant(out, peer, false, None, Some(peer));
            }
        }
    }
}

fn participant(out: &mut String, user: &str, is_requestor: bool, role: Option<Code>, node: Option<&str>) {
    out.push_str("<ActiveParticipant");
    attribute(out, "UserID", user);
    attribute(out, "UserIsRequestor", if is_requestor { "true" } else { "false" });
    if let Some(node) = node {
        attribute(out, "NetworkAccessPointID", node);
        // 1: a name, not an address
        attribute(out, "NetworkAccessPointTypeCode", "1");
    }
    match role {
        None => out.push_str("/>"),
        Some(role) => {
            out.push('>');
            coded(out, "RoleIDCode", role.0, "DCM", role.1);
            out.push_str("</ActiveParticipant>");
        }
    }
}

/// Writes the entry itself, as the object: by its number, with which who gets it twice knows it again.
fn object(out: &mut String, entry: &Entry, event: Code) {
    out.push_str("<ParticipantObjectIdentification");
    attribute(out, "ParticipantObjectID", &format!("{}/{}", entry.site, entry.n));
    let is_alert = event.0 == ALERT.0;
    // A system object; a security resource, or a job: nearest to the passage of a message.
    attribute(out, "ParticipantObjectTypeCode", "2");
    attribute(out, "ParticipantObjectTypeCodeRole", if is_alert { "13" } else { "20" });
    out.push('>');
    coded(out, "ParticipantObjectIDTypeCode", "entry", "wardlink", "Entry of the audit log");
    // The schema wants a name or a query.
    out.push_str("<ParticipantObjectName>Entry of the audit log</ParticipantObjectName>");
    let told = entry.detail.as_ref().map_or_else(|| entry.event.clone(), |detail| format!("{}: {detail}", entry.event));
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let details = [
        ("Alert Description", is_alert.then_some(told)),
        ("sequence", number(entry.sequence)),
        ("bytes", number(entry.bytes)),
        ("type", entry.message_type.clone()),
        ("control_id", entry.control_id.clone()),
        ("payload", entry.payload.clone()),
        ("code", entry.code.clone()),
        ("attempts", number(entry.attempts.map(u64::from))),
        ("in_doubt", number(entry.in_doubt.map(u64::from))),
        ("count", number(entry.count)),
        ("through", number(entry.through)),
        ("detail", entry.detail.clone()),
    ];
    for (name, value) in details {
        if let Some(value) = value {
            out.push_str("<ParticipantObjectDetail");
            attribute(out, "type", name);
            attribute(out, "value", &STANDARD.encode(value));
            out.push_str("/>");
        }
    }
    out.push_str("</ParticipantObjectIdentification>");
}

fn coded(out: &mut String, element: &str, code: &str, system: &str, text: &str) {
    out.push('<');
    out.push_str(element);
    attribute(out, "csd-code", code);
    attribute(out, "codeSystemName", system);
    attribute(out, "originalText", text);
    out.push_str("/>");
}

/// Writes an attribute; what XML 1.0 cannot have is replaced.
fn attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends an entry as a frame of syslog; nothing where ATNA has nothing to do with it.
pub fn frame(entry: &Entry, process: u32, out: &mut Vec<u8>) {
    let Some(xml) = xml(entry) else { return };
    let clean = |text: &str, most: usize| {
        let clean: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
        if clean.is_empty() { "-".to_owned() } else { clean }
    };
    let (at, site) = (clean(&entry.at, 32), clean(&entry.site, HOST_CHARS_MAX));
    let mut message = String::with_capacity(xml.len() + 128);
    // Writing to a String cannot fail.
    write!(message, "<{PRIORITY}>1 {at} {site} wardlink {process} {MESSAGE_ID} - {BOM}{xml}").ok();
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::event::EVENT_NAMES;
    use super::*;

    fn entry(event: &str) -> Entry {
        Entry {
            n: 7,
            at: "2026-11-22T14:00:00.123Z".into(),
            event: event.into(),
            site: "north-hospital".into(),
            ..Entry::default()
        }
    }

    #[test]
    fn a_delivered_message_is_exported_at_the_near_site_and_imported_at_the_far_one() {
        let near = Entry {
            forward: Some("orders".into()),
            peer: Some("city-lab".into()),
            sequence: Some(12),
            message_type: Some("ORU^R01".into()),
            code: Some("AA".into()),
            ..entry("delivered")
        };
        let text = xml(&near).unwrap();
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><AuditMessage><EventIdentification EventActionCode=\"R\" \
            EventDateTime=\"2026-11-22T14:00:00.123Z\" EventOutcomeIndicator=\"0\"><EventID csd-code=\"110106\" \
            codeSystemName=\"DCM\" originalText=\"Export\"/><EventTypeCode csd-code=\"delivered\" \
            codeSystemName=\"wardlink\" originalText=\"delivered\"/></EventIdentification><ActiveParticipant \
            UserID=\"forward orders\" UserIsRequestor=\"true\" NetworkAccessPointID=\"north-hospital\" \
            NetworkAccessPointTypeCode=\"1\"><RoleIDCode csd-code=\"110153\" codeSystemName=\"DCM\" \
            originalText=\"Source\"/></ActiveParticipant><ActiveParticipant UserID=\"city-lab\" UserIsRequestor=\"false\" \
            NetworkAccessPointID=\"city-lab\" NetworkAccessPointTypeCode=\"1\"><RoleIDCode csd-code=\"110152\" \
            codeSystemName=\"DCM\" originalText=\"Destination\"/></ActiveParticipant><AuditSourceIdentification \
            AuditSourceID=\"north-hospital\"><AuditSourceTypeCode csd-code=\"4\"/></AuditSourceIdentification>\
            <ParticipantObjectIdentification ParticipantObjectID=\"north-hospital/7\" ParticipantObjectTypeCode=\"2\" \
            ParticipantObjectTypeCodeRole=\"20\"><ParticipantObjectIDTypeCode csd-code=\"entry\" \
            codeSystemName=\"wardlink\" originalText=\"Entry of the audit log\"/><ParticipantObjectName>Entry of the \
            audit log</ParticipantObjectName><ParticipantObjectDetail type=\"sequence\" value=\"MTI=\"/><ParticipantObjectDetail type=\"type\" value=\"T1JVXlIwMQ==\"/>\
            <ParticipantObjectDetail type=\"code\" value=\"QUE=\"/></ParticipantObjectIdentification></AuditMessage>";
        assert_eq!(text, expected);
        let far = Entry { service: Some("orders".into()), peer: Some("north".into()), ..entry("rejected") };
        let text = xml(&far).unwrap();
        assert!(text.contains("EventActionCode=\"C\"") && text.contains("EventOutcomeIndicator=\"4\""), "{text}");
        let source = "UserID=\"north\" UserIsRequestor=\"true\" NetworkAccessPointID=\"north\" \
                      NetworkAccessPointTypeCode=\"1\"><RoleIDCode csd-code=\"110153\"";
        assert!(text.contains("\"110107\"") && text.contains(source), "{text}");
    }

    #[test]
    fn every_event_has_its_code_and_only_files_none() {
        for event in EVENT_NAMES {
            let text = xml(&entry(event));
            assert_eq!(text.is_none(), *event == "segment", "{event}");
            let mut out = Vec::new();
            frame(&entry(event), 9, &mut out);
            assert_eq!(out.is_empty(), *event == "segment", "{event}");
        }
        let operator = Entry { operator: Some("uid 0".into()), forward: Some("orders".into()), ..entry("viewed") };
        let text = xml(&operator).unwrap();
        assert!(text.contains("\"110132\"") && text.contains("UserID=\"uid 0\" UserIsRequestor=\"true\"/>"), "{text}");
        assert_eq!(text.matches("UserIsRequestor=\"true\"").count(), 1, "{text}");
    }

    /// Returns the values of an attribute, wherever it is.
    fn values<'a>(text: &'a str, attribute: &str) -> Vec<&'a str> {
        let begin = format!(" {attribute}=\"");
        text.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    /// The tables of DICOM PS3.15, A.5.3, for the messages that are made here.
    #[test]
    fn each_message_is_as_its_table_says() {
        for event in EVENT_NAMES.iter().filter(|event| **event != "segment") {
            for (operator, peer, service) in
                [(None, None, None), (Some("uid 0"), Some("lab"), None), (Some("uid 0"), Some("lab"), Some("s"))]
            {
                let of = |name: Option<&str>| name.map(str::to_owned);
                let entry = Entry { operator: of(operator), peer: of(peer), service: of(service), ..entry(event) };
                let text = xml(&entry).unwrap();
                let (action, codes) = (values(&text, "EventActionCode"), values(&text, "csd-code"));
                let requestors = values(&text, "UserIsRequestor");
                let asked = requestors.iter().filter(|value| **value == "true").count();
                // EventID, EventTypeCode of DICOM, and the entry's own name
                let types: Vec<_> = codes.iter().skip(1).take_while(|code| *code != event).collect();
                assert_eq!(text.matches("<ParticipantObjectName>").count(), 1, "{text}");
                match codes[0] {
                    "110100" => assert_eq!((action[0], types.len()), ("E", 1), "{text}"),
                    "110106" => assert_eq!((action[0], asked), ("R", 1), "{text}"),
                    "110107" => assert_eq!((action[0], asked), ("C", 1), "{text}"),
                    "110108" => {
                        assert_eq!((action[0], &requestors[..]), ("E", &["false"][..]), "{text}");
                        assert!(["110124", "110125"].contains(types[0]), "{text}");
                    }
                    "110113" => {
                        assert_eq!((action[0], types.len(), asked), ("E", 1, 1), "{text}");
                        let cid_403 = "110126".."110143";
                        assert!(cid_403.contains(types[0]), "{text}");
                        assert!(values(&text, "type").contains(&"Alert Description"), "{text}");
                        assert_eq!(values(&text, "ParticipantObjectTypeCodeRole"), ["13"]);
                    }
                    other => panic!("{other} is no event of this log: {text}"),
                }
            }
        }
    }

    #[test]
    fn a_frame_counts_its_bytes_and_what_is_odd_in_an_entry_breaks_nothing() {
        let odd = Entry {
            site: "a\"<b>&\u{0}\u{ffff}é x".into(),
            detail: Some("\u{1}\"</AuditMessage>".into()),
            ..entry("started")
        };
        let mut out = Vec::new();
        frame(&entry("started"), 42, &mut out);
        let first = out.len();
        frame(&odd, 42, &mut out);
        let text = String::from_utf8(out.clone()).unwrap();
        let (count, message) = text.split_once(' ').unwrap();
        assert_eq!(count.len() + 1 + count.parse::<usize>().unwrap(), first);
        let head = "<85>1 2026-11-22T14:00:00.123Z north-hospital wardlink 42 IHE+RFC-3881 - \u{feff}<?xml version";
        assert!(message.starts_with(head), "{message}");
        let (count, message) = std::str::from_utf8(&out[first..]).unwrap().split_once(' ').unwrap();
        assert_eq!(count.parse::<usize>().unwrap(), message.len());
        assert!(message.starts_with("<85>1 2026-11-22T14:00:00.123Z a\"<b>&x wardlink"), "{message}");
        assert!(message.contains("AuditSourceID=\"a&quot;&lt;b&gt;&amp;  é x\""), "{message}");
        assert_eq!(message.matches("</AuditMessage>").count(), 1);
    }
}

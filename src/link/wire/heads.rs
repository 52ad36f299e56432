//! How far two sites' audit logs go, at the end of a PING: an older version reads the number of the echo and no more.
//!
//! Pure. A head is whose (u8: 0 the sender's own, 1 one of the other side's that the sender keeps), entry (u64), hash (32
//! bytes) and proof (16 bytes); their count (u8) comes first. It never takes more of them than one PING has.

use bytes::{BufMut, BytesMut};

use super::{Fields, WireError, put_record};
use crate::audit::{Chain, Head, Heads};

/// Bounds the heads in one PING.
const HEADS_MAX: usize = 8;
/// Is the kind of a PING.
const PING: u8 = 11;

/// Appends a PING with heads.
pub(in crate::link) fn put_ping(token: u64, heads: &Heads, out: &mut BytesMut) {
    put_record(out, |out| {
        out.put_u8(PING);
        out.put_u64(token);
        let all = heads.own.iter().map(|head| (0, head)).chain(heads.kept.iter().map(|head| (1, head)));
        let all: Vec<(u8, &Head)> = all.take(HEADS_MAX).collect();
        if all.is_empty() {
            return;
        }
        out.put_u8(u8::try_from(all.len()).unwrap_or(0));
        for (whose, head) in all {
            out.put_u8(whose);
            out.put_u64(head.n);
            out.put_slice(&head.chain.0);
            out.put_slice(&head.proof);
        }
    });
}

/// Reads the heads of the record at the front of `bytes`, where it is a PING that has some.
pub(in crate::link) fn heads_of(bytes: &[u8]) -> Option<Heads> {
    let (mut fields, _) = Fields::of_record(bytes).ok()??;
    if fields.kind() != PING {
        return None;
    }
    read(&mut fields).ok().flatten()
}

fn read(fields: &mut Fields<'_>) -> Result<Option<Heads>, WireError> {
    fields.u64()?;
    if fields.left() == 0 {
        return Ok(None);
    }
    let mut heads = Heads::default();
    for _ in 0..usize::from(fields.byte()?).min(HEADS_MAX) {
        let whose = fields.byte()?;
        let head = Head { n: fields.u64()?, chain: Chain(fields.chunk()?), proof: fields.chunk()? };
        match whose {
            0 => heads.own = Some(head),
            1 => heads.kept.push(head),
            _ => {}
        }
    }
    Ok(Some(heads))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Record, decode, encode};
    use super::*;

    #[test]
    fn they_come_back_as_they_went_and_an_older_version_reads_the_echo() {
        let head = |n| Head { n, chain: Chain([7; 32]), proof: [8; 16] };
        let heads = Heads { own: Some(head(1)), kept: vec![head(2), head(u64::MAX)] };
        let mut bytes = BytesMut::new();
        put_ping(5, &heads, &mut bytes);
        assert_eq!(heads_of(&bytes), Some(heads));
        let (record, length) = decode(&bytes).unwrap().unwrap();
        assert!(record == Record::Ping(5) && length == bytes.len());
        bytes.truncate(20);
        assert_eq!(heads_of(&bytes), None);
    }

    #[test]
    fn without_any_it_is_the_ping_of_an_older_version() {
        let (mut bytes, mut older) = (BytesMut::new(), BytesMut::new());
        put_ping(5, &Heads::default(), &mut bytes);
        encode(&Record::Ping(5), &mut older);
        assert_eq!(bytes, older);
        assert_eq!(heads_of(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 3..700)) {
            let length = u16::try_from(bytes.len() - 2).unwrap();
            bytes[..2].copy_from_slice(&length.to_be_bytes());
            bytes[2] = PING;
            if let Some(heads) = heads_of(&bytes) {
                prop_assert!(heads.kept.len() <= HEADS_MAX);
            }
        }
    }
}

//! How far two sites' audit logs go, and the sender's new public key, at the end of a PING: an older version reads the number
//! of the echo and no more.
//!
//! Pure. A head is whose (u8: 0 the sender's own, 1 one of the other side's that the sender keeps), entry (u64), hash (32
//! bytes) and proof (16 bytes); their count (u8) comes first. Behind them the key, where there is one to tell: 1 (u8) and 32
//! bytes. It never takes more heads than one PING has.

use bytes::{BufMut, BytesMut};

use super::{Fields, WireError, put_record};
use crate::audit::{Chain, Head, Heads};
use crate::config::PublicKey;

/// Bounds the heads in one PING.
const HEADS_MAX: usize = 8;
/// Is the kind of a PING.
const PING: u8 = 11;

/// Begins a key.
const KEY: u8 = 1;

/// Is what goes with a PING.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::link) struct Told {
    /// Says how far the audit logs go.
    pub(in crate::link) heads: Heads,
    /// Is the sender's public key from now on.
    pub(in crate::link) new_key: Option<PublicKey>,
}

/// Appends a PING with what goes with it.
pub(in crate::link) fn put_ping(token: u64, told: &Told, out: &mut BytesMut) {
    let Told { heads, new_key } = told;
    put_record(out, |out| {
        out.put_u8(PING);
        out.put_u64(token);
        let all = heads.own.iter().map(|head| (0, head)).chain(heads.kept.iter().map(|head| (1, head)));
        let all: Vec<(u8, &Head)> = all.take(HEADS_MAX).collect();
        if all.is_empty() && new_key.is_none() {
            return;
        }
        out.put_u8(u8::try_from(all.len()).unwrap_or(0));
        for (whose, head) in all {
            out.put_u8(whose);
            out.put_u64(head.n);
            out.put_slice(&head.chain.0);
            out.put_slice(&head.proof);
        }
        if let Some(key) = new_key {
            out.put_u8(KEY);
            out.put_slice(&key.0);
        }
    });
}

/// Reads what goes with the record at the front of `bytes`, where it is a PING that has something.
pub(in crate::link) fn told_in(bytes: &[u8]) -> Option<Told> {
    let (mut fields, _) = Fields::of_record(bytes).ok()??;
    if fields.kind() != PING {
        return None;
    }
    read(&mut fields).ok().flatten()
}

fn read(fields: &mut Fields<'_>) -> Result<Option<Told>, WireError> {
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
    let new_key = if fields.left() > 0 && fields.byte()? == KEY { Some(PublicKey(fields.chunk()?)) } else { None };
    Ok(Some(Told { heads, new_key }))
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
        for (heads, new_key) in
            [(heads.clone(), None), (heads, Some(PublicKey([9; 32]))), (Heads::default(), Some(PublicKey([9; 32])))]
        {
            let told = Told { heads, new_key };
            let mut bytes = BytesMut::new();
            put_ping(5, &told, &mut bytes);
            assert_eq!(told_in(&bytes), Some(told));
            let (record, length) = decode(&bytes).unwrap().unwrap();
            assert!(record == Record::Ping(5) && length == bytes.len());
            bytes.truncate(20);
            assert_eq!(told_in(&bytes), None);
        }
    }

    #[test]
    fn without_any_it_is_the_ping_of_an_older_version() {
        let (mut bytes, mut older) = (BytesMut::new(), BytesMut::new());
        put_ping(5, &Told::default(), &mut bytes);
        encode(&Record::Ping(5), &mut older);
        assert_eq!(bytes, older);
        assert_eq!(told_in(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 3..700)) {
            let length = u16::try_from(bytes.len() - 2).unwrap();
            bytes[..2].copy_from_slice(&length.to_be_bytes());
            bytes[2] = PING;
            if let Some(told) = told_in(&bytes) {
                prop_assert!(told.heads.kept.len() <= HEADS_MAX);
            }
        }
    }
}

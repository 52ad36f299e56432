//! Finds pieces of known texts in captured bytes. Pure.
//!
//! Every text is cut into blocks of [`BLOCK_BYTES`], and every position of the captured bytes is compared with all of
//! them. So a piece of [`PIECE_BYTES`] cannot hide: it contains a whole block, wherever it begins. The comparison is
//! exact; that ciphertext equals a block by chance is less likely than one in 10^15 for a run.

use std::collections::{HashMap, HashSet};

/// Is the length of a block: long enough never to occur by chance, short enough to find small pieces.
const BLOCK_BYTES: usize = 12;

/// Is the length from which a piece of a text is found for certain.
pub(super) const PIECE_BYTES: usize = 2 * BLOCK_BYTES - 1;

/// Is the size of the filter before the table, as a power of two of bits: 4 MiB, about 30 bits a block of 300 messages.
const FILTER_BITS_LOG2: u32 = 25;

/// Marks a block that more than one text contains, wherever it begins in them.
const SHARED: u32 = u32::MAX;

type Block = [u8; BLOCK_BYTES];

/// Knows all blocks of the texts, and whose they are.
pub(super) struct Needles {
    blocks: HashMap<Block, u32>,
    /// Says which last eight bytes of a block exist, by their hash: most positions need no look into the table.
    filter: Vec<u64>,
}

/// Holds what was found.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    /// Counts the blocks that were found.
    pub(super) blocks: u64,
    /// Counts the frames that contained one.
    pub(super) frames: u64,
    /// Lists the texts that were recognised by a block that is theirs alone.
    pub(super) texts: HashSet<u32>,
}

impl Needles {
    /// Takes in the texts, which are numbered from 0 in their order.
    pub(super) fn new<'a>(texts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let mut needles = Self { blocks: HashMap::new(), filter: vec![0; 1 << (FILTER_BITS_LOG2 - 6)] };
        for (text, number) in texts.clone().zip(0_u32..) {
            for block in text.chunks_exact(BLOCK_BYTES).filter_map(|chunk| Block::try_from(chunk).ok()) {
                needles.insert(block, number);
            }
        }
        for (text, number) in texts.zip(0_u32..) {
            needles.share(text, number);
        }
        needles
    }

    fn insert(&mut self, block: Block, text: u32) {
        self.blocks.entry(block).or_insert(text);
        let (word, bit) = filter_place(block.iter().fold(0, shift));
        if let Some(word) = self.filter.get_mut(word) {
            *word |= bit;
        }
    }

    /// Marks the blocks of other texts that this one contains too.
    fn share(&mut self, text: &[u8], number: u32) {
        let mut shared = Vec::new();
        self.each_block(text, |block, owner| {
            if owner != number {
                shared.push(block);
            }
        });
        self.blocks.extend(shared.into_iter().map(|block| (block, SHARED)));
    }

    /// Searches the bytes of one frame.
    pub(super) fn search(&self, frame: &[u8], sightings: &mut Sightings) {
        let before = sightings.blocks;
        self.each_block(frame, |_, owner| {
            sightings.blocks += 1;
            if owner != SHARED {
                sightings.texts.insert(owner);
            }
        });
        sightings.frames += u64::from(sightings.blocks > before);
    }

    /// Calls `found` with each block in the bytes and whose it is.
    fn each_block(&self, bytes: &[u8], mut found: impl FnMut(Block, u32)) {
        let mut last_eight = 0_u64;
        for (end, byte) in (1_usize..).zip(bytes) {
            last_eight = shift(last_eight, byte);
            let (word, bit) = filter_place(last_eight);
            if self.filter.get(word).is_some_and(|word| word & bit != 0) {
                let block = end.checked_sub(BLOCK_BYTES).and_then(|start| bytes.get(start..end));
                let block = block.and_then(|block| Block::try_from(block).ok());
                if let Some((block, owner)) = block.and_then(|block| self.blocks.get_key_value(&block)) {
                    found(*block, *owner);
                }
            }
        }
    }
}

fn shift(last_eight: u64, byte: &u8) -> u64 {
    (last_eight << 8) | u64::from(*byte)
}

/// Returns the word of the filter and the bit in it.
fn filter_place(last_eight: u64) -> (usize, u64) {
    let hash = last_eight.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - FILTER_BITS_LOG2);
    (usize::try_from(hash >> 6).unwrap_or_default(), 1 << (hash & 63))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::messages;
    use super::*;

    static NEEDLES: LazyLock<Needles> = LazyLock::new(|| {
        let messages = messages::generate(3);
        Needles::new(messages.iter().map(|message| message.payload.as_slice()))
    });

    fn found(needles: &Needles, frame: &[u8]) -> Sightings {
        let mut sightings = Sightings::default();
        needles.search(frame, &mut sightings);
        sightings
    }

    proptest! {
        #[test]
        fn any_piece_of_the_promised_length_is_found(
            text in proptest::collection::vec(any::<u8>(), PIECE_BYTES..400),
            from in any::<prop::sample::Index>(),
            before in proptest::collection::vec(any::<u8>(), 0..60),
            after in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let start = from.index(text.len() - PIECE_BYTES + 1);
            let needles = Needles::new(std::iter::once(text.as_slice()));
            let frame = [&before, &text[start..start + PIECE_BYTES], &after].concat();
            prop_assert!(found(&needles, &frame).blocks > 0);
        }

        #[test]
        fn noise_is_not_found(frame in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(found(&NEEDLES, &frame).blocks, 0);
        }
    }

    #[test]
    fn every_message_and_answer_is_recognised_as_itself() {
        let messages = messages::generate(300);
        let texts = || messages.iter().flat_map(|message| [&message.payload, &message.answer]);
        let needles = Needles::new(texts().map(Vec::as_slice));
        for (text, number) in texts().zip(0_u32..) {
            let sightings = found(&needles, text);
            assert_eq!(sightings.texts, HashSet::from([number]));
            assert_eq!(sightings.frames, 1);
        }
    }

    #[test]
    fn a_block_of_two_texts_is_seen_but_nobodys() {
        let needles = Needles::new([b"MSH|^~\\&|HIS|".as_slice(), b"MSH|^~\\&|HIS|".as_slice()].into_iter());
        let sightings = found(&needles, b"..MSH|^~\\&|HIS..");
        assert_eq!((sightings.blocks, sightings.frames), (1, 1));
        assert!(sightings.texts.is_empty());
    }
}

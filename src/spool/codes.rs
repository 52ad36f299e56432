//! The order by which databases and records number verdicts and codes of answers: databases from 0, records from 1.
//!
//! Pure. Never changes a place in a list, only adds behind: databases outlive versions, and sites have different ones.

use super::Verdict;
use crate::mllp::ack::AckCode;

/// Lists the verdicts.
pub const VERDICTS: [Verdict; 5] =
    [Verdict::Delivered, Verdict::Rejected, Verdict::Failed, Verdict::Withdrawn, Verdict::DeliveredBefore];

/// Lists the codes.
pub const CODES: [AckCode; 10] = [
    AckCode::ApplicationAccept,
    AckCode::ApplicationError,
    AckCode::ApplicationReject,
    AckCode::CommitAccept,
    AckCode::CommitError,
    AckCode::CommitReject,
    AckCode::TransportAck,
    AckCode::TransportNak,
    AckCode::Other,
    AckCode::Absent,
];

/// Returns the number of a value in a database: its place in the list.
pub(super) fn number_of<T: PartialEq>(all: &[T], one: &T) -> i64 {
    all.iter().zip(0..).find_map(|(other, number)| (other == one).then_some(number)).unwrap_or(-1)
}

/// Finds a value by its number.
pub(super) fn with_number<T: Copy>(all: &[T], number: i64) -> Option<T> {
    all.get(usize::try_from(number).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_number_that_stays() {
        for (number, value) in (0..).zip(VERDICTS) {
            assert_eq!((number_of(&VERDICTS, &value), with_number(&VERDICTS, number)), (number, Some(value)));
        }
        for (number, value) in (0..).zip(CODES) {
            assert_eq!((number_of(&CODES, &value), with_number(&CODES, number)), (number, Some(value)));
        }
        assert_eq!(VERDICTS.iter().map(|one| number_of(&VERDICTS, one)).max(), Some(4));
        let (last, absent) = (number_of(&VERDICTS, &Verdict::DeliveredBefore), number_of(&CODES, &AckCode::Absent));
        assert_eq!((last, absent), (4, 9));
        assert!([-1, 5].into_iter().all(|number| with_number(&VERDICTS, number).is_none()));
        assert_eq!(with_number(&CODES, 10), None);
    }
}

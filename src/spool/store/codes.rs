//! The numbers by which a spool's database keeps enumerations.
//!
//! Never changes the meaning of a number: databases outlive versions.

use crate::mllp::ack::AckCode;
use crate::spool::Verdict;

const VERDICTS: [Verdict; 5] =
    [Verdict::Delivered, Verdict::Rejected, Verdict::Failed, Verdict::Withdrawn, Verdict::DeliveredBefore];

const CODES: [AckCode; 10] = [
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

/// Returns the number of a value: its place in the list.
pub(super) fn number_of<T: PartialEq>(all: &[T], one: &T) -> i64 {
    all.iter().zip(0..).find_map(|(other, number)| (other == one).then_some(number)).unwrap_or(-1)
}

/// Finds a value by its number.
pub(super) fn with_number<T: Copy>(all: &[T], number: i64) -> Option<T> {
    all.get(usize::try_from(number).ok()?).copied()
}

/// Returns the number of a verdict.
pub(super) fn of_verdict(verdict: Verdict) -> i64 {
    number_of(&VERDICTS, &verdict)
}

/// Finds a verdict by its number.
pub(super) fn verdict(number: i64) -> Option<Verdict> {
    with_number(&VERDICTS, number)
}

/// Returns the number of an answer's code.
pub(super) fn of_code(code: AckCode) -> i64 {
    number_of(&CODES, &code)
}

/// Finds an answer's code by its number.
pub(super) fn code(number: i64) -> Option<AckCode> {
    with_number(&CODES, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_number_that_stays() {
        for (number, value) in (0..).zip(VERDICTS) {
            assert_eq!((of_verdict(value), verdict(number)), (number, Some(value)));
        }
        for (number, value) in (0..).zip(CODES) {
            assert_eq!((of_code(value), code(number)), (number, Some(value)));
        }
        assert_eq!((of_verdict(Verdict::DeliveredBefore), of_code(AckCode::Absent)), (4, 9));
        assert_eq!((verdict(-1), verdict(5), code(10)), (None, None, None));
    }
}

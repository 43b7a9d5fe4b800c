//! Lengths rounded up, so that what is sealed tells little about how long it is.

/// What every padded length is a multiple of, in bytes.
const UNIT: usize = 64;

/// Rounds a length up to its size class: less than 64 bytes or about an eighth more.
///
/// As Padmé has it: no more leading bits of the length than it takes to write down their number; then to a multiple of
/// 64. Spec: spec/sealed.md #record.
pub(crate) const fn padded_len(len: usize) -> usize {
    let Some(exponent) = len.checked_ilog2() else { return 0 };
    let kept = match exponent.checked_ilog2() {
        Some(bits) => bits + 1,
        None => 0,
    };
    len.next_multiple_of(1 << exponent.saturating_sub(kept)).next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_up_to_few_classes() {
        for (len, padded) in [(0, 0), (1, 64), (64, 64), (65, 128), (1000, 1024), (1 << 20, 1 << 20)] {
            assert_eq!(padded_len(len), padded, "{len}");
        }
        assert_eq!(padded_len((1 << 20) + 1), (1 << 20) + (1 << 15));
        let mut classes = std::collections::BTreeSet::new();
        for len in 0..1 << 20 {
            let padded = padded_len(len);
            assert!(padded.is_multiple_of(UNIT) && padded >= len && padded <= len + UNIT.max(len / 8), "{len}");
            assert_eq!(padded_len(padded), padded, "a class is in itself");
            classes.insert(padded);
        }
        assert!(classes.len() < 300, "{} different lengths are told apart", classes.len());
    }
}

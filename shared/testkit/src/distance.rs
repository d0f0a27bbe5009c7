//! How far our numbers are from the reference's.

/// Returns the largest distance of two numbers at the same place. A distance that is not a number counts as infinite, so
/// that no `max` or comparison after this one lets it pass.
///
/// # Panics
/// When there are more numbers on one side than on the other.
pub fn distance(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len(), "different numbers of numbers");
    let apart = left.iter().zip(right).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |worst, d| worst.max(if d.is_nan() { f32::INFINITY } else { d }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_infinitely_far_wherever_it_stands() {
        for at in 0..3 {
            let mut broken = [1.0, 2.0, 3.0];
            broken[at] = f32::NAN;
            assert_eq!(0f32.max(distance(&broken, &[1.0, 2.0, 3.5])), f32::INFINITY);
        }
        assert_eq!(distance(&[1.0, 2.0], &[1.25, 1.5]), 0.5);
    }
}

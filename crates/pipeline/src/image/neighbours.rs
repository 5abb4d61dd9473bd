//! Where new pixels lie among old ones.

/// Where the centre of a new pixel lies among the centres of old ones. PyTorch computes it in f32.
pub(super) fn centre(from: usize, to: usize, place: usize) -> f32 {
    from as f32 / to as f32 * (place as f32 + 0.5) - 0.5
}

/// The old pixel at or before the centre of a new one, the one after it, and the share of the
/// latter.
pub(super) fn neighbours(from: usize, to: usize, place: usize) -> (usize, usize, f32) {
    if from == to {
        return (place, place, 0.0);
    }
    let centre = centre(from, to, place).max(0.0);
    let low = (centre as usize).min(from - 1);
    (low, (low + 1).min(from - 1), (centre - low as f32).min(1.0))
}

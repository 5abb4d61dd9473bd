//! Memory in lines of sixteen values, each of which lies in one line of a cache.

/// Sixteen values, or sixteen pairs of bf16, that lie together.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Line([u32; 16]);

impl Line {
    pub(super) const ZERO: Line = Line([0; 16]);

    /// Lines of single values as those.
    pub(super) fn values(lines: &[Line]) -> &[f32] {
        // SAFETY: a line is sixteen of them, and any bits are some.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
    }

    /// As [`values`](Self::values), to be written.
    pub(super) fn values_mut(lines: &mut [Line]) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
    }
}

/// The first `count` lines of memory that is kept from use to use, which grows where it is too short. What is in them
/// is to be written over.
pub(super) fn room(memory: &mut Vec<Line>, count: usize) -> &mut [Line] {
    if memory.len() < count {
        // Nothing in it needs to move.
        *memory = Vec::new();
        memory.resize(count, Line::ZERO);
    }
    &mut memory[..count]
}

//! Products in tiles of AMX-BF16, the processor's registers for matrices.
//!
//! A tile has 16 rows of 64 bytes. The compiler's functions for them are not stable yet, so their
//! instructions are written out. Linux lets a process use them after it asked.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use super::super::line::Line;
use super::Unit;
use super::sink::Place;

/// Whether processor and system have them. On Linux this asks for them, for all threads.
pub(super) fn available() -> bool {
    #[cfg(target_os = "linux")]
    {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        const REQUEST: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        let features = __cpuid_count(7, 0).edx;
        // SAFETY: the call changes nothing but what this process may use.
        features & BF16 != 0
            && features & TILES != 0
            && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// The tiles' shapes, as long as this thread multiplies.
pub(in super::super) struct Mode(bool);

#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Mode {
    pub(in super::super) fn enter(unit: Unit) -> Self {
        let tiles = unit == Unit::Amx;
        if tiles {
            // SAFETY: the unit was found; the shapes are those of the eight tiles.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly))
            };
        }
        Self(tiles)
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: nothing is in the tiles any more.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// Multiplies one or two strips of each side. The place gets whole tiles.
///
/// # Safety
/// The thread is in the tiles' [`Mode`]; both sides have `lines` lines for each strip, a
/// multiple of 16; the place has room.
pub(super) unsafe fn multiply(
    left: &[Line],
    right: &[Line],
    lines: usize,
    [rows, columns]: [usize; 2],
    place: &Place,
) {
    let (tall, wide) = (rows > 16, columns > 16);
    let needs = |twice: bool| if twice { 2 * lines } else { lines };
    assert!(left.len() >= needs(tall) && right.len() >= needs(wide));
    let (a, b, blocks, strip) = (left.as_ptr(), right.as_ptr(), lines / 16, lines * 64);
    let begin = |down: usize, half: usize| {
        place.begin.wrapping_add(down * 16 * place.begin_step + half * place.begin_half)
    };
    let out = |down: usize, half: usize| {
        place.out.wrapping_add(down * 16 * place.step + half * place.half)
    };
    let (begin_bytes, out_bytes) = (place.begin_step * 4, place.step * 4);
    // SAFETY: the caller's promises. Each pass of the loops reads one block of every strip. Nothing
    // else uses the tiles, so they keep what one `asm!` leaves for the next.
    unsafe {
        if tall && wide {
            asm!(
                "tileloadd tmm0, [{0} + {row}]",
                "tileloadd tmm1, [{1} + {row}]",
                "tileloadd tmm2, [{2} + {row}]",
                "tileloadd tmm3, [{3} + {row}]",
                in(reg) begin(0, 0), in(reg) begin(0, 1), in(reg) begin(1, 0), in(reg) begin(1, 1),
                row = in(reg) begin_bytes,
                options(nostack, readonly),
            );
            asm!(
                "test {blocks}, {blocks}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tileloadd tmm7, [{b2} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a2} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 1024",
                "add {b}, 1024",
                "add {a2}, 1024",
                "add {b2}, 1024",
                "dec {blocks}",
                "jnz 2b",
                "3:",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                a2 = inout(reg) a.wrapping_byte_add(strip) => _,
                b2 = inout(reg) b.wrapping_byte_add(strip) => _,
                blocks = inout(reg) blocks => _,
                line = in(reg) 64_usize,
                options(nostack, readonly),
            );
            asm!(
                "tilestored [{0} + {row}], tmm0",
                "tilestored [{1} + {row}], tmm1",
                "tilestored [{2} + {row}], tmm2",
                "tilestored [{3} + {row}], tmm3",
                in(reg) out(0, 0), in(reg) out(0, 1), in(reg) out(1, 0), in(reg) out(1, 1),
                row = in(reg) out_bytes,
                options(nostack),
            );
            return;
        }
        // At most two of the four: one after the other.
        for (down, half) in [(0, 0), (0, 1), (1, 0)] {
            if (down == 1 && !tall) || (half == 1 && !wide) {
                continue;
            }
            asm!(
                "tileloadd tmm0, [{begin} + {begin_row}]",
                "test {blocks}, {blocks}",
                "jz 3f",
                "2:",
                "tileloadd tmm4, [{a} + {line}]",
                "tileloadd tmm6, [{b} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "add {a}, 1024",
                "add {b}, 1024",
                "dec {blocks}",
                "jnz 2b",
                "3:",
                "tilestored [{out} + {out_row}], tmm0",
                begin = in(reg) begin(down, half),
                begin_row = in(reg) begin_bytes,
                a = inout(reg) a.wrapping_byte_add(down * strip) => _,
                b = inout(reg) b.wrapping_byte_add(half * strip) => _,
                blocks = inout(reg) blocks => _,
                line = in(reg) 64_usize,
                out = in(reg) out(down, half),
                out_row = in(reg) out_bytes,
                options(nostack),
            );
        }
    }
}

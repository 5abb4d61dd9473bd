//! NumPy's `SeedSequence`: well mixed words from an entropy and a spawn key.
//!
//! The hash is M. E. O'Neill's `seed_seq_fe`, with NumPy's constants and order.

const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_LEFT: u32 = 0xca01_f9dd;
const MIX_RIGHT: u32 = 0x4973_f715;

/// `SeedSequence(entropy, spawn_key=…, pool_size=POOL).generate_state(N)`.
pub(super) fn generate_state<const POOL: usize, const N: usize>(
    entropy: u64,
    spawn_key: &[u64],
) -> [u32; N] {
    let mut words = little_endian_words(entropy);
    if !spawn_key.is_empty() {
        // Filled to the pool, so that a spawn key is never taken for more entropy.
        words.resize(words.len().max(POOL), 0);
        words.extend(spawn_key.iter().flat_map(|&key| little_endian_words(key)));
    }
    state(&mixed_pool::<POOL>(&words))
}

/// The words of a number, the lowest first; none of the highest is 0 but for the number 0.
fn little_endian_words(number: u64) -> Vec<u32> {
    let (low, high) = (number as u32, (number >> 32) as u32);
    if high == 0 { vec![low] } else { vec![low, high] }
}

fn mixed_pool<const POOL: usize>(words: &[u32]) -> [u32; POOL] {
    let mut constant = INIT_A;
    let mut hash = |word: u32| {
        let word = word ^ constant;
        constant = constant.wrapping_mul(MULT_A);
        let word = word.wrapping_mul(constant);
        word ^ word >> 16
    };
    let mut words = words.iter().copied();
    let mut pool = [0; POOL];
    for slot in &mut pool {
        *slot = hash(words.next().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in 0..POOL {
            if from != to {
                pool[to] = mix(pool[to], hash(pool[from]));
            }
        }
    }
    for word in words {
        for slot in &mut pool {
            *slot = mix(*slot, hash(word));
        }
    }
    pool
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = MIX_LEFT.wrapping_mul(x).wrapping_sub(MIX_RIGHT.wrapping_mul(y));
    mixed ^ mixed >> 16
}

fn state<const N: usize>(pool: &[u32]) -> [u32; N] {
    let mut constant = INIT_B;
    let mut words = pool.iter().cycle();
    std::array::from_fn(|_| {
        let word = words.next().copied().unwrap_or(0) ^ constant;
        constant = constant.wrapping_mul(MULT_B);
        let word = word.wrapping_mul(constant);
        word ^ word >> 16
    })
}

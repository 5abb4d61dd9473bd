//! Sums and greatest values over what the units of a cube have, and the cubes for them.

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::client::ComputeClient;
use burn_cubecl::cubecl::ir::features::Plane;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};

/// Units of the largest cube: a power of 2, which every device has.
const MOST_UNITS: u32 = 256;

/// Cubes of one dimension of a launch: what every device has.
const MOST_CUBES: u32 = 65_535;

/// Units that make one value of theirs together: a cube.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Units {
    /// All of them, a power of 2.
    pub count: u32,
    /// How many of them add up by an instruction; 1 where the device has none, or not always for as many.
    pub plane: u32,
}

impl Units {
    /// As many as have something to do, where each takes a few of the values.
    pub(super) fn of<R: CubeRuntime>(client: &ComputeClient<R>, values: usize) -> Self {
        let properties = client.properties();
        let (least, most) =
            (properties.hardware.plane_size_min, properties.hardware.plane_size_max);
        let fixed = least == most && most.is_power_of_two() && (2..=MOST_UNITS).contains(&most);
        let plane = match fixed && properties.features.plane.contains(Plane::Ops) {
            true => most,
            false => 1,
        };
        let few = (values / 4).max(1).next_power_of_two().min(MOST_UNITS as usize) as u32;
        Self { count: few.max(plane).max(32), plane }
    }

    /// The cube.
    pub(super) fn dim(self) -> CubeDim {
        CubeDim::new_2d(self.plane, self.count / self.plane)
    }
}

/// A launch of so many cubes at least.
pub(super) fn cubes(count: usize) -> CubeCount {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let rows = count.div_ceil(MOST_CUBES).max(1);
    CubeCount::new_2d(count.div_ceil(rows), rows)
}

/// How values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum By {
    Sum,
    Largest,
}

/// One value of all units' values, in every unit; always in the same order. Every unit of the cube is here.
#[cube]
pub(super) fn reduce(value: f32, #[comptime] by: By, #[comptime] units: Units) -> f32 {
    let mut shared = SharedMemory::<f32>::new(comptime!((units.count / units.plane) as usize));
    let mut result = value;
    if comptime!(units.plane > 1) {
        result = match comptime!(by) {
            By::Sum => plane_sum(value),
            By::Largest => plane_max(value),
        };
    }
    let planes = comptime!(units.count / units.plane);
    if comptime!(planes > 1) {
        // As `Units::dim` lays the cube out.
        if UNIT_POS_X == 0 {
            shared[UNIT_POS_Y as usize] = result;
        }
        sync_cube();
        let mut left = comptime!(planes / 2).runtime();
        while left > 0 {
            if UNIT_POS < left {
                let other = shared[(UNIT_POS + left) as usize];
                let own = shared[UNIT_POS as usize];
                shared[UNIT_POS as usize] = both(own, other, by);
            }
            left /= 2;
            sync_cube();
        }
        result = shared[0];
        // The next one writes there.
        sync_cube();
    }
    result
}

#[cube]
fn both(a: f32, b: f32, #[comptime] by: By) -> f32 {
    match comptime!(by) {
        By::Sum => a + b,
        By::Largest => max(a, b),
    }
}

/// The sum of a vector's values.
#[cube]
pub(super) fn sum_of<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for lane in 0..N::value() {
        sum += vector[lane];
    }
    sum
}

//! How long a plan of 2,500 blocks takes; the aim is under a millisecond.

#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use distorch_allocation::{
    Allocation, Block, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo, Donors, Layout,
    LayoutChoice, Ledger, Topology, VirtualVram, plan,
};

/// Sizes as a diffusion model mixes them: large matrices, small convolutions, tiny norms.
fn component() -> ComponentBlocks {
    let sizes = [26_214_400, 3_276_800, 6_553_600, 2_560, 13_107_200];
    let block = |i: usize| {
        let name = format!("input_blocks.{}.transformer_blocks.{}.layer{i}", i / 250, i / 25);
        Block::new(name, "linear", sizes[i % sizes.len()])
    };
    ComponentBlocks::new("unet", (0..2_500).map(block).collect(), 2 << 30).unwrap()
}

fn ledger() -> Ledger {
    let cpu = DeviceInfo::new(DeviceId::CPU, "host", 128 << 30);
    let machine = Topology::new(vec![cpu]).unwrap();
    Ledger::new(machine.simulate("cuda:0=24GiB,cuda:1=8GiB,cuda:2=8GiB").unwrap())
}

fn plans(c: &mut Criterion) {
    let (component, ledger) = (component(), ledger());
    let mut group = c.benchmark_group("plan of 2500 blocks");
    let fixed = [Layout::Distorch2, Layout::Interleave].map(LayoutChoice::Fixed);
    for layout in fixed.into_iter().chain([LayoutChoice::Auto]) {
        let mut settings = ComponentSettings::new("cuda:0".parse().unwrap());
        settings.layout = layout;
        settings.donors = "cuda:1,cpu".parse::<Donors>().unwrap();
        let mut run = |name: &str, settings: &ComponentSettings| {
            group.bench_function(format!("{layout}, {name}"), |b| {
                b.iter(|| plan(black_box(&component), settings, &ledger).unwrap());
            });
        };
        let gigabytes = VirtualVram::gigabytes(16.0).unwrap();
        run("virtual vram", &ComponentSettings { virtual_vram: gigabytes, ..settings.clone() });
        run("auto", &ComponentSettings { virtual_vram: VirtualVram::Auto, ..settings.clone() });
        let expert = Allocation::parse("cuda:0,40%;cuda:1,20%;cuda:2,20%;cpu,20%").unwrap();
        run("ratio", &ComponentSettings { expert, ..settings });
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);

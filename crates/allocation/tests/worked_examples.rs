//! Placements that users of DisTorch2 know, and the ones that are better here, to the block.

#![allow(clippy::unwrap_used, clippy::panic)]

use distorch_allocation::{
    Allocation, Block, ComponentBlocks, ComponentSettings, DeviceId, DeviceInfo, Donors, Layout,
    Ledger, Plan, PlanError, PlanWarning, Reason, Topology, VirtualVram, plan, plan_model,
};

const GIB: u64 = 1 << 30;
const MIB: f64 = (1 << 20) as f64;

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn machine(simulated: &str) -> Ledger {
    let cpu = DeviceInfo::new(DeviceId::CPU, "host", GIB);
    Ledger::new(Topology::new(vec![cpu]).unwrap().simulate(simulated).unwrap())
}

/// Two cards of 24 GiB.
fn p() -> Ledger {
    machine("cuda:0=24GiB,cuda:1=24GiB,cpu=128GiB")
}

/// A card of 16 GiB and one of 8.
fn q() -> Ledger {
    machine("cuda:0=16GiB,cuda:1=8GiB,cpu=64GiB")
}

/// Ten blocks of 1 GiB.
fn m10() -> ComponentBlocks {
    let blocks = (0..10).map(|i| Block::new(format!("b{i}"), "linear", GIB)).collect();
    ComponentBlocks::new("unet", blocks, 0).unwrap()
}

fn block(name: &str, kind: &str, mebibytes: f64) -> Block {
    Block::new(name, kind, (mebibytes * MIB) as u64)
}

/// A small model of mixed sizes; `pos` is a parameter of its parent.
fn t() -> ComponentBlocks {
    let mut blocks = vec![
        block("te0", "linear", 64.0),
        block("te1", "linear", 64.0),
        block("pos", "param", 128.0),
        block("inconv", "conv", 0.0977),
    ];
    for i in 0..8 {
        blocks.push(block(&format!("k{i}"), "linear", if i % 2 == 0 { 512.0 } else { 256.0 }));
    }
    blocks.push(block("norm", "norm", 0.0078));
    blocks.push(block("out", "linear", 64.0));
    ComponentBlocks::new("unet", blocks, 0).unwrap()
}

/// Two text encoders with their embeddings.
fn c() -> ComponentBlocks {
    let head = |block| Block { head: true, ..block };
    let mut blocks = vec![
        head(block("clip.token_embedding", "embedding", 128.0)),
        head(block("clip.position_embedding", "embedding", 1.0)),
    ];
    blocks.extend((0..8).map(|i| block(&format!("l{i}"), "linear", 64.0)));
    blocks.push(head(block("t5.shared", "embedding", 256.0)));
    blocks.extend((0..8).map(|i| block(&format!("t5.b{i}"), "linear", 128.0)));
    blocks.push(block("t5.fln", "norm", 0.0039));
    ComponentBlocks::new("clip", blocks, 0).unwrap()
}

fn virtual_vram(compute: &str, gigabytes: f64, donors: &str) -> ComponentSettings {
    let mut settings = ComponentSettings::new(id(compute));
    settings.virtual_vram = VirtualVram::gigabytes(gigabytes).unwrap();
    settings.donors = donors.parse().unwrap();
    settings
}

fn expert(compute: &str, text: &str) -> ComponentSettings {
    let mut settings = ComponentSettings::new(id(compute));
    settings.expert = Allocation::parse(text).unwrap();
    settings
}

fn placed(model: &ComponentBlocks, settings: &ComponentSettings, on: &Ledger) -> Plan {
    plan(model, settings, on).unwrap()
}

/// The names of the blocks at home on a device, in definition order, joined by blanks.
fn on(plan: &Plan, device: &str) -> String {
    let there = plan.blocks.iter().filter(|block| block.device == id(device));
    there.map(|block| block.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn example_1_four_gigabytes_to_cpu() {
    let plan = placed(&m10(), &virtual_vram("cuda:0", 4.0, "cpu"), &p());
    assert_eq!(on(&plan, "cpu"), "b0 b1 b2 b3");
    assert_eq!(on(&plan, "cuda:0"), "b4 b5 b6 b7 b8 b9");
    assert_eq!(plan.window_bytes, 2 * GIB);
    assert_eq!(plan.peak_bytes, 8 * GIB);
    assert!(plan.fits && plan.warnings.is_empty());
}

#[test]
fn example_2_a_second_card_as_donor() {
    let plan = placed(&m10(), &virtual_vram("cuda:0", 4.0, "cuda:1"), &p());
    assert_eq!(on(&plan, "cuda:1"), "b0 b1 b2 b3");
    assert_eq!(on(&plan, "cuda:0"), "b4 b5 b6 b7 b8 b9");
}

#[test]
fn example_3_the_lower_card_as_donor() {
    let plan = placed(&m10(), &virtual_vram("cuda:1", 4.0, "cuda:0"), &p());
    assert_eq!(on(&plan, "cuda:0"), "b6 b7 b8 b9");
    assert_eq!(on(&plan, "cuda:1"), "b0 b1 b2 b3 b4 b5");
}

#[test]
fn example_4_more_than_the_model() {
    let plan = placed(&m10(), &virtual_vram("cuda:0", 16.0, "cpu"), &p());
    assert_eq!(plan.bytes_on(id("cpu")), 10 * GIB);
    assert_eq!(plan.bytes_on(id("cuda:0")), 0);
}

#[test]
fn example_7_a_ceiling_and_the_rest() {
    let plan = placed(&m10(), &expert("cuda:0", "cuda:0,2.5gb;cpu,*"), &p());
    // In DisTorch2 b0, which fits into neither share, passes the ceiling of cuda:0.
    assert_eq!(on(&plan, "cuda:0"), "b8 b9");
    assert_eq!(on(&plan, "cpu"), "b0 b1 b2 b3 b4 b5 b6 b7");
    assert_eq!((plan.blocks[0].reason, plan.blocks[1].reason), (Reason::Overflow, Reason::Share));
    assert_eq!(plan.warnings, []);
    let unwritten = placed(&m10(), &expert("cuda:0", "cuda:0,2.5gb"), &p());
    assert_eq!(unwritten.blocks, plan.blocks);
}

/// What has to stay on the compute device counts against its ceiling, and passes it only alone.
#[test]
fn a_ceiling_holds_what_has_to_stay() {
    let plan = placed(&t(), &expert("cuda:0", "cuda:0,256mb;cpu,*"), &q());
    // 128 MiB of parameters and the tiny layers leave less than 128 MiB: out, and then te1 not.
    assert_eq!(on(&plan, "cuda:0"), "pos inconv norm out");
    let few = placed(&t(), &expert("cuda:0", "cuda:0,100mb;cpu,*"), &q());
    assert_eq!(on(&few, "cuda:0"), "pos inconv norm");
    let warning = few.warnings.last().unwrap().to_string();
    assert!(warning.starts_with("cuda:0 holds 128.11 MiB, more than the 100.00 MiB"), "{warning}");
    let heads = placed(&c(), &expert("cuda:0", "cuda:0,400mb;cuda:1,600mb;cpu,*"), &q());
    assert_eq!(heads.bytes_on(id("cuda:0")), (385.0039 * MIB) as u64);
    assert_eq!(heads.warnings, []);
}

#[test]
fn example_9_order_of_entries_does_not_matter_while_all_fit() {
    let orders = ["cuda:0,2gb;cuda:1,3gb;cpu,*", "cpu,*;cuda:1,3gb;cuda:0,2gb"];
    let [a, b] = orders.map(|text| placed(&m10(), &expert("cuda:0", text), &p()));
    assert_eq!(a.blocks, b.blocks);
    assert_eq!(on(&a, "cuda:0"), "b8 b9");
    assert_eq!(on(&a, "cuda:1"), "b5 b6 b7");
}

#[test]
fn example_10_a_wildcard_with_a_number() {
    let text = "cuda:0,500mb;cuda:1,3.0g;cpu,5gb*";
    let plan = placed(&m10(), &expert("cuda:0", text), &p());
    assert_eq!(on(&plan, "cuda:1"), "b7 b8 b9");
    assert_eq!(on(&plan, "cpu"), "b0 b1 b2 b3 b4 b5 b6");
    assert_eq!(on(&plan, "cuda:0"), "");
    assert!(plan.fits && plan.warnings.is_empty());
}

#[test]
fn example_12_a_device_twice() {
    let error = Allocation::parse("cuda:1,2gb;cuda:1,3gb;cpu,*").unwrap_err();
    assert_eq!((error.entry, error.character), (2, 12));
}

#[test]
fn example_14_a_quarter() {
    for text in ["cuda:0,25%;cpu,75%", "cuda:0,1;cpu,3%"] {
        let plan = placed(&m10(), &expert("cuda:0", text), &p());
        assert_eq!(on(&plan, "cuda:0"), "b0 b8 b9", "{text}");
        assert_eq!(on(&plan, "cpu"), "b1 b2 b3 b4 b5 b6 b7", "{text}");
        let told: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
        match text.contains("25%") {
            true => assert!(told.is_empty(), "{told:?}"),
            false => assert!(told[0].contains("`cuda:0,1` is read as `cuda:0,1%`"), "{told:?}"),
        }
    }
    let half = Allocation::parse("cuda:0,0.5;cpu,50%").unwrap_err().to_string();
    assert!(half.contains("`0.5%`") && half.contains("`50%` of the model"), "{half}");
}

#[test]
fn example_16_seventy_and_thirty() {
    let plan = placed(&m10(), &expert("cuda:0", "cuda:0,70%;cuda:1,30%"), &p());
    assert_eq!(on(&plan, "cuda:0"), "b3 b4 b5 b6 b7 b8 b9");
    assert_eq!(on(&plan, "cuda:1"), "b0 b1 b2");
}

#[test]
fn example_17_a_single_ratio_is_all() {
    let plan = placed(&m10(), &expert("cuda:0", "cuda:1,50%"), &p());
    assert_eq!(plan.bytes_on(id("cuda:1")), 10 * GIB);
}

#[test]
fn example_20_empty_entries() {
    let [a, b] = [";cuda:0,0.1;;cpu,0.5;", "cuda:0,0.1;cpu,0.5"]
        .map(|text| placed(&m10(), &expert("cuda:0", text), &p()));
    assert_eq!(a, b);
    // A tenth of 24 GiB holds two blocks; half of the host's memory holds the others.
    assert_eq!(on(&a, "cuda:0"), "b8 b9");
    assert_eq!(on(&a, "cpu"), "b0 b1 b2 b3 b4 b5 b6 b7");
}

#[test]
fn example_23_mixed_sizes_in_halves() {
    let plan = placed(&t(), &expert("cuda:0", "cuda:0,50%;cuda:1,50%"), &q());
    assert_eq!(on(&plan, "cuda:0"), "te1 pos inconv k4 k5 k6 k7 norm out");
    assert_eq!(on(&plan, "cuda:1"), "te0 k0 k1 k2 k3");
    let reason = |name: &str| plan.blocks.iter().find(|b| b.name == name).unwrap().reason;
    assert_eq!((reason("pos"), reason("norm")), (Reason::Param, Reason::Tiny));
    assert_eq!((reason("inconv"), reason("te1")), (Reason::Tiny, Reason::Share));
}

#[test]
fn example_26_all_that_may_move() {
    let plan = placed(&t(), &virtual_vram("cuda:0", 64.0, "cuda:1"), &q());
    assert_eq!(on(&plan, "cuda:0"), "pos inconv norm");
}

#[test]
fn example_27_heads_stay_with_the_table_of_t5() {
    let plan = placed(&c(), &expert("cuda:0", "cuda:1,100%"), &q());
    let stayed = "clip.token_embedding clip.position_embedding t5.shared t5.fln";
    assert_eq!(on(&plan, "cuda:0"), stayed);
    assert_eq!(plan.devices[1].blocks, 16);
}

#[test]
fn example_30_the_defaults_of_the_text_encoders() {
    let plan = placed(&c(), &virtual_vram("cpu", 2.0, "cpu"), &q());
    assert_eq!(plan.devices.len(), 1);
    assert_eq!(plan.bytes_on(DeviceId::CPU), c().bytes());
    assert_eq!((plan.window_bytes, plan.warnings.len()), (0, 0));
}

#[test]
fn example_31_cards_are_ordered_by_number() {
    let cards: Vec<String> = (0..12).map(|i| format!("cuda:{i}=24GiB")).collect();
    let twelve = machine(&format!("{},cpu=128GiB", cards.join(",")));
    let plan = placed(&m10(), &expert("cuda:0", "cuda:2,3gb;cuda:10,3gb;cpu,*"), &twelve);
    assert_eq!(on(&plan, "cuda:2"), "b7 b8 b9");
    assert_eq!(on(&plan, "cuda:10"), "b4 b5 b6");
}

#[test]
fn example_32_errors_come_before_any_byte_is_read() {
    for text in [
        "foo,1gb",
        "cuda:0,1tb",
        "cuda:0,0.5;cpu,*",
        "0%;0%",
        "cuda:0,0%;cpu,0%",
        "cpu,1,2",
        "cuda:0,2gb;cuda:1,50%",
    ] {
        assert!(Allocation::parse(text).is_err(), "{text}");
    }
    for text in ["CUDA:1,1gb; CPU ,*", "cuda:0,.5gb", "cuda:0,30%;cpu,*", "mps,25%;cpu,75%"] {
        assert!(Allocation::parse(text).is_ok(), "{text}");
    }
    let error = plan(&m10(), &expert("cuda:0", "cpu,1gb;cuda:7,1gb"), &p()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "component `unet`, expert allocation, entry 2, character 9: no device `cuda:7`; \
         present: cuda:0, cuda:1, cpu"
    );
    let rest = placed(&m10(), &expert("cuda:0", "cuda:0,30%;cpu,*"), &p());
    assert_eq!(rest.bytes_on(DeviceId::CPU), 7 * GIB);
    let one = machine("cpu=128GiB");
    let metal = Topology::new(vec![
        DeviceInfo::new(id("mps"), "gpu", 16 * GIB),
        one.topology().devices()[0].clone(),
    ]);
    let plan = placed(&m10(), &expert("mps", "mps,20%;cpu,80%"), &Ledger::new(metal.unwrap()));
    assert_eq!(on(&plan, "metal"), "b8 b9");
}

#[test]
fn example_33_an_expert_allocation_replaces_virtual_vram() {
    let with = ComponentSettings {
        expert: Allocation::parse("cuda:0,70%;cuda:1,30%").unwrap(),
        ..virtual_vram("cuda:0", 4.0, "cpu")
    };
    let plan_with = placed(&m10(), &with, &p());
    assert_eq!(plan_with, placed(&m10(), &expert("cuda:0", "cuda:0,70%;cuda:1,30%"), &p()));
    let unset = placed(&m10(), &ComponentSettings::new(id("cuda:0")), &p());
    assert_eq!(unset.bytes_on(id("cuda:0")), 10 * GIB);
}

#[test]
fn example_34_every_byte_is_somewhere() {
    for text in ["cuda:0,33%;cuda:1,33%;cpu,34%", "cuda:1,700mb;cpu,*", "cuda:1,0.05;cpu,0.001"] {
        let plan = placed(&t(), &expert("cuda:0", text), &q());
        assert_eq!(plan.blocks.len(), t().blocks().len());
        assert_eq!(plan.devices.iter().map(|share| share.bytes).sum::<u64>(), t().bytes());
        for share in plan.devices.iter().filter(|share| share.device != id("cuda:0")) {
            // With sizes, cpu takes what fits nowhere besides its share.
            let wildcard = text.ends_with('*') && share.device.is_cpu();
            assert!(wildcard || share.bytes <= share.share_bytes, "{text}: {share:?}");
        }
    }
}

/// The node's document: the diffusion model on cuda:0 with 8 GB from cuda:1, the text encoders on
/// cuda:1 with 2 GB from cpu.
#[test]
fn the_documents_virtual_vram_example() {
    let tenth = GIB / 10;
    let clip_blocks = (0..40).map(|i| Block::new(format!("l{i}"), "linear", tenth)).collect();
    let clip = ComponentBlocks::new("clip", clip_blocks, 0).unwrap();
    let components = [
        (m10(), virtual_vram("cuda:0", 8.0, "cuda:1")),
        (clip, virtual_vram("cuda:1", 2.0, "cpu")),
    ];
    let mut ledger = machine("cuda:0=8GiB,cuda:1=16GiB,cpu=64GiB");
    let plans = plan_model("sdxl", &components, &mut ledger).unwrap();
    assert_eq!(on(&plans[0], "cuda:0"), "b8 b9");
    assert_eq!(plans[0].bytes_on(id("cuda:1")), 8 * GIB);
    assert_eq!(plans[1].bytes_on(id("cpu")), 20 * tenth);
    assert_eq!(plans[1].bytes_on(id("cuda:1")), 20 * tenth);
    assert!(plans.iter().all(|plan| plan.fits && plan.warnings.is_empty()));
    assert_eq!(ledger.promised(id("cuda:1")), 8 * GIB + 20 * tenth);
}

/// The node's document: 70 % and 30 % of the diffusion model, the text encoders in halves.
#[test]
fn the_documents_ratio_example() {
    for layout in [Layout::Distorch2, Layout::Interleave] {
        let with = |text| ComponentSettings { layout: layout.into(), ..expert("cuda:0", text) };
        let byte_blocks = |name: &str, count: usize| {
            let blocks = (0..count).map(|i| Block::new(format!("b{i}"), "linear", 1)).collect();
            ComponentBlocks::new(name, blocks, 0).unwrap()
        };
        // Blocks of one byte show the shares themselves: 700.7 and 300.3 bytes, 500.5 twice.
        let components = [
            (byte_blocks("unet", 1001), with("cuda:0,70%;cuda:1,30%")),
            (byte_blocks("clip", 1001), with("cuda:1,50%;cpu,50%")),
        ];
        let mut ledger = machine("cuda:0=8GiB,cuda:1=6GiB,cpu=16GiB");
        let plans = plan_model("sdxl", &components, &mut ledger).unwrap();
        let bytes = |plan: &Plan, device: &str| plan.bytes_on(id(device));
        assert_eq!((bytes(&plans[0], "cuda:0"), bytes(&plans[0], "cuda:1")), (701, 300));
        assert_eq!((bytes(&plans[1], "cuda:1"), bytes(&plans[1], "cpu")), (501, 500));
        assert!(plans.iter().all(|plan| plan.devices.iter().all(|s| s.simulated)));
    }
}

#[test]
fn what_is_promised_to_one_model_is_not_free_for_another() {
    let mut ledger = machine("cuda:0=24GiB,cuda:1=6GiB,cpu=64GiB");
    let settings = virtual_vram("cuda:0", 4.0, "cuda:1");
    plan_model("first", &[(m10(), settings.clone())], &mut ledger).unwrap();
    assert_eq!(ledger.available(id("cuda:1")), 2 * GIB);
    let second = &plan_model("second", &[(m10(), settings.clone())], &mut ledger).unwrap()[0];
    assert_eq!(second.bytes_on(id("cuda:1")), 2 * GIB);
    assert!(matches!(
        &second.warnings[..],
        [PlanWarning::NoRoom { asked, taken, .. }] if (*asked, *taken) == (4 * GIB, 2 * GIB)
    ));
    assert_eq!(ledger.release("first"), 10 * GIB);
    assert_eq!(ledger.available(id("cuda:1")), 4 * GIB);
    // Planning a model again replaces what it had.
    let again = plan_model("second", &[(m10(), settings)], &mut ledger).unwrap();
    assert_eq!(again[0].bytes_on(id("cuda:1")), 4 * GIB);
    assert_eq!(ledger.promised(id("cuda:1")), 4 * GIB);
}

#[test]
fn auto_is_the_least_that_fits() {
    let small = machine("cuda:0=8GiB,cpu=64GiB");
    let model = ComponentBlocks::new("unet", m10().blocks().to_vec(), GIB / 2).unwrap();
    let auto =
        ComponentSettings { virtual_vram: VirtualVram::Auto, ..virtual_vram("cuda:0", 0.0, "cpu") };
    // 8 GiB less 0.5 for activations and 2 for the window leave room for five blocks.
    let plan = placed(&model, &auto, &small);
    assert!(plan.fits);
    assert_eq!(plan.virtual_vram_gb.unwrap().to_string(), "5");
    assert_eq!(plan.peak_bytes, 7 * GIB + GIB / 2);
    let roomy = placed(&model, &auto, &p());
    assert_eq!(roomy.virtual_vram_gb.unwrap().to_string(), "0");

    let too_little = placed(&model, &virtual_vram("cuda:0", 4.9, "cpu"), &small);
    assert!(!too_little.fits);
    let [PlanWarning::DoesNotFit { least_virtual_vram_gb: Some(least), .. }] =
        &too_little.warnings[..]
    else {
        panic!("{:?}", too_little.warnings)
    };
    assert_eq!(least.to_string(), "5");

    let none = placed(&model, &auto, &machine("cuda:0=2GiB,cpu=64GiB"));
    let warning = none.warnings.last().unwrap().to_string();
    assert!(!none.fits && warning.contains("no virtual VRAM fits"), "{warning}");
}

#[test]
fn an_auto_component_yields_to_the_others() {
    let mut ledger = machine("cuda:0=8GiB,cpu=64GiB");
    let auto =
        ComponentSettings { virtual_vram: VirtualVram::Auto, ..virtual_vram("cuda:0", 0.0, "cpu") };
    let vae = ComponentBlocks::new("vae", vec![Block::new("conv", "conv", 2 * GIB)], 0).unwrap();
    let components = [(m10(), auto), (vae, ComponentSettings::new(id("cuda:0")))];
    let plans = plan_model("sdxl", &components, &mut ledger).unwrap();
    assert_eq!((plans[0].component.as_str(), plans[1].component.as_str()), ("unet", "vae"));
    assert_eq!(plans[0].virtual_vram_gb.unwrap().to_string(), "6");
    assert!(plans.iter().all(|plan| plan.fits));
}

#[test]
fn a_donor_without_a_block_is_named() {
    let plan = placed(&m10(), &expert("cuda:0", "cuda:1,5%;cpu,95%"), &p());
    let warning = plan.warnings[0].to_string();
    assert!(warning.starts_with("cuda:1 was to hold 512.00 MiB and holds nothing"), "{warning}");
}

#[test]
fn unknown_devices_are_errors() {
    let compute = plan(&m10(), &ComponentSettings::new(id("cuda:5")), &p()).unwrap_err();
    assert!(compute.to_string().contains("compute device: no device `cuda:5`; present: cuda:0"));
    let donor = plan(&m10(), &virtual_vram("cuda:0", 1.0, "vulkan:0"), &p()).unwrap_err();
    assert!(matches!(donor, PlanError::Donor { .. }));
    let twice = [(m10(), ComponentSettings::new(id("cuda:0")))];
    let twice = [twice[0].clone(), twice[0].clone()];
    let mut ledger = p();
    let error = plan_model("m", &twice, &mut ledger).unwrap_err();
    assert_eq!(error, PlanError::DuplicateComponent("unet".to_owned()));
    assert_eq!(ledger.promises().count(), 0);
}

#[test]
fn unordered_donors_are_asked_by_bandwidth() {
    let fast = machine("cuda:0=24GiB,cuda:1=8GiB@3GB/s,cuda:2=2GiB@50GB/s,cpu=64GiB@25GB/s");
    let mut settings = virtual_vram("cuda:0", 4.0, "cpu");
    settings.donors = Donors::auto();
    let plan = placed(&m10(), &settings, &fast);
    assert_eq!(plan.bytes_on(id("cuda:2")), 2 * GIB);
    assert_eq!(plan.bytes_on(id("cpu")), 2 * GIB);
    assert_eq!(plan.bytes_on(id("cuda:1")), 0);
}

#[test]
fn interleave_spreads_what_leaves_over_the_use_order() {
    let settings = ComponentSettings {
        layout: Layout::Interleave.into(),
        ..virtual_vram("cuda:0", 5.0, "cpu")
    };
    let plan = placed(&m10(), &settings, &p());
    assert_eq!(on(&plan, "cpu"), "b1 b3 b5 b7 b9");
    let turned: Vec<Block> = (0..10)
        .map(|i| Block { use_index: Some(9 - i), ..Block::new(format!("b{i}"), "linear", GIB) })
        .collect();
    let turned = ComponentBlocks::new("unet", turned, 0).unwrap();
    assert_eq!(on(&placed(&turned, &settings, &p()), "cpu"), "b0 b2 b4 b6 b8");
}

//! `distorch bench link`: how fast bytes go from the host to a device and back.

use distorch_bench::link::{self, Link};

use super::{listed, open};
use crate::args::{LinkArgs, Shared};
use crate::commands::{Table, print_json, print_text};
use crate::error::CliError;

/// Times copies in both directions.
pub fn run(shared: &Shared, args: &LinkArgs) -> Result<(), CliError> {
    let (info, _) = listed(shared, &args.device)?;
    if info.simulated {
        return Err(CliError::usage(format!(
            "`--device {}` is simulated: its link is as fast as it was declared to be",
            args.device
        )));
    }
    let device = open(&info)?;
    let mut link = link::measure(&info, &device, (args.mib as usize) << 20, args.copies)?;
    link.device.clone_from(&args.device);
    if args.json { print_json(&link) } else { print_text(&text(&link)) }
}

fn text(link: &Link) -> String {
    let header = ["Direction", "Through", "Best", "Speed"];
    let mut rows = Table::new(header, &[2, 3]);
    for copies in &link.copies {
        rows.add_row([
            copies.direction.to_owned(),
            if copies.pinned { "pinned memory" } else { "pageable memory" }.to_owned(),
            format!("{:.2} ms", copies.min_seconds * 1e3),
            format!("{:.2} GB/s", copies.bytes_per_second / 1e9),
        ]);
    }
    format!("{}, copies of {} MiB\n{rows}", link.device, link.bytes >> 20)
}

//! `distorch devices`.

use distorch_allocation::{ByteSize, report};

use super::{Table, print_json, print_text};
use crate::args::{DevicesArgs, Shared};
use crate::error::CliError;
use crate::machine;

/// Prints the devices as a table or as JSON, and notes on what keeps others away.
pub fn run(shared: &Shared, args: &DevicesArgs) -> Result<(), CliError> {
    let survey = machine::survey(shared)?;
    if args.json {
        return print_json(&survey);
    }
    let header = ["Device", "Hardware", "Total", "Free", "Link", "Interface", "Computes in"];
    let mut devices = Table::new(header, &[2, 3, 4]).optional(&[6, 5, 4]).unbroken(&[0]);
    for device in &survey.devices {
        let info = &device.info;
        devices.add_row([
            report::device_name(info.id, info.simulated),
            info.name.clone(),
            ByteSize(info.total).to_string(),
            ByteSize(info.free).to_string(),
            info.bandwidth.map_or_else(|| "-".to_owned(), link),
            device.api.clone(),
            device.dtypes.join(" "),
        ]);
    }
    print_text(&devices.to_string())?;
    for note in &survey.notes {
        tell!("note: {note}");
    }
    survey.warnings.iter().for_each(|warning| machine::warn(warning));
    Ok(())
}

/// Bytes a second, in the decimal units of links.
fn link(bytes: u64) -> String {
    format!("{} GB/s", bytes as f64 / 1e9)
}

//! `distorch devices`.

use comfy_table::{CellAlignment, Table};
use distorch_allocation::ByteSize;

use super::{print_json, print_text, table};
use crate::args::{DevicesArgs, Shared};
use crate::failure::Failure;
use crate::machine;

/// Prints the devices as a table or as JSON, and notes on what keeps others away.
pub fn run(shared: &Shared, args: &DevicesArgs) -> Result<(), Failure> {
    let survey = machine::survey(shared)?;
    if args.json {
        return print_json(&survey);
    }
    let mut devices =
        table(["Device", "Hardware", "Total", "Free", "Link", "Interface", "Computes in"]);
    for device in &survey.devices {
        let info = &device.info;
        let name =
            if info.simulated { format!("{} (simulated)", info.id) } else { info.id.to_string() };
        devices.add_row([
            name,
            info.name.clone(),
            ByteSize(info.total).to_string(),
            ByteSize(info.free).to_string(),
            info.bandwidth.map_or_else(|| "-".to_owned(), link),
            device.api.clone(),
            device.dtypes.join(" "),
        ]);
    }
    align_right(&mut devices, &[2, 3, 4]);
    print_text(&devices.to_string())?;
    for note in &survey.notes {
        anstream::eprintln!("note: {note}");
    }
    Ok(())
}

/// Bytes a second, in the decimal units of links.
fn link(bytes: u64) -> String {
    format!("{} GB/s", bytes as f64 / 1e9)
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

//! Tables that fit the terminal.

use std::fmt;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement};
use unicode_width::UnicodeWidthStr;

use crate::terminal;

/// A table whose least important columns are left out where the terminal is too narrow for all.
pub struct Table<const N: usize> {
    header: [&'static str; N],
    numbers: &'static [usize],
    optional: &'static [usize],
    unbroken: &'static [usize],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table without rows; the columns of `numbers` are right-aligned and never broken.
    pub fn new(header: [&'static str; N], numbers: &'static [usize]) -> Self {
        Self { header, numbers, optional: &[], unbroken: &[], rows: Vec::new() }
    }

    /// The columns that may be left out, the first one first.
    pub fn optional(self, optional: &'static [usize]) -> Self {
        Self { optional, ..self }
    }

    /// The columns whose cells stay on one line, besides numbers.
    pub fn unbroken(self, unbroken: &'static [usize]) -> Self {
        Self { unbroken, ..self }
    }

    /// Adds a row.
    pub fn add_row(&mut self, cells: [impl Into<String>; N]) {
        self.rows.push(cells.map(Into::into));
    }

    /// The table in at most so many columns of text, as far as that is possible.
    pub fn fit(&self, columns: Option<usize>) -> String {
        let Some(columns) = columns else { return self.draw(&[true; N], None) };
        let mut kept = [true; N];
        let optional = || self.optional.iter().copied().filter(|&column| column < N);
        for column in optional() {
            if self.width(&kept) <= columns {
                break;
            }
            kept[column] = false;
        }
        // The last one may have made room for narrower ones.
        for column in optional().rev() {
            let more: [bool; N] = std::array::from_fn(|at| kept[at] || at == column);
            if self.width(&more) <= columns {
                kept = more;
            }
        }
        let narrow = self.width(&kept) > columns;
        self.draw(&kept, narrow.then_some(columns))
    }

    /// Columns of text of the whole table: a border and a space on either side of each cell.
    fn width(&self, kept: &[bool; N]) -> usize {
        let kept = (0..N).filter(|&column| kept[column]);
        1 + kept.map(|column| self.column_width(column) + 3).sum::<usize>()
    }

    fn column_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].as_str());
        let lines = cells.flat_map(str::lines).chain([self.header[column]]);
        lines.map(UnicodeWidthStr::width).max().unwrap_or(0)
    }

    /// Draws the columns that are kept, with cells broken into lines where the width is limited.
    fn draw(&self, kept: &[bool; N], columns: Option<usize>) -> String {
        let kept: Vec<usize> = (0..N).filter(|&column| kept[column]).collect();
        let mut table = comfy_table::Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header(kept.iter().map(|&column| self.header[column]));
        for row in &self.rows {
            table.add_row(kept.iter().map(|&column| row[column].as_str()));
        }
        if let Some(columns) = columns {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
        }
        for (place, original) in kept.into_iter().enumerate() {
            let Some(column) = table.column_mut(place) else { continue };
            let number = self.numbers.contains(&original);
            if number {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if number || self.unbroken.contains(&original) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.to_string()
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fit(terminal::columns()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Table<4> {
        let mut table = Table::new(["Kind", "Name", "Size", "Folder"], &[2]).optional(&[3, 0]);
        table.add_row(["checkpoints", "a-model.safetensors", "1.99 GiB", "/models/checkpoints"]);
        table
    }

    fn widest(text: &str) -> usize {
        text.lines().map(UnicodeWidthStr::width).max().unwrap_or(0)
    }

    #[test]
    fn columns_go_in_their_order() {
        let whole = files().fit(None);
        assert_eq!(widest(&whole), 1 + 14 + 22 + 11 + 22);
        assert_eq!(files().fit(Some(70)), whole);
        let without_folder = files().fit(Some(69));
        assert_eq!(widest(&without_folder), 48);
        assert!(!without_folder.contains("Folder") && without_folder.contains("checkpoints"));
        let least = files().fit(Some(40));
        assert_eq!(widest(&least), 34);
        assert!(!least.contains("Kind") && least.contains("a-model.safetensors"));
    }

    #[test]
    fn a_wide_column_that_goes_makes_room_for_narrow_ones() {
        let mut table = Table::new(["Device", "Hardware", "Link"], &[]).optional(&[2, 1]);
        table.add_row(["cuda:0", "a name of thirty letters or so", "6 GB/s"]);
        let text = table.fit(Some(30));
        assert!(text.contains("6 GB/s") && !text.contains("thirty"), "{text}");
    }

    #[test]
    fn what_cannot_be_left_out_is_broken_into_lines() {
        let text = files().fit(Some(28));
        assert!(widest(&text) <= 28, "{text}");
        // Numbers stay whole.
        assert!(text.contains("1.99 GiB"), "{text}");
    }
}

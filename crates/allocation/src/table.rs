//! Tables that fit the width of a terminal: where it is narrow, whole columns are left out, the least
//! important first.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement};

/// A column of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    right: bool,
    /// How soon it is left out: 0 never, the highest first.
    rank: u8,
}

impl Column {
    /// A column of text that is always there.
    pub const fn text(name: &'static str) -> Column {
        Column { name, right: false, rank: 0 }
    }

    /// A column of numbers that is always there.
    pub const fn number(name: &'static str) -> Column {
        Column { name, right: true, rank: 0 }
    }

    /// The same column, left out where there is too little room: the one of the highest rank first.
    pub const fn optional(self, rank: u8) -> Column {
        Column { rank, ..self }
    }
}

/// A table of text.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row, a cell for each column.
    pub fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table with as many of its columns as fit into `width`; with all of them without one. Where
    /// not even those that are always there fit, their cells are broken into lines.
    pub fn fit(&self, width: Option<usize>) -> String {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let rank = |&index: &usize| self.columns.get(index).map_or(0, |column| column.rank);
        loop {
            let table = self.render(&shown);
            let text = table.to_string();
            let is = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            let Some(width) = width.filter(|&width| is > width) else { return text };
            // Of equals, the last one.
            let least = shown.iter().enumerate().max_by_key(|(_, index)| rank(index));
            match least.filter(|(_, index)| rank(index) > 0).map(|(place, _)| place) {
                Some(place) => drop(shown.remove(place)),
                None => return broken(table, width),
            }
        }
    }

    fn render(&self, shown: &[usize]) -> comfy_table::Table {
        let columns: Vec<Column> =
            shown.iter().filter_map(|&index| self.columns.get(index).copied()).collect();
        let mut table = comfy_table::Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(columns.iter().map(|c| c.name));
        for row in &self.rows {
            let cell = |&index: &usize| row.get(index).map_or("", String::as_str);
            table.add_row(shown.iter().map(cell));
        }
        for (column, shown) in table.column_iter_mut().zip(&columns) {
            if shown.right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

fn broken(mut table: comfy_table::Table, width: usize) -> String {
    let width = u16::try_from(width).unwrap_or(u16::MAX);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width).to_string()
}

/// A sentence in lines of at most `width` characters, broken between words; as it is without a width.
/// A word that is longer has a line of its own.
pub fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let mut lines: Vec<String> = Vec::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if used + 1 + length <= width => {
                line.push(' ');
                line.push_str(word);
                used += 1 + length;
            }
            _ => {
                lines.push(word.to_owned());
                used = length;
            }
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            Column::text("device"),
            Column::number("share").optional(2),
            Column::number("blocks").optional(1),
            Column::number("bytes"),
            Column::text("name").optional(2),
        ]);
        table.add_row(["cuda:0", "1.00 GiB", "12", "0.50 GiB", "A card"].map(str::to_owned));
        table
    }

    fn header(width: Option<usize>) -> Vec<String> {
        let text = table().fit(width);
        let line = text.lines().nth(1).unwrap();
        line.split(['│', '┆'])
            .map(|cell| cell.trim().to_owned())
            .filter(|c| !c.is_empty())
            .collect()
    }

    #[test]
    fn columns_leave_by_rank_and_the_last_of_equals_first() {
        let all = table().fit(None);
        let full = all.lines().next().unwrap().chars().count();
        assert_eq!(table().fit(Some(full)), all);
        assert_eq!(header(None), ["device", "share", "blocks", "bytes", "name"]);
        assert_eq!(header(Some(full - 1)), ["device", "share", "blocks", "bytes"]);
        assert_eq!(header(Some(35)), ["device", "blocks", "bytes"]);
        assert_eq!(header(Some(25)), ["device", "bytes"]);
        for width in 12..80 {
            let text = table().fit(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
    }

    #[test]
    fn sentences_break_between_words() {
        assert_eq!(wrapped("one two three", None), "one two three");
        assert_eq!(wrapped("one two three", Some(7)), "one two\nthree");
        assert_eq!(wrapped("a very-long-word b", Some(4)), "a\nvery-long-word\nb");
    }
}

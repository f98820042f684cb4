//! Columns that line up, for people.

use std::io;

use crate::output::Output;

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table: a line for its head, then one for each row. Columns are two spaces apart, and as wide as
/// their widest cell. Of the last one at most 80 characters are shown.
pub(crate) struct Table<const N: usize> {
    columns: [Align; N],
    rows: Vec<[String; N]>,
}

const LAST_CHARS_MAX: usize = 80;

impl<const N: usize> Table<N> {
    pub(crate) fn new(head: [(&str, Align); N]) -> Self {
        let names = head.map(|(name, _)| name.to_owned());
        Self { columns: head.map(|(_, align)| align), rows: vec![names] }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        let mut cells = cells.map(plain);
        if let Some(last) = cells.last_mut() {
            cut(last);
        }
        self.rows.push(cells);
    }

    /// Prints it.
    pub(crate) fn show(&self, output: &Output) -> io::Result<()> {
        self.lines().try_for_each(|line| output.line(line))
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        self.rows.iter().map(move |row| {
            let cells = row.iter().zip(widths).zip(self.columns);
            let cells: Vec<String> = cells
                .map(|((cell, width), align)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
    }
}

/// A cell on one line, without characters that steer a terminal.
fn plain(cell: String) -> String {
    if cell.contains(char::is_control) { cell.replace(char::is_control, " ") } else { cell }
}

fn cut(cell: &mut String) {
    if cell.chars().count() > LAST_CHARS_MAX {
        *cell = cell.chars().take(LAST_CHARS_MAX - 1).chain(['…']).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table =
            Table::new([("NAME", Align::Left), ("COUNT", Align::Right), ("", Align::Left)]);
        table.row(["é".into(), "12345678".into(), "x".into()]);
        table.row(["long\nname".into(), "1".into(), String::new()]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines, ["NAME          COUNT", "é          12345678  x", "long name         1"]);
    }

    #[test]
    fn a_long_last_cell_is_cut() {
        let mut table = Table::new([("X", Align::Left)]);
        table.row(["é".repeat(100)]);
        table.row(["é".repeat(LAST_CHARS_MAX)]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[1], format!("{}…", "é".repeat(LAST_CHARS_MAX - 1)));
        assert_eq!(lines[2], "é".repeat(LAST_CHARS_MAX));
    }
}

//! Text tables.

use std::fmt::Write as _;

/// Writes a table. The first `names` columns are left-aligned names, the last column is a remark, and the
/// others are right-aligned numbers. A row has one cell per heading.
pub(super) fn write_table(text: &mut String, names: usize, headings: &[&str], rows: &[Vec<String>]) {
    let heading: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    let rows = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| {
        rows().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len().saturating_sub(1)).map(width).collect();
    for row in rows() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column < names {
                write!(line, "{cell:<width$} ")
            } else {
                write!(line, " {cell:>width$}")
            };
        }
        let remark = row.get(widths.len()).map_or("", String::as_str);
        let _ = writeln!(text, "{}", format!("{line}  {remark}").trim_end());
    }
}

//! Columns.

use super::out;

/// Rows under their titles, each column as wide as its widest cell.
pub fn print(titles: &[&str], rows: &[Vec<String>]) {
    out::text(&text(titles, rows));
}

/// One row's JSON values, indented.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    out::line(format_args!("{}", serde_json::to_string_pretty(value)?));
    Ok(())
}

fn text(titles: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let all = || std::iter::once(&titles).chain(rows);
    let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..titles.len()).filter_map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("   ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "bb".to_owned()], vec!["cccccc".to_owned(), String::new()]];

        assert_eq!(text(&["NAME", "ID"], &rows), "NAME     ID\na        bb\ncccccc\n");
    }
}

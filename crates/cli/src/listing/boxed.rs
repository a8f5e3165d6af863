//! Tables in boxes of ASCII characters.

/// A table whose header is in capital letters. `numbers` are the columns that are aligned to the right. No line feed at its
/// end.
pub fn boxed(header: &[&str], numbers: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|name| name.to_uppercase()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let rule: String = widths
        .iter()
        .map(|width| format!("+{}", "-".repeat(width + 2)))
        .collect();
    let mut text = format!("{rule}+\n");
    for (at, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            match numbers.contains(&column) {
                true => text.push_str(&format!("| {cell:>width$} ")),
                false => text.push_str(&format!("| {cell:<width$} ")),
            }
        }
        text.push_str("|\n");
        if at == 0 {
            text.push_str(&format!("{rule}+\n"));
        }
    }
    text + &rule + "+"
}

//! Columns that are filled with spaces, one space between them.

/// Lines of cells, each as wide as the widest of its column; the last cell of a line is not filled. Every line ends with a
/// line feed.
pub fn tabbed(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        // The last cell of a line does not widen its column.
        let cells = lines.iter().filter(|line| column + 1 < line.len());
        cells.map(|line| line[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths).take(line.len().saturating_sub(1)) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 1 - cell.chars().count()));
        }
        text.push_str(line.last().map(String::as_str).unwrap_or_default());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let lines = [
            ["name", "modified", "x"],
            ["base_é", "now", "a long one"],
            ["b", "", ""],
        ];
        let lines = lines.map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(
            tabbed(&lines),
            "name   modified x\nbase_é now      a long one\nb               \n"
        );
        assert_eq!(tabbed(&[]), "");
    }
}

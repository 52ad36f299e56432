//! Tables as the commands print them: columns as wide as their widest cell. Pure.
//!
//! Knows nothing of what is in the cells.

/// Is a row of a table: its cells, and under them why the thing is not ok, and what else is to be known.
pub(super) struct Row<'a> {
    pub(super) cells: Vec<String>,
    pub(super) cause: Option<&'a str>,
    pub(super) note: Option<&'a str>,
}

/// Writes a table with columns as wide as their widest cell; nothing where there are no rows.
pub(super) fn table(text: &mut String, titles: &[&str], rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let width = |(column, title): (usize, &&str)| {
        let cells = rows.iter().filter_map(|row| row.cells.get(column));
        cells.map(|cell| cell.chars().count()).fold(title.len(), usize::max)
    };
    let widths: Vec<usize> = titles.iter().enumerate().map(width).collect();
    line(text, "");
    cells(text, titles, &widths);
    for row in rows {
        cells(text, &row.cells, &widths);
        for below in [row.cause, row.note].into_iter().flatten() {
            line(text, &format!("  {below}"));
        }
    }
}

fn cells(text: &mut String, cells: &[impl AsRef<str>], widths: &[usize]) {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{:width$}", cell.as_ref())).collect();
    line(text, padded.join("  ").trim_end());
}

pub(super) fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

//! Results on stdout: aligned tables for people, JSON and YAML for scripts.
use crate::args::Format;
use crate::context::Context;
use crate::failure::Outcome;
use protocol::Fault;
use protocol::text::{is_plain, plain, plain_lines};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;

impl Context {
    /// Prints a result in the form asked for; `text` is made only when it is a table.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Outcome {
        let printed = match self.format() {
            Format::Table => text(),
            Format::Json => escaped(&serde_json::to_string_pretty(value).map_err(|error| unprintable(&error))?) + "\n",
            Format::Yaml => serde_saphyr::to_string(value).map_err(|error| unprintable(&error))?,
        };
        print(&printed)?;
        Ok(0)
    }
    /// Progress and notices, for people: on stderr, and not with `--quiet`.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.is_quiet() {
            eprintln!("{}", plain_lines(line.as_ref(), usize::MAX));
        }
    }
}

fn unprintable(error: &dyn std::fmt::Display) -> Fault {
    Fault::internal(format!("the result cannot be printed: {error}"))
}

/// JSON with every character that does more than show as an escape: serde_json leaves U+009B and the marks of direction
/// as they are. They stand in strings only, so it is the same JSON.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if c == '\n' || is_plain(c) {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            let _ = write!(text, "\\u{unit:04x}");
        }
    }
    text
}

/// To stdout. A reader that has seen enough (`| head`) is no failure, but there is no point in going on.
pub fn print(text: &str) -> Result<(), Fault> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Fault::internal(format!("cannot write to stdout: {error}"))),
    }
}

/// Columns as wide as their widest cell, two spaces apart, none after the last. A cell is one line, whoever wrote it.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let one_line = |cell: &String| plain(cell, usize::MAX);
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(one_line).collect()).collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([head[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(row, "{cell:<width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Names and values, one a line; those without a value are left out.
pub fn fields(rows: &[(&str, Option<String>)]) -> String {
    let present: Vec<(&str, &str)> = rows.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let width = present.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (name, value) in present {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<width$} {}", plain_lines(value, usize::MAX));
    }
    text
}

/// As exact as a forecast should be.
pub fn seconds(ms: u64) -> String {
    let secs = ms as f64 / 1000.0;
    if secs < 9.95 { format!("{secs:.1} s") } else { format!("{secs:.0} s") }
}

/// What is not there.
pub fn dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `1.5 GiB`, for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (count as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// A list in a cell: its first few, and how many more there are.
pub fn some_of<T: ToString>(items: &[T], most: usize) -> String {
    let mut shown: Vec<String> = items.iter().take(most).map(T::to_string).collect();
    if items.len() > most {
        shown.push(format!("+{}", items.len() - most));
    }
    if shown.is_empty() { "-".to_owned() } else { shown.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_drives_no_terminal() {
        let evil = "a\u{1b}[2J\u{9b}m\u{202e}b\nc";
        assert_eq!(table(&["N"], &[vec![evil.into()]]), "N\na\u{fffd}[2J\u{fffd}m\u{fffd}b c\n");
        assert!(!fields(&[("n", Some(evil.into()))]).contains(['\u{1b}', '\u{9b}', '\u{202e}']));
        let json = serde_json::to_string_pretty(&[evil, "\u{e0041}"]).unwrap();
        assert!(escaped(&json).chars().all(|c| c == '\n' || is_plain(c)));
        assert_eq!(serde_json::from_str::<Vec<String>>(&escaped(&json)).unwrap(), [evil, "\u{e0041}"]);
    }

    #[test]
    fn columns_align_and_lines_have_no_tail() {
        let rows =
            [vec!["web".to_owned(), "running".to_owned(), "-".to_owned()], vec!["ü".into(), "x".into(), "y".into()]];
        assert_eq!(table(&["NAME", "STATUS", "P"], &rows), "NAME  STATUS   P\nweb   running  -\nü     x        y\n");
        assert_eq!(fields(&[("a", Some("1".into())), ("long", None), ("bcd", Some("2".into()))]), "a:   1\nbcd: 2\n");
        assert_eq!((bytes(512), bytes(3 << 29)), ("512 B".into(), "1.5 GiB".into()));
        assert_eq!(some_of(&["a", "b", "c"], 2), "a,b,+1");
    }
}

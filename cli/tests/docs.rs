//! The documents against the code: links lead somewhere, every error code is explained, every bound is as it is said.
use protocol::ErrorCode;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every document of the project, as a path from its root.
fn documents() -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(root().join(&dir)).unwrap().flatten() {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), dir.join(entry.file_name()));
            let built = dir == Path::new("") && ["target", "out"].contains(&name.as_str());
            match entry.file_type().unwrap().is_dir() {
                true if !built && !name.starts_with('.') => dirs.push(path),
                false if name.ends_with(".md") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// The lines that are not inside a fenced block.
fn prose(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let fence = |line: &&str| {
        let mark = line.trim_start().starts_with("```");
        fenced ^= mark;
        !fenced && !mark
    };
    text.lines().filter(fence).collect()
}

fn headings(text: &str) -> impl Iterator<Item = &str> {
    prose(text).into_iter().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim())
}

/// What a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The cells of each row that has as many as `cells`.
fn rows(text: &str, cells: usize) -> Vec<Vec<&str>> {
    let inner = text.lines().filter_map(|line| line.strip_prefix('|')?.trim_end().strip_suffix('|'));
    inner.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>()).filter(|row| row.len() == cells).collect()
}

fn backticked(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(root().join(&document)).unwrap();
        for line in prose(&text) {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (path, section) = link.split_once('#').unwrap_or((link, ""));
                let target = match path {
                    "" => root().join(&document),
                    _ => root().join(&document).parent().unwrap().join(path),
                };
                let found = match section {
                    "" => target.exists(),
                    _ => {
                        std::fs::read_to_string(&target).is_ok_and(|text| headings(&text).any(|h| anchor(h) == section))
                    }
                };
                if !found {
                    wrong.push(format!("{}: {link}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these lead nowhere: {wrong:#?}");
}

#[test]
fn every_error_code_is_explained_and_no_other() {
    let text = read("docs/troubleshooting.md");
    let known: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    let is_code = |word: &&str| word.split_once('_').is_some_and(|(_, n)| n.len() == 3 && n.parse::<u16>().is_ok());
    let explained: Vec<&str> = headings(&text).filter_map(|h| h.split([' ', ':']).next()).filter(is_code).collect();
    assert_eq!(explained.iter().copied().collect::<BTreeSet<_>>(), known);
    assert_eq!(explained.len(), known.len(), "one heading for each");
    // The table of codes: code, meaning, exit code, HTTP status.
    let table = rows(&text, 4);
    for code in ErrorCode::ALL {
        let row = table.iter().find(|row| row[0].contains(code.as_str())).unwrap_or_else(|| panic!("no row of {code}"));
        let expected = [code.meaning(), &code.exit_code().to_string(), &code.http_status().to_string()];
        assert_eq!(row[1..], expected, "{code}");
    }
}

/// What an expression of the code, or a word of a document, amounts to: bytes, milliseconds or a count.
fn amount(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Some((call, rest)) = text.split_once('(') {
        let unit = match call.rsplit("::").next()? {
            "secs" | "from_secs" => 1000.0,
            "from_millis" | "Millis" | "millis" => 1.0,
            _ => return None,
        };
        return Some(amount(rest.strip_suffix(')')?)? * unit);
    }
    if let Some((left, right)) = text.split_once('*') {
        return Some(amount(left)? * amount(right)?);
    }
    if let Some((left, right)) = text.split_once("<<") {
        return Some(amount(left)? * amount(right)?.exp2());
    }
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let unit = match unit {
        "" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "ms" => 1.0,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    Some(number.replace('_', "").parse::<f64>().ok()? * unit)
}

#[test]
fn every_bound_is_as_it_is_said() {
    // The tables of bounds: constant, value, file, what happens at it.
    let text = read("docs/security.md");
    let bounds: Vec<_> = rows(&text, 4).into_iter().filter(|row| row[0].starts_with('`')).collect();
    assert!(bounds.len() > 50, "the tables were not found: {} rows", bounds.len());
    let mut wrong = Vec::new();
    for row in bounds {
        let (name, file) = (row[0].trim_matches('`'), row[2].trim_matches('`'));
        let source = read(file);
        let declared = source.lines().find_map(|line| {
            let (_, rest) = line.split_once(&format!("const {name}:"))?;
            Some(rest.split_once('=')?.1.trim().trim_end_matches(';'))
        });
        match declared {
            None => wrong.push(format!("{file} has no constant {name}")),
            Some(code) if amount(code).is_none() || amount(code) != amount(row[1]) => {
                wrong.push(format!("{name} is '{code}' in {file}, '{}' in the document", row[1]));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a peer can reach: each limit there has a row. One that is made of another constant stands in the text.
#[test]
fn every_limit_of_the_core_and_the_node_has_a_row() {
    let text = read("docs/security.md");
    let listed: BTreeSet<String> = rows(&text, 4).iter().map(|row| format!("{} {}", row[2], row[0])).collect();
    let mut missing = Vec::new();
    for file in sources().into_iter().filter(|file| file.starts_with("protocol/") || file.starts_with("node/")) {
        for line in read(&file).lines() {
            let Some((name, value)) = line.split_once("const MAX_").and_then(|(_, rest)| rest.split_once(": ")) else {
                continue;
            };
            let literal = value.split_once(" = ").is_some_and(|(_, code)| amount(code.trim_end_matches(';')).is_some());
            if literal && !listed.contains(&format!("`{file}` `MAX_{name}`")) {
                missing.push(format!("MAX_{name} of {file}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/security.md has no row for {missing:#?}");
}

/// Each promise names tests that are there.
#[test]
fn every_promise_has_its_tests() {
    let text = read("docs/security.md");
    let section = text.split("\n## Promises and their tests").nth(1).and_then(|rest| rest.split("\n## ").next());
    let promises = rows(section.expect("the section is there"), 3);
    let named: Vec<_> = promises.iter().filter(|row| row[1].starts_with('`')).collect();
    assert!(named.len() > 15, "the table was not found: {} rows", named.len());
    let holes = promises.iter().filter(|row| row[1].starts_with('`') && !row[0].is_empty()).count();
    assert_eq!(holes, 5, "each has tests");
    for row in named {
        let (test, file) = (row[1].trim_matches('`'), row[2].trim_matches('`'));
        let source = read(file);
        let (before, _) = source.split_once(&format!("fn {test}()")).unwrap_or_else(|| panic!("{file} has no {test}"));
        let mut marks = before.trim_end().lines().rev().take_while(|line| !line.trim().is_empty());
        let is_test = marks.any(|line| line.trim().starts_with("#[test]") || line.contains("::test"));
        assert!(is_test, "{test} of {file} is no test");
    }
}

/// The sources of all crates, as paths from the project's root, without what only tests.
fn sources() -> Vec<String> {
    let crates = ["protocol", "backends", "node", "cli", "simulations", "tests"];
    let mut dirs: Vec<String> = crates.iter().map(|name| format!("{name}/src")).collect();
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(root().join(&dir)).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let test = name == "tests" || name == "tests.rs" || name.ends_with("_tests.rs");
            match entry.file_type().unwrap().is_dir() {
                _ if test => {}
                true => dirs.push(format!("{dir}/{name}")),
                false if name.ends_with(".rs") => found.push(format!("{dir}/{name}")),
                false => {}
            }
        }
    }
    found
}

#[test]
fn the_code_map_is_that_of_the_code() {
    let text = read("ARCHITECTURE.md");
    // A heading such as `node/src/` says what the names below it begin with; a row's folder, what those in it do.
    let (mut section, mut named, mut wrong) = (String::new(), BTreeSet::new(), Vec::new());
    for line in prose(&text) {
        if line.starts_with('#') {
            section = backticked(line).next().unwrap_or_default().to_owned();
        }
        let mut folder = section.clone();
        for name in backticked(line).filter(|name| !name.contains([' ', '*', '{', '('])) {
            let places = [name.to_owned(), format!("{section}{name}"), format!("{folder}{name}")];
            let Some(place) = places.into_iter().find(|place| root().join(place).exists()) else {
                if name.ends_with(".rs") || name.ends_with('/') || name.ends_with(".sh") {
                    wrong.push(format!("{name} is not there"));
                }
                continue;
            };
            if name.ends_with('/') {
                folder = place.clone();
            }
            named.insert(place);
        }
    }
    let covers = |file: &str| named.iter().any(|name| name == file || is_inner(name) && file.starts_with(name));
    // A crate's own folder names nothing yet; one below it does.
    fn is_inner(name: &str) -> bool {
        name.ends_with('/') && name.matches('/').count() > 2 || name == "tests/src/"
    }
    wrong.extend(sources().into_iter().filter(|file| !covers(file)).map(|file| format!("{file} has no row")));
    assert!(wrong.is_empty(), "ARCHITECTURE.md: {wrong:#?}");
}

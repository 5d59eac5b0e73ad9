//! A peer's words, fit to be shown. They reach terminals, logs and lists, where some characters do more than show:
//! escape sequences drive the terminal, a line break forges a line, and marks of direction make a text read as another.

/// Stands where a character was that is not shown.
const REPLACEMENT: char = '\u{fffd}';

/// Whether a character is shown as itself and does nothing else.
pub fn is_plain(c: char) -> bool {
    let hidden = matches!(c,
        // Marks of direction, and what has no width or ends a line.
        '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        // Annotations and tags, which are not shown either.
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    // Control characters of both kinds: a terminal may take U+009B for ESC [.
    !hidden && !c.is_control()
}

fn shown(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => ' ',
        c if is_plain(c) => c,
        _ => REPLACEMENT,
    }
}

/// One line of at most so many characters.
pub fn plain(text: &str, most: usize) -> String {
    text.chars().take(most).map(shown).collect()
}

/// The same, and line breaks stay.
pub fn plain_lines(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c == '\n' { c } else { shown(c) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_more_than_show_is_replaced_and_the_rest_stays() {
        for c in ['\0', '\u{7}', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{9d}', '\u{202e}', '\u{2066}', '\u{200b}'] {
            assert_eq!(plain(&format!("a{c}b"), 9), "a\u{fffd}b", "{c:?}");
        }
        let good = "Grüße, 世界 – it's “fine” (100 %)";
        assert_eq!(plain(good, 99), good);
        assert_eq!((plain("a\nb\tc", 9), plain_lines("a\nb\tc", 9)), ("a b c".into(), "a\nb c".into()));
        assert_eq!(plain("äöü", 2), "äö");
    }
}

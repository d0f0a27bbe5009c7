//! Just enough of Rust's grammar to tell code from comments, literals and tests.

/// The lines of a file with comments and the insides of text and character literals blanked.
pub(crate) fn code_lines(text: &str) -> Vec<String> {
    let mut chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => line_end(&chars, at),
            ('/', Some('*')) => block_comment_end(&chars, at),
            ('"', _) => string_end(&chars, at + 1),
            ('r', _) if !continues_word(&chars, at) => match raw_string_end(&chars, at) {
                Some(end) => end,
                None => at,
            },
            ('\'', _) => char_end(&chars, at),
            _ => at,
        };
        for character in &mut chars[at..end] {
            if *character != '\n' {
                *character = ' ';
            }
        }
        at = end.max(at + 1);
    }
    chars.into_iter().collect::<String>().lines().map(str::to_owned).collect()
}

/// Which lines belong to an item under `#[cfg(test)]`.
pub(crate) fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    let mut line = 0;
    while line < code.len() {
        if code[line].trim_start().starts_with("#[cfg(test)]") {
            let end = item_end(code, line);
            test[line..=end].fill(true);
            line = end;
        }
        line += 1;
    }
    test
}

/// Whether `word` stands in `line` as a whole word.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}

/// The last line of the item that begins with the attribute on `start`: it ends with the brace that closes it, or with
/// a semicolon in front of any brace.
fn item_end(code: &[String], start: usize) -> usize {
    let mut depth = 0;
    for (offset, line) in code[start..].iter().enumerate() {
        for character in line.chars() {
            match character {
                '{' => depth += 1,
                '}' if depth == 1 => return start + offset,
                '}' => depth -= 1,
                ';' if depth == 0 => return start + offset,
                _ => {}
            }
        }
    }
    code.len() - 1
}

fn continues_word(chars: &[char], at: usize) -> bool {
    // `br"…"` is raw as well.
    let before = at.checked_sub(1).map(|at| chars[at]).filter(|&c| c != 'b');
    before.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |end: &usize| {
        chars[*end] == '"' && chars.len() > end + hashes && chars[end + 1..=end + hashes].iter().all(|&c| c == '#')
    };
    Some((open + 1..chars.len()).find(closes).map_or(chars.len(), |end| end + 1 + hashes))
}

/// The end of a character literal; `at` itself for a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let close = chars[at + 3..].iter().position(|&c| c == '\'');
            close.map_or(chars.len(), |length| at + 4 + length)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

#[test]
fn comments_and_literals_are_not_code() {
    let blank = |text: &str| code_lines(text).join("\n").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(blank("a(); // b()\n/* c() /* d() */ e() */ f();"), "a(); f();");
    assert_eq!(blank(r#"g("h() \" i()", 'j', '\'', '"', b"k"); l::<'a>("m")"#), "g( , , , , b ); l::<'a>( )");
    assert_eq!(blank("n(r\"o\\\", r#\"p \" q\"#, br\"s\"); for_r(x)"), "n( , , b ); for_r(x)");
    assert_eq!(code_lines("a\n\"b\nc\"\nd").len(), 4);
    assert_eq!(blank("x(\"\"); y('\\u{1F600}');"), "x( ); y( );");
}

#[test]
fn what_is_under_cfg_test_is_a_test() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests;\nfn b() {}\n#[cfg(test)]\nmod more {\n    fn c() { if d {} }\n}\nfn e() {}";
    let test = test_lines(&code_lines(text));
    assert_eq!(test, [false, true, true, false, true, true, true, true, false]);
}

#[test]
fn a_word_is_whole() {
    assert!(has_word("use tonic::Code;", "Code") && has_word("Code", "Code"));
    assert!(!has_word("ExitCode::FAILURE", "Code") && !has_word("Code_1", "Code"));
}

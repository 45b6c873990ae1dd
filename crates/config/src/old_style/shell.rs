//! The part of a shell's language that an old-style file may be written in: plain text.

use thiserror::Error;

/// What is wrong, and on which line; 0 is the file as a whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub line: usize,
    pub reason: String,
}

pub fn fault<T>(line: usize, reason: impl Into<String>) -> Result<T, Fault> {
    let reason = reason.into();
    Err(Fault { line, reason })
}

/// One variable and its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    pub line: usize,
    pub name: String,
    pub value: String,
}

/// Where in the file a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    /// In `if [ "$PROFILE" = "" ]`, on this line.
    Default(usize),
    /// In `case $PROFILE in`, on this line; in the branch that is meant, in another, or in none.
    Case(usize, Option<bool>),
}

/// The assignments of a file, in the branch of `case $PROFILE` that is meant.
pub fn parse(text: &str, profile: Option<&str>) -> Result<Vec<Assignment>, Fault> {
    let mut found: Vec<Assignment> = Vec::new();
    let mut place = Place::Top;
    let mut has_matched = false;
    let mut profile = profile.map(str::to_owned);
    for (number, line) in text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
    {
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return fault(number, "it holds a control character");
        }
        let line = line.trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match (place, words.as_slice()) {
            (_, []) => {}
            (_, [first, ..]) if first.starts_with('#') => {}
            (
                Place::Top,
                ["if", "[", r#""$PROFILE""#, "=", r#""""#, "]", ";", "then"]
                | ["if", "[", r#""$PROFILE""#, "=", r#""""#, "];", "then"],
            ) => {
                place = Place::Default(number);
            }
            (Place::Default(_), ["fi"]) | (Place::Case(_, None), ["esac"]) => place = Place::Top,
            (Place::Top, ["case", "$PROFILE" | r#""$PROFILE""#, "in"]) => {
                (place, has_matched) = (Place::Case(number, None), false);
            }
            (Place::Case(begun, None), [label]) if label.ends_with(')') => {
                let label = label.trim_end_matches(')');
                let Some(profile) = &profile else {
                    return fault(
                        number,
                        "it asks for PROFILE, which nothing sets; say --profile",
                    );
                };
                // As in a shell, the first branch that matches is the one.
                let is_meant = !has_matched && (label == "*" || label == profile);
                has_matched |= is_meant;
                place = Place::Case(begun, Some(is_meant));
            }
            (Place::Case(begun, Some(_)), [";;"]) => place = Place::Case(begun, None),
            (Place::Case(_, None), _) => {
                return fault(number, "a branch of case is expected here, as prod) is");
            }
            _ => {
                let assignment = assignment(number, line)?;
                match place {
                    Place::Default(_) if assignment.name != "PROFILE" => {
                        return fault(number, "only PROFILE can be set here");
                    }
                    Place::Default(_) => profile = profile.or(Some(assignment.value)),
                    Place::Case(_, Some(false)) => {}
                    _ if assignment.name == "PROFILE" => profile = Some(assignment.value),
                    _ => {
                        // The last one counts, as in a shell.
                        found.retain(|earlier| earlier.name != assignment.name);
                        found.push(assignment);
                    }
                }
            }
        }
    }
    match place {
        Place::Top => Ok(found),
        Place::Default(begun) => fault(begun, "this if has no fi"),
        Place::Case(begun, _) => fault(begun, "this case has no esac"),
    }
}

/// `NAME=VALUE`, with a comment behind it at most.
fn assignment(number: usize, line: &str) -> Result<Assignment, Fault> {
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let not_one = "it is no assignment; only NAME=VALUE is read, nothing is run";
    let Some((name, rest)) = line.split_once('=') else {
        return fault(number, not_one);
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(is_name)
    {
        return fault(number, not_one);
    }
    let value = plain_text(rest).map_err(|error| Fault {
        line: number,
        reason: format!("{name}: {error}; write plain text"),
    })?;
    Ok(Assignment {
        line: number,
        name: name.to_owned(),
        value,
    })
}

/// Why a value is not one word of plain text.
#[derive(Debug, PartialEq, Eq, Error)]
enum PlainTextError {
    #[error("a shell would put something in the place of it")]
    Substitution,
    #[error("it holds a backslash")]
    Backslash,
    #[error("there is something behind the value")]
    SecondWord,
    #[error("{character:?} needs quotes")]
    NeedsQuotes { character: char },
    #[error("a quote is not closed on its line")]
    OpenQuote,
}

/// What a shell would take for one word of plain text, without anything that it would replace.
fn plain_text(rest: &str) -> Result<String, PlainTextError> {
    let mut value = String::new();
    let mut quote = None;
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (Some('\''), c) => value.push(c),
            (_, '$' | '`') => return Err(PlainTextError::Substitution),
            (_, '\\') => return Err(PlainTextError::Backslash),
            (Some(_), c) => value.push(c),
            (None, ' ' | '\t') => {
                let after = characters.as_str().trim_start();
                if after.is_empty() || after.starts_with('#') {
                    return Ok(value);
                }
                return Err(PlainTextError::SecondWord);
            }
            (None, c) if c.is_alphanumeric() || "._/:,@%+=!-".contains(c) => value.push(c),
            (None, c) => return Err(PlainTextError::NeedsQuotes { character: c }),
        }
    }
    match quote {
        None => Ok(value),
        Some(_) => Err(PlainTextError::OpenQuote),
    }
}

#[cfg(test)]
mod tests {
    use super::plain_text;

    #[test]
    fn plain_text_is_one_word_of_a_shell() {
        for (text, value) in [
            ("", ""),
            ("abc", "abc"),
            ("\"a b\"  # why", "a b"),
            ("'a $b'", "a $b"),
            ("a\"b c\"d", "ab cd"),
            ("1.2.3.4/24\t", "1.2.3.4/24"),
        ] {
            assert_eq!(plain_text(text), Ok(value.to_owned()), "{text}");
        }
        for bad in [
            "$(reboot)",
            "`reboot`",
            "\"$HOME\"",
            "a b",
            "a;reboot",
            "a&",
            "a|b",
            "a>b",
            "\"open",
            "'open",
            "a\\b",
            "~root",
            "a*",
            "(a)",
            "{a,b}",
            "a #b c\n\"",
            "<(x)",
        ] {
            let is_comment = bad.starts_with("a #");
            assert_eq!(plain_text(bad).is_err(), !is_comment, "{bad}");
        }
    }
}

//! Lists of case ids with ranges: `"img0001..img0010"` holds both ends and every number between.

/// An id, or a range of numbers after a common beginning.
enum Pattern<'a> {
    One(&'a str),
    Range { prefix: &'a str, first: u64, last: u64 },
}

/// An id up to its trailing number, and the number.
fn numbered(id: &str) -> Option<(&str, u64)> {
    let prefix = id.trim_end_matches(|c: char| c.is_ascii_digit());
    // Digits are ASCII, so this is a character boundary.
    id.get(prefix.len()..)?.parse().ok().map(|n| (prefix, n))
}

fn parse(text: &str) -> Result<Pattern<'_>, String> {
    let Some((from, to)) = text.split_once("..") else {
        let good = !text.is_empty() && text.len() <= 255;
        return good.then_some(Pattern::One(text)).ok_or_else(|| format!("{text:?} is no id"));
    };
    match (numbered(from), numbered(to)) {
        (Some((prefix, first)), Some((other, last))) if prefix == other && first <= last => {
            Ok(Pattern::Range { prefix, first, last })
        }
        _ => Err(format!(
            "{text:?}: a range needs the same beginning and ascending numbers, as img0001..img0010"
        )),
    }
}

impl Pattern<'_> {
    fn holds(&self, id: &str) -> bool {
        match *self {
            Self::One(one) => one == id,
            Self::Range { prefix, first, last } => {
                numbered(id).is_some_and(|(p, n)| p == prefix && (first..=last).contains(&n))
            }
        }
    }
}

/// Why a list cannot be used, if it cannot.
pub(super) fn check(list: &[String]) -> Result<(), String> {
    list.iter().try_for_each(|text| parse(text).map(|_| ()))
}

/// Whether a list holds an id. Entries that are no patterns hold nothing.
pub(super) fn holds(list: &[String], id: &str) -> bool {
    list.iter().any(|text| parse(text).is_ok_and(|p| p.holds(id)))
}

/// Entries of a list that hold none of the ids: a listed case that is not there.
pub(super) fn without_case(list: &[String], ids: &[String]) -> Vec<String> {
    let missing = |text: &&String| !ids.iter().any(|id| holds(std::slice::from_ref(*text), id));
    list.iter().filter(missing).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_both_ends() {
        let list = ["a_8..a_10".to_owned(), "b".to_owned()];
        for (id, is_in) in [
            ("a_8", true),
            ("a_9", true),
            ("a_10", true),
            ("a_010", true),
            ("a_7", false),
            ("a_11", false),
            ("a_", false),
            ("aa_9", false),
            ("b", true),
            ("b1", false),
        ] {
            assert_eq!(holds(&list, id), is_in, "{id}");
        }
        let ids = ["a_9".to_owned()];
        assert_eq!(without_case(&list, &ids), ["b"]);
        for bad in ["", "a1..b2", "a3..a2", "a..b", "..", "a1..a99999999999999999999"] {
            assert!(check(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}

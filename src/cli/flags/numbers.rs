//! Flags that take a number, or true or false. Their errors say which values are allowed.

use std::ops::Bound::Included;
use std::ops::RangeBounds;
use std::str::FromStr;

use clap::builder::TypedValueParser;

/// Parses a whole number within `range`, for `#[arg(value_parser = whole(1..))]`.
pub fn whole<T>(
    range: impl RangeBounds<T> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr + PartialOrd + ToString + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| expected(text, &range))
    }
}

/// Parses any number, for `#[arg(value_parser = real)]`. Whether the value makes sense is checked
/// with the whole configuration.
pub fn real(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "it must be a number, such as 0.5 or 1e-3".to_owned())
}

/// Parses true or false, also as `1` or `off`, for `#[arg(value_parser = boolean)]`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

fn expected<T: FromStr + ToString>(text: &str, range: &impl RangeBounds<T>) -> String {
    let allowed = match (range.start_bound(), range.end_bound()) {
        (Included(least), Included(most)) => {
            format!("a whole number from {} to {}", least.to_string(), most.to_string())
        }
        (Included(least), _) => format!("a whole number, {} or more", least.to_string()),
        _ => "a whole number".to_owned(),
    };
    let digits = text.trim_start_matches(['+', '-']);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let does_not_fit = || !text.starts_with('-') && text.parse::<T>().is_err();
    match is_number && (digits.len() > 18 || does_not_fit()) {
        true => format!("it must be {allowed}, and not so large"),
        false => format!("it must be {allowed}, written with digits alone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_allowed() {
        for text in ["0", "10k", "1e4", "-3", "2.5", "", "1_000", "NaN", "99999999999999999999"] {
            let error = expected(text, &(1u64..));
            assert!(error.starts_with("it must be a whole number, 1 or more"), "{text}: {error}");
        }
        assert!(expected("5000", &(1i32..=4096)).contains("from 1 to 4096"));
        assert!(expected("99999999999999999999", &(1u64..)).ends_with("not so large"));
        assert!(expected("5000000000", &(1u32..)).ends_with("not so large"));
        assert!(expected("-3", &(1u32..)).ends_with("digits alone"));
        assert_eq!((boolean("True"), boolean("0")), (Ok(true), Ok(false)));
        assert!(boolean("x").unwrap_err().contains("true or false"));
        assert_eq!(real("1e-3"), Ok(0.001));
        assert!(real("1/1.15").unwrap_err().contains("a number"));
    }
}

//! What rules do to a packet's mark: the bits that survive them. netd's own is one.

use serde_json::Value;

/// What a rule of iptables' leaves of the mark, from its words as `iptables-save` prints them; `None` where it sets none.
pub fn left_by_words(words: &[String]) -> Option<u32> {
    let target = words.iter().position(|word| word == "-j").and_then(|at| words.get(at + 1))?;
    let value = |option: &str| {
        words.iter().position(|word| word == option).and_then(|at| words.get(at + 1)).map(String::as_str)
    };
    match target.as_str() {
        // The bits of the mask are cleared, and what is given is then turned over (iptables-extensions(8)).
        "MARK" => value("--set-xmark").and_then(masked).map(|(given, mask)| (!mask & !given) | (mask & given)),
        "CONNMARK" if words.iter().any(|word| word == "--restore-mark") => {
            let (_, mask) = masked(value("--nfmask").unwrap_or("0xffffffff"))?;
            Some(!mask)
        }
        _ => None,
    }
}

/// `VALUE/MASK`; one number is both, for a mask alone.
fn masked(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => number(text).map(|value| (value, value)),
    }
}

/// What a rule of nftables' leaves of the mark (libnftables-json(5), MANGLE); `None` where it sets none.
pub fn left_by_statements(rule: &Value) -> Option<u32> {
    let statements = rule["expr"].as_array().into_iter().flatten();
    let set = statements.map(|statement| &statement["mangle"]).filter(|set| set["key"]["meta"]["key"] == "mark");
    set.map(|set| surviving(&set["value"])).reduce(|one, other| one & other)
}

/// The bits that are set after an expression if they were set in the mark before it.
fn surviving(expression: &Value) -> u32 {
    if let Some(number) = expression.as_u64() {
        return u32::try_from(number).unwrap_or_default();
    }
    if expression["meta"]["key"] == "mark" {
        return u32::MAX;
    }
    let sides = |operator: &str| expression[operator].as_array().map(|sides| [0, 1].map(|n| surviving(&sides[n])));
    match (sides("|"), sides("&"), sides("^")) {
        (Some([one, other]), ..) => one | other,
        (_, Some([one, other]), _) => one & other,
        // What is turned over is not there any more.
        (.., Some([one, other])) => one & !other,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 0x0800_0000;

    #[test]
    fn a_mark_that_is_set_as_a_whole_leaves_nothing_and_one_with_a_mask_the_rest() {
        let left = |line: &str| left_by_words(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());

        assert_eq!(left("-j MARK --set-xmark 0x1/0xffffffff"), Some(1));
        assert_eq!(left("-j MARK --set-xmark 0x1/0x1").map(|left| left & OURS), Some(OURS));
        assert_eq!(left("-j MARK --set-xmark 0x0/0xff").map(|left| left & OURS), Some(OURS));
        assert_eq!(left("-j MARK --set-xmark 0x8000000/0x0").map(|left| left & OURS), Some(0), "it turns the bit over");
        assert_eq!(left("-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"), Some(0));
        assert_eq!(left("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"), None);
        assert_eq!(left("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff").map(|left| left & OURS), Some(OURS));
        assert_eq!(left("-i eth0 -j ACCEPT"), None);
    }

    #[test]
    fn what_survives_an_expression_of_nft_is_followed_through_it() {
        let left = |value: &str| {
            let rule =
                format!(r#"{{"expr": [{{"mangle": {{"key": {{"meta": {{"key": "mark"}}}}, "value": {value}}}}}]}}"#);
            left_by_statements(&serde_json::from_str(&rule).unwrap()).map(|left| left & OURS)
        };
        let mark = r#"{"meta": {"key": "mark"}}"#;

        assert_eq!(left("1"), Some(0));
        assert_eq!(left(&format!(r#"{{"|": [{mark}, 1]}}"#)), Some(OURS));
        assert_eq!(left(&format!(r#"{{"|": [{{"&": [{mark}, 4294967040]}}, 1]}}"#)), Some(OURS));
        assert_eq!(left(&format!(r#"{{"&": [{mark}, 255]}}"#)), Some(0));
        assert_eq!(left(r#"{"ct": {"key": "mark"}}"#), Some(0));
        assert_eq!(left_by_statements(&serde_json::json!({ "expr": [{ "accept": null }] })), None);
    }
}

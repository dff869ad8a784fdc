//! What rules do to a packet's mark: the bits that survive them, and those that they decide. netd's own is one.

use serde_json::Value;

/// What a rule does to the marks of the packets that it is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marking {
    /// The rule, as its tool writes it or as much as names it.
    pub rule: String,
    /// Bits that are set after it if they were set before it.
    pub left: u32,
    /// Bits that may be others after it than before.
    pub decided: u32,
    /// Whether it gives a packet the mark of its connection, which packets of it had before.
    pub restores: bool,
}

/// What a rule of iptables' does to the mark, from its words as `iptables-save` prints them; `None` where it does nothing to it.
pub fn by_words(rule: &str, words: &[String]) -> Option<Marking> {
    let target = words.iter().position(|word| word == "-j").and_then(|at| words.get(at + 1))?;
    let value = |option: &str| {
        words.iter().position(|word| word == option).and_then(|at| words.get(at + 1)).map(String::as_str)
    };
    // The bits of the mask are cleared, and what is given is then turned over (iptables-extensions(8)).
    let set = |(given, mask): (u32, u32)| ((!mask & !given) | (mask & given), mask | given, false);
    let (left, decided, restores) = match target.as_str() {
        "MARK" => set(value("--set-xmark").and_then(masked)?),
        "TPROXY" => set(value("--tproxy-mark").and_then(masked)?),
        "CONNMARK" if words.iter().any(|word| word == "--restore-mark") => {
            let (_, mask) = masked(value("--nfmask").unwrap_or("0xffffffff"))?;
            (!mask, mask, true)
        }
        _ => return None,
    };
    Some(Marking { rule: rule.to_owned(), left, decided, restores })
}

/// `VALUE/MASK`; one number is both, for a mask alone.
fn masked(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => number(text).map(|value| (value, value)),
    }
}

/// What a rule of nftables' does to the mark (libnftables-json(5), MANGLE); `None` where it does nothing to it. Of a target of
/// iptables' that stands in it no more is known than its name.
pub fn by_statements(name: &str, rule: &Value) -> Option<Marking> {
    let statements = || rule["expr"].as_array().into_iter().flatten();
    let values = statements()
        .map(|statement| &statement["mangle"])
        .filter(|set| set["key"]["meta"]["key"] == "mark")
        .map(|set| &set["value"]);
    let foreign = |statement: &Value| {
        statement["xt"]["type"] == "target"
            && ["MARK", "CONNMARK", "TPROXY"].iter().any(|target| statement["xt"]["name"] == *target)
    };
    let known = values.map(|value| (surviving(value), decided(value), value["ct"]["key"] == "mark"));
    let unknown = statements().filter(|statement| foreign(statement)).map(|_| (u32::MAX, u32::MAX, false));
    let (left, decided, restores) =
        known.chain(unknown).reduce(|one, other| (one.0 & other.0, one.1 | other.1, one.2 && other.2))?;
    Some(Marking { rule: name.to_owned(), left, decided, restores })
}

/// The bits that are set after an expression if they were set in the mark before it.
fn surviving(expression: &Value) -> u32 {
    if let Some(number) = number(expression) {
        return number;
    }
    if is_mark(expression) {
        return u32::MAX;
    }
    match sides(expression) {
        Some(("|", one, other)) => surviving(one) | surviving(other),
        Some(("&", one, other)) => surviving(one) & surviving(other),
        // What is turned over is not there any more.
        Some((_, one, other)) => surviving(one) & !surviving(other),
        None => 0,
    }
}

/// The bits that may be others after an expression than in the mark before it.
fn decided(expression: &Value) -> u32 {
    if is_mark(expression) {
        return 0;
    }
    match sides(expression) {
        Some(("&", one, other)) => decided(one) | number(other).map_or(u32::MAX, |kept| !kept),
        Some((_, one, other)) => decided(one) | number(other).unwrap_or(u32::MAX),
        None => u32::MAX,
    }
}

fn is_mark(expression: &Value) -> bool {
    expression["meta"]["key"] == "mark"
}

fn number(expression: &Value) -> Option<u32> {
    expression.as_u64().map(|number| u32::try_from(number).unwrap_or_default())
}

/// The two sides of an operation on bits.
fn sides(expression: &Value) -> Option<(&'static str, &Value, &Value)> {
    let of = |operator: &'static str| {
        let sides = expression[operator].as_array()?;
        Some((operator, sides.first()?, sides.get(1)?))
    };
    of("|").or_else(|| of("&")).or_else(|| of("^"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 0x0800_0000;

    #[test]
    fn a_mark_that_is_set_as_a_whole_leaves_nothing_and_one_with_a_mask_the_rest() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let left = |line: &str| by_words(line, &words(line)).map(|marking| marking.left);

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
            by_statements("", &serde_json::from_str(&rule).unwrap()).map(|marking| marking.left & OURS)
        };
        let mark = r#"{"meta": {"key": "mark"}}"#;

        assert_eq!(left("1"), Some(0));
        assert_eq!(left(&format!(r#"{{"|": [{mark}, 1]}}"#)), Some(OURS));
        assert_eq!(left(&format!(r#"{{"|": [{{"&": [{mark}, 4294967040]}}, 1]}}"#)), Some(OURS));
        assert_eq!(left(&format!(r#"{{"&": [{mark}, 255]}}"#)), Some(0));
        assert_eq!(left(r#"{"ct": {"key": "mark"}}"#), Some(0));
        assert_eq!(by_statements("", &serde_json::json!({ "expr": [{ "accept": null }] })), None);
    }

    #[test]
    fn the_bits_that_a_rule_decides_are_told_from_those_that_it_leaves() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let by_iptables = |line: &str| by_words(line, &words(line)).map(|marking| (marking.decided, marking.restores));
        let by_nft = |value: &str| {
            let rule =
                format!(r#"{{"expr": [{{"mangle": {{"key": {{"meta": {{"key": "mark"}}}}, "value": {value}}}}}]}}"#);
            by_statements("", &serde_json::from_str(&rule).unwrap()).map(|marking| (marking.decided, marking.restores))
        };
        let mark = r#"{"meta": {"key": "mark"}}"#;

        assert_eq!(by_iptables("-j MARK --set-xmark 0x40000/0xff0000"), Some((0xff_0000, false)));
        assert_eq!(by_iptables("-j TPROXY --on-port 1 --tproxy-mark 0x1/0x3"), Some((3, false)));
        assert_eq!(by_iptables("-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff"), Some((0xff, true)));
        assert_eq!(by_nft("1"), Some((u32::MAX, false)));
        assert_eq!(by_nft(&format!(r#"{{"|": [{mark}, 1]}}"#)), Some((1, false)));
        assert_eq!(by_nft(&format!(r#"{{"|": [{{"&": [{mark}, 4294967040]}}, 1]}}"#)), Some((0xff, false)));
        assert_eq!(by_nft(r#"{"ct": {"key": "mark"}}"#), Some((u32::MAX, true)));
        let foreign = serde_json::json!({ "expr": [{ "xt": { "type": "target", "name": "MARK" } }] });
        assert_eq!(by_statements("", &foreign).map(|marking| marking.decided), Some(u32::MAX));
    }
}

//! Routing rules: property `omero.grid.route.N`, which confines the sessions that it matches to some Blitzes. Pure.
//!
//! A rule reads `KEY=PATTERN[,PATTERN]… [KEY=…]… -> TARGET[,TARGET]…`. The keys are `user`, `group`, `agent` and `client`; each may stand once,
//! all must match, and of the patterns of a key one must. A pattern is a name in which `*` stands for any characters; that of `client` is
//! an address or a range of them, `10.0.0.0/8`. A target is a Blitz, a replica group, or `read-only`: every Blitz that only reads.
//! `* -> …` matches everything. Rules are tried in the order of their numbers; the first that matches counts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::policy::Group;
use super::{Candidate, Facts};

/// The target that means every Blitz that only reads.
const READ_ONLY: &str = "read-only";

/// A routing rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Route {
    pub(crate) number: u32,
    /// As it was written.
    text: String,
    conditions: Vec<Condition>,
    /// Blitzes and replica groups.
    targets: Vec<String>,
    /// Whether every Blitz that only reads is a target.
    read_only: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    User(Vec<String>),
    Group(Vec<String>),
    Agent(Vec<String>),
    Client(Vec<Range>),
}

/// The addresses that share their first bits with this one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    address: IpAddr,
    bits: u32,
}

impl Route {
    /// Parses a rule, or says what is wrong with it.
    pub(crate) fn parse(number: u32, text: &str) -> Result<Self, String> {
        let (conditions, targets) = text
            .split_once("->")
            .ok_or_else(|| "there is no '->' in it".to_owned())?;
        let mut this = Self {
            number,
            text: text.trim().to_owned(),
            conditions: Vec::new(),
            targets: Vec::new(),
            read_only: false,
        };
        let mut keys = Vec::new();
        let mut words = conditions.split_whitespace().peekable();
        if words.peek().is_none() {
            return Err("it has no condition; '*' matches everything".to_owned());
        }
        let everything = conditions.trim() == "*";
        for word in words.filter(|_| !everything) {
            let (key, patterns) = word
                .split_once('=')
                .ok_or_else(|| format!("'{word}' is not of the form KEY=PATTERN"))?;
            if keys.contains(&key) {
                return Err(format!(
                    "'{key}' stands twice; separate its patterns by commas"
                ));
            }
            keys.push(key);
            let patterns: Vec<String> = list(patterns).map(str::to_owned).collect();
            if patterns.is_empty() {
                return Err(format!("'{key}' has no pattern"));
            }
            this.conditions.push(match key {
                "user" => Condition::User(patterns),
                "group" => Condition::Group(patterns),
                "agent" => Condition::Agent(patterns),
                "client" => {
                    let ranges: Result<_, _> = patterns.iter().map(|p| Range::parse(p)).collect();
                    Condition::Client(ranges?)
                }
                _ => return Err(format!("'{key}' is not user, group, agent or client")),
            });
        }
        for target in list(targets) {
            if target == READ_ONLY {
                this.read_only = true;
            } else {
                this.targets.push(target.to_owned());
            }
        }
        if this.targets.is_empty() && !this.read_only {
            return Err("it has no target".to_owned());
        }
        Ok(this)
    }

    /// Returns whether the rule is about this session.
    pub(crate) fn matches(&self, facts: &Facts) -> bool {
        let one = |patterns: &[String], text: &str| patterns.iter().any(|p| glob(p, text));
        self.conditions.iter().all(|condition| match condition {
            Condition::User(patterns) => one(patterns, &facts.user),
            Condition::Group(patterns) => one(patterns, &facts.group),
            Condition::Agent(patterns) => one(patterns, &facts.agent),
            Condition::Client(ranges) => facts
                .client
                .parse()
                .is_ok_and(|address| ranges.iter().any(|range| range.contains(address))),
        })
    }

    /// Returns whether a Blitz is among the rule's targets.
    pub(crate) fn takes(&self, blitz: &Candidate, groups: &BTreeMap<String, Group>) -> bool {
        let named = |target: &String| {
            let group = groups.get(target);
            target == blitz.id.as_str() || group.is_some_and(|g| g.servers.contains(&blitz.id))
        };
        (self.read_only && blitz.read_only) || self.targets.iter().any(named)
    }

    /// Returns the first target that is not known.
    pub(crate) fn unknown(&self, known: impl Fn(&str) -> bool) -> Option<&str> {
        let mut targets = self.targets.iter().map(String::as_str);
        targets.find(|target| !known(target))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} ({})", self.number, self.text)
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is neither an address nor a range such as 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| bad())?,
            None => all,
        };
        if bits > all {
            return Err(bad());
        }
        Ok(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        // An IPv4 client of a socket that takes both comes as ::ffff:a.b.c.d.
        let address = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                u32::from(a) & mask == u32::from(b) & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                u128::from(a) & mask == u128::from(b) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Returns whether `*` in the pattern can be filled so that it is the text. Takes time in proportion to the product of the lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(user: &str, agent: &str, client: &str) -> Facts {
        Facts {
            user: user.to_owned(),
            group: String::new(),
            agent: agent.to_owned(),
            client: client.to_owned(),
            entry: None,
        }
    }

    #[test]
    fn all_keys_and_one_pattern_of_each_must_match() {
        let route = Route::parse(
            1,
            "user=public,guest agent=OMERO.web* client=10.0.0.0/8,::1 -> Blitz-1",
        )
        .unwrap();
        let table = [
            ("public", "OMERO.web 5.6", "10.9.9.9", true),
            ("guest", "OMERO.web", "::1", true),
            ("guest", "OMERO.web", "::ffff:10.1.1.1", true),
            ("root", "OMERO.web", "10.9.9.9", false),
            ("public", "OMERO.insight", "10.9.9.9", false),
            ("public", "OMERO.web", "11.0.0.1", false),
            ("public", "OMERO.web", "somewhere", false),
        ];
        for (user, agent, client, expected) in table {
            let facts = facts(user, agent, client);
            assert_eq!(route.matches(&facts), expected, "{facts:?}");
        }
        let all = Route::parse(1, "* -> read-only").unwrap();
        assert!(all.matches(&Facts::default()) && all.read_only);
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        let table = [
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abcd", false),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*a", "a", false),
            ("*x*", "yyy", false),
            ("abc", "abc", true),
            ("ab", "abc", false),
            ("é*", "éa", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_that_say_nothing_are_refused() {
        for text in [
            "",
            "user=public",
            "-> Blitz-1",
            "user=public ->",
            "user= -> Blitz-1",
            "name=x -> Blitz-1",
            "user=a user=b -> Blitz-1",
            "public -> Blitz-1",
            "client=10.0.0.0/33 -> Blitz-1",
            "client=host -> Blitz-1",
            "* user=a -> Blitz-1",
        ] {
            assert!(Route::parse(1, text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text in ".{0,40}", pattern in "[a*é]{0,8}", with in "[aé]{0,8}") {
            let _ = Route::parse(0, &text);
            let _ = glob(&pattern, &with);
            proptest::prop_assert!(glob(&with, &with));
        }
    }
}

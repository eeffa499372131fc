//! Values as trees: read from what `Debug` writes of them, so that any decoded value can be compared with any other, and told where it
//! differs. Two values are the same if only names in them differ, and always in the same way.

use std::fmt;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    /// A text, a number, or one word.
    Leaf(Vec<Part>),
    /// Values one after another, whose number may differ.
    List(Vec<Tree>),
    /// Named values: of a struct or variant of this name, or of a tuple or dictionary, which have none.
    Fields(String, Vec<(String, Tree)>),
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// What has to be the same.
    Text(String),
    /// A name that is another each time: of what kind it is, and the name.
    Name(&'static str, String),
}

impl Tree {
    pub(super) fn leaf(text: impl Into<String>) -> Self {
        Self::Leaf(vec![Part::Text(text.into())])
    }

    /// Puts named values together.
    pub(super) fn fields<const N: usize>(all: [(&str, Self); N]) -> Self {
        let all = all.into_iter().map(|(name, one)| (name.to_owned(), one));
        Self::Fields(String::new(), all.collect())
    }

    /// Reads what `Debug` has written.
    pub(super) fn of_debug(text: &str) -> Self {
        let mut reader = Reader { rest: text };
        let tree = reader.value();
        assert_eq!(reader.rest, "", "this is left over of {text}");
        tree
    }

    /// Changes every text; `change` is told what the value is called that it is in.
    pub(super) fn each_text(
        &mut self,
        called: &str,
        change: &mut impl FnMut(&str, &str) -> Vec<Part>,
    ) {
        match self {
            Self::Leaf(parts) => {
                if let [Part::Text(text)] = parts.as_slice() {
                    *parts = change(called, text);
                }
            }
            Self::List(all) => all.iter_mut().for_each(|one| one.each_text(called, change)),
            Self::Fields(_, all) => all
                .iter_mut()
                .for_each(|(called, one)| one.each_text(called, change)),
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = |at| if at == 0 { "" } else { ", " };
        match self {
            Self::Leaf(parts) => parts.iter().try_for_each(|part| match part {
                Part::Text(text) => f.write_str(text),
                Part::Name(kind, _) => write!(f, "<{kind}>"),
            }),
            Self::List(all) => {
                f.write_str("[")?;
                for (at, one) in all.iter().enumerate() {
                    write!(f, "{}{one}", between(at))?;
                }
                f.write_str("]")
            }
            Self::Fields(of, all) => {
                write!(f, "{of}{{")?;
                for (at, (name, one)) in all.iter().enumerate() {
                    write!(f, "{}{name}: {one}", between(at))?;
                }
                f.write_str("}")
            }
        }
    }
}

/// What is called otherwise here: of what kind, how there, how here.
#[derive(Debug, Default, Clone)]
pub(super) struct Pairs(Vec<(&'static str, String, String)>);

impl Pairs {
    /// Returns the names of a kind, there and here.
    pub(super) fn of(&self, kind: &str) -> impl Iterator<Item = (&String, &String)> {
        let of = self.0.iter().filter(move |(of, ..)| *of == kind);
        of.map(|(_, theirs, ours)| (theirs, ours))
    }

    /// Says where two values differ, a line for each place.
    pub(super) fn differences(&mut self, theirs: &Tree, ours: &Tree) -> Vec<String> {
        let mut all = Vec::new();
        self.differ("", theirs, ours, &mut all);
        all
    }

    /// Takes two names for those of the same, unless one of them is known to be another's.
    fn pair(&mut self, kind: &'static str, theirs: &str, ours: &str) -> bool {
        let mut known = self.0.iter().filter(|(of, ..)| *of == kind);
        match known.find(|(_, a, b)| a == theirs || b == ours) {
            Some((_, a, b)) => a == theirs && b == ours,
            None => {
                self.0.push((kind, theirs.to_owned(), ours.to_owned()));
                true
            }
        }
    }

    /// Returns whether two values are the same, and takes their names for each other if they are.
    fn same(&mut self, theirs: &Tree, ours: &Tree) -> bool {
        let mut trial = self.clone();
        let same = trial.fit(theirs, ours);
        if same {
            *self = trial;
        }
        same
    }

    fn fit(&mut self, theirs: &Tree, ours: &Tree) -> bool {
        match (theirs, ours) {
            (Tree::Leaf(theirs), Tree::Leaf(ours)) => {
                theirs.len() == ours.len()
                    && theirs.iter().zip(ours).all(|both| match both {
                        (Part::Name(kind, theirs), Part::Name(of, ours)) if kind == of => {
                            self.pair(kind, theirs, ours)
                        }
                        (theirs, ours) => theirs == ours,
                    })
            }
            (Tree::List(theirs), Tree::List(ours)) => {
                theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(a, b)| self.fit(a, b))
            }
            (Tree::Fields(of, theirs), Tree::Fields(also, ours)) => {
                of == also
                    && theirs.len() == ours.len()
                    && theirs
                        .iter()
                        .zip(ours)
                        .all(|((name, a), (also, b))| name == also && self.fit(a, b))
            }
            _ => false,
        }
    }

    fn differ(&mut self, place: &str, theirs: &Tree, ours: &Tree, all: &mut Vec<String>) {
        if self.same(theirs, ours) {
            return;
        }
        match (theirs, ours) {
            (Tree::List(theirs), Tree::List(ours)) => {
                self.differ_in_list(place, theirs, ours, all);
            }
            (Tree::Fields(of, theirs), Tree::Fields(also, ours)) if of == also => {
                for (name, one) in theirs {
                    let place = format!("{place}.{name}");
                    match ours.iter().find(|(other, _)| other == name) {
                        Some((_, other)) => self.differ(&place, one, other, all),
                        None => all.push(format!("{place}: only IceGrid's: {one}")),
                    }
                }
                for (name, one) in ours {
                    if !theirs.iter().any(|(other, _)| other == name) {
                        all.push(format!("{place}.{name}: only ours: {one}"));
                    }
                }
            }
            _ => all.push(format!("{place}: IceGrid's {theirs}, ours {ours}")),
        }
    }

    /// What is in one list only; or what differs in the elements that take each other's place; or that the order is another.
    fn differ_in_list(
        &mut self,
        place: &str,
        theirs: &[Tree],
        ours: &[Tree],
        all: &mut Vec<String>,
    ) {
        let mut left: Vec<&Tree> = ours.iter().collect();
        let mut missing = Vec::new();
        for one in theirs {
            match left.iter().position(|other| self.same(one, other)) {
                Some(at) => drop(left.remove(at)),
                None => missing.push(one),
            }
        }
        if missing.is_empty() && left.is_empty() {
            all.push(format!("{place}: the order"));
        } else if missing.len() == left.len() {
            for (theirs, ours) in missing.into_iter().zip(left) {
                self.differ(&format!("{place}[]"), theirs, ours, all);
            }
        } else {
            for one in missing {
                all.push(format!("{place}[]: only IceGrid's: {one}"));
            }
            for one in left {
                all.push(format!("{place}[]: only ours: {one}"));
            }
        }
    }
}

/// Reads what the derived `Debug` of the standard library writes.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self, mark: &str) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(mark);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn value(&mut self) -> Tree {
        if self.skip("\"") {
            return Tree::leaf(self.text());
        }
        if self.skip("[") {
            return Tree::List(self.until("]", |reader, _| reader.value()));
        }
        if self.skip("{") {
            return self.struct_of("");
        }
        if self.skip("(") {
            return self.tuple_of("");
        }
        let end = self
            .rest
            .find([' ', ',', '(', ')', '[', ']', '{', '}', ':']);
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        if word != "Some" && self.skip("{") {
            return self.struct_of(word);
        }
        if self.skip("(") {
            return match (word, self.tuple_of(word)) {
                // What may not be there is shown as what is there.
                ("Some", Tree::Fields(_, mut one)) => one.remove(0).1,
                (_, tree) => tree,
            };
        }
        Tree::leaf(word)
    }

    fn tuple_of(&mut self, name: &str) -> Tree {
        let all = self.until(")", |reader, at| (at.to_string(), reader.value()));
        Tree::Fields(name.to_owned(), all)
    }

    fn struct_of(&mut self, name: &str) -> Tree {
        let all = self.until("}", |reader, _| reader.entry());
        Tree::Fields(name.to_owned(), all)
    }

    fn entry(&mut self) -> (String, Tree) {
        let name = self.value().to_string();
        assert!(self.skip(":"), "no value follows {name}: {}", self.rest);
        (name, self.value())
    }

    fn until<T>(&mut self, end: &str, mut one: impl FnMut(&mut Self, usize) -> T) -> Vec<T> {
        let mut all = Vec::new();
        while !self.skip(end) {
            assert!(!self.rest.is_empty(), "nothing ends with {end}");
            all.push(one(self, all.len()));
            self.skip(",");
        }
        all
    }

    /// Takes a text up to its closing quote.
    fn text(&mut self) -> String {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return text;
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c) => text.push(c),
                    None => {}
                },
                c => text.push(c),
            }
        }
        panic!("a text does not end: {}", self.rest)
    }
}

#[test]
fn what_is_written_of_a_value_is_read_and_compared() {
    #[derive(Debug)]
    #[expect(dead_code, reason = "only its Debug is looked at")]
    struct Value {
        name: &'static str,
        some: Option<i32>,
        all: Vec<(u8, bool)>,
        by: std::collections::BTreeMap<&'static str, f32>,
    }
    let value = |some, all: &[(u8, bool)]| {
        let value = Value {
            name: "a \"b\", {c}",
            some,
            all: all.to_vec(),
            by: [("x y", 1.5)].into(),
        };
        Tree::of_debug(&format!("{value:?}"))
    };
    let differences = |theirs, ours| Pairs::default().differences(theirs, ours);
    let one = value(Some(-3), &[(1, true), (2, false)]);
    let written = "Value{name: a \"b\", {c}, some: -3, all: [{0: 1, 1: true}, {0: 2, 1: false}], by: {x y: 1.5}}";
    assert_eq!(one.to_string(), written);
    assert!(differences(&one, &one).is_empty());
    let other = value(None, &[(2, false), (1, true)]);
    assert_eq!(
        differences(&one, &other),
        [".some: IceGrid's -3, ours None", ".all: the order"]
    );
    let less = value(Some(-3), &[(1, true)]);
    assert_eq!(
        differences(&one, &less),
        [".all[]: only IceGrid's: {0: 2, 1: false}"]
    );
    assert_eq!(
        differences(&less, &value(Some(-3), &[(1, false)])),
        [".all[].1: IceGrid's true, ours false"]
    );
}

#[test]
fn names_may_differ_but_always_in_the_same_way() {
    let of = |names: &[&str]| {
        let leaves = names
            .iter()
            .map(|name| Tree::Leaf(vec![Part::Name("id", (*name).to_owned())]));
        Tree::List(leaves.collect())
    };
    let mut pairs = Pairs::default();
    assert!(
        pairs
            .differences(&of(&["a", "b", "a"]), &of(&["x", "y", "x"]))
            .is_empty()
    );
    assert_eq!(pairs.of("id").count(), 2);
    // From then on.
    assert!(pairs.differences(&of(&["b"]), &of(&["y"])).is_empty());
    for (theirs, ours) in [("a", "y"), ("a", "z"), ("c", "x")] {
        let found = pairs.differences(&of(&[theirs]), &of(&[ours]));
        assert_eq!(found, ["[]: IceGrid's <id>, ours <id>"], "{theirs} {ours}");
    }
    // Who is missing changes nothing for the others.
    let found = Pairs::default().differences(&of(&["a", "b"]), &of(&["x"]));
    assert_eq!(found, ["[]: only IceGrid's: <id>"]);
}

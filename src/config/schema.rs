//! What keys there are: names, meanings, kinds and defaults, from the types of a configuration. Its doc
//! comments and `Default` are the only place where they are written down.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use crate::Result;

/// What a run can be configured by: sections of keys, all of which have defaults.
pub trait Settings: Default + Serialize + DeserializeOwned + JsonSchema {
    /// Checks that the values go together. Errors name the key and what it may be.
    fn validate(&self) -> Result<()>;

    /// Its sections, in the order of the type.
    fn sections() -> Vec<Section> {
        let schema = schema::<Self>();
        let defaults = toml::Value::try_from(Self::default()).ok();
        let Tree::Keys(order) = Tree::of(&Self::default()) else { return Vec::new() };
        let of_section = |(name, tree): &(String, Tree)| {
            let section = schema.get("properties")?.get(name)?;
            let mut keys = Vec::new();
            collect(section, tree, defaults.as_ref().and_then(|d| d.get(name)), "", &mut keys);
            Some(Section { name: name.clone(), docs: docs(section), keys })
        };
        order.iter().filter_map(of_section).collect()
    }
}

/// A section of a configuration.
#[derive(Clone, Debug)]
pub struct Section {
    pub name: String,
    pub docs: String,
    pub keys: Vec<Key>,
}

/// A key of a section.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    /// Its meaning. A comment stands for the keys below it as well, up to the next comment.
    pub docs: String,
    pub kind: Kind,
    /// Absent where the key may be absent, and is.
    pub default: Option<toml::Value>,
}

/// What a key can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Bool,
    Whole,
    Number,
    Text,
    /// One of some words, each with its meaning.
    Choice(Vec<(String, String)>),
    /// A list of so many, or of any number.
    List(Box<Kind>, Option<u64>),
    Other,
}

impl Kind {
    fn of(schema: &Json) -> Self {
        let words = choices(schema);
        if !words.is_empty() {
            return Self::Choice(words);
        }
        // An optional key is `["number", "null"]`.
        let name = match schema.get("type") {
            Some(Json::Array(names)) => names.first(),
            name => name,
        };
        match name.and_then(Json::as_str) {
            Some("boolean") => Self::Bool,
            Some("integer") => Self::Whole,
            Some("number") => Self::Number,
            Some("string") => Self::Text,
            Some("array") => {
                let item = schema.get("items").map_or(Self::Other, Self::of);
                Self::List(Box::new(item), schema.get("maxItems").and_then(Json::as_u64))
            }
            _ => Self::Other,
        }
    }

    /// In words, after "expected".
    pub fn words(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Whole => "a whole number, not negative".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Choice(words) => {
                let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
                format!("one of {}", words.join(", "))
            }
            Self::List(item, n) => {
                let of = match **item {
                    Self::Bool => "true or false",
                    Self::Whole => "whole numbers",
                    Self::Number => "numbers",
                    _ => "texts",
                };
                n.map_or(format!("a list of {of}"), |n| format!("a list of {n} {of}"))
            }
            Self::Other => "another value".to_owned(),
        }
    }
}

/// Words of an enum: documented ones stand by themselves, the others together.
fn choices(schema: &Json) -> Vec<(String, String)> {
    let text = |v: &Json| v.as_str().map(str::to_owned);
    let plain = |s: &Json| -> Vec<(String, String)> {
        let words = s.get("enum").and_then(Json::as_array).into_iter().flatten();
        words.filter_map(text).map(|word| (word, String::new())).collect()
    };
    let one = |s: &Json| match s.get("const").and_then(text) {
        Some(word) => vec![(word, docs(s))],
        None => plain(s),
    };
    match schema.get("oneOf").and_then(Json::as_array) {
        Some(parts) => parts.iter().flat_map(one).collect(),
        None => plain(schema),
    }
}

fn docs(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The keys below `schema`; those of a table in it are `table.key`.
fn collect(
    schema: &Json,
    tree: &Tree,
    defaults: Option<&toml::Value>,
    before: &str,
    into: &mut Vec<Key>,
) {
    let Tree::Keys(order) = tree else { return };
    for (name, inner) in order {
        let Some(schema) = schema.get("properties").and_then(|p| p.get(name)) else { continue };
        let default = defaults.and_then(|d| d.get(name));
        let full = format!("{before}{name}");
        if schema.get("properties").is_some() {
            collect(schema, inner, default, &format!("{full}."), into);
            continue;
        }
        let mut docs = docs(schema);
        if docs.is_empty() {
            docs = into.last().map(|above: &Key| above.docs.clone()).unwrap_or_default();
        }
        into.push(Key { name: full, docs, kind: Kind::of(schema), default: default.cloned() });
    }
}

/// Every `section.key` of a configuration, with its kind.
pub fn keys<C: Settings>() -> Vec<(String, Kind)> {
    let names =
        |s: Section| s.keys.into_iter().map(move |k| (format!("{}.{}", s.name, k.name), k.kind));
    C::sections().into_iter().flat_map(names).collect()
}

/// Every name that a file of this type may have, with those of its tables: `image` and `image.roi`.
pub fn names<T: JsonSchema>() -> Vec<String> {
    fn below(schema: &Json, before: &str, into: &mut Vec<String>) {
        for (name, inner) in
            schema.get("properties").and_then(Json::as_object).into_iter().flatten()
        {
            into.push(format!("{before}{name}"));
            below(inner, &format!("{before}{name}."), into);
        }
        // Entries of a list, forms of an enum.
        schema.get("items").into_iter().for_each(|inner| below(inner, before, into));
        for forms in ["oneOf", "anyOf"] {
            let forms = schema.get(forms).and_then(Json::as_array).into_iter().flatten();
            forms.for_each(|inner| below(inner, before, into));
        }
    }
    let mut found = Vec::new();
    below(&schema::<T>(), "", &mut found);
    found
}

fn schema<T: JsonSchema>() -> Json {
    let generator =
        SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<T>().to_value()
}

/// Keys in the order in which their type declares them: neither a schema nor a TOML table keeps it.
enum Tree {
    Value,
    Keys(Vec<(String, Tree)>),
}

impl Tree {
    fn of(settings: &impl Serialize) -> Self {
        let text = serde_json::to_string(settings).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Self::Value)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut keys = Vec::new();
        while let Some(entry) = map.next_entry()? {
            keys.push(entry);
        }
        Ok(Tree::Keys(keys))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Tree::Value)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Value)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Value)
    }
}

/// Fails unless every key of a configuration is among [`Settings::sections`], with a comment and a kind.
#[cfg(test)]
pub(crate) fn assert_explained<C: Settings>() {
    let defaults = toml::Table::try_from(C::default()).unwrap();
    let sections = C::sections();
    assert_eq!(sections.len(), defaults.len());
    for section in &sections {
        assert!(!section.docs.is_empty(), "[{}] has no comment", section.name);
        let names: Vec<&str> = section.keys.iter().map(|k| k.name.as_str()).collect();
        for key in defaults[&section.name].as_table().unwrap().keys() {
            assert!(names.contains(&key.as_str()), "{}.{key} is missing", section.name);
        }
        for key in &section.keys {
            assert!(!key.docs.is_empty(), "{}.{} has no comment", section.name, key.name);
            assert_ne!(key.kind, Kind::Other, "{}.{}", section.name, key.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::finetune::FinetuneConfig;

    #[test]
    fn every_key_is_there_and_explained() {
        assert_explained::<Config>();
        assert_explained::<FinetuneConfig>();
    }

    #[test]
    fn keys_have_the_order_and_the_kinds_of_their_type() {
        let keys = keys::<Config>();
        let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..3], ["model.in_chans", "model.patch", "model.dim"]);
        let kind = |name: &str| keys.iter().find(|(k, _)| k == name).unwrap().1.clone();
        assert_eq!(kind("optim.lr"), Kind::Number);
        assert_eq!(kind("data.foreground"), Kind::Number);
        assert_eq!(kind("views.local_size"), Kind::List(Box::new(Kind::Whole), Some(3)));
        assert_eq!(kind("data.exclude"), Kind::List(Box::new(Kind::Text), None));
        let Kind::Choice(words) = kind("loss.gg_pairs") else { panic!() };
        assert_eq!(words[2], ("all".to_owned(), "Every i and j.".to_owned()));
        // Optional keys that are absent by default have their place, too.
        let of_finetuning = super::keys::<FinetuneConfig>();
        assert!(of_finetuning.iter().any(|(key, _)| key == "data.roi"));
    }
}

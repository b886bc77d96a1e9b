//! Templates whose namespaces would hold each other.
//!
//! `{% set a.x = a %}` makes a value that never ends: whoever prints, joins or compares it goes down until the stack is used up, which
//! ends the program, and no fuel is spent on the way. A template comes with somebody else's model or task, so one that puts a namespace
//! into a namespace is refused before it runs; published templates keep texts, numbers and lists there.

use std::collections::BTreeSet;

use minijinja::{Error, ErrorKind};

/// Whether a template's values have an end.
///
/// # Errors
/// Names the statement that puts a namespace into a namespace, or that may do so.
pub fn refuse_nested_namespaces(source: &str) -> Result<(), Error> {
    match nested_namespace(source) {
        None => Ok(()),
        Some(statement) => {
            let reason = format!("`{statement}` puts a namespace into a namespace, which may have no end");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
    }
}

fn nested_namespace(source: &str) -> Option<String> {
    let statements = statements(source);
    let macros: BTreeSet<&str> = statements
        .iter()
        .filter_map(|s| Some(s.after("macro")?.first()?.as_str()))
        .collect();
    let mut holders: BTreeSet<String> = BTreeSet::new();
    loop {
        let known = holders.len();
        for statement in &statements {
            if let Some((target, value)) = statement.assignment() {
                let holds = is_namespace(value) || mentions(value, &holders);
                if holds && (target.len() > 1 && target.iter().any(|t| t == "." || t == "[")) || nests(value, &holders)
                {
                    return Some(statement.text.clone());
                }
                if holds {
                    holders.extend(names(target));
                }
            } else if let Some(loop_) = statement.after("for") {
                let at = loop_.iter().position(|t| t == "in").unwrap_or(loop_.len());
                if mentions(&loop_[at..], &holders) {
                    holders.extend(names(&loop_[..at]));
                }
            }
            if is_handed_over(&statement.tokens, &macros, &holders) {
                let parameters = statements.iter().filter_map(|s| s.after("macro"));
                holders.extend(parameters.flat_map(|m| names(&m[1..])));
            }
        }
        if holders.len() == known {
            return None;
        }
    }
}

/// What stands between `{%` and `%}`, or `{{` and `}}`: names and signs, without texts and numbers.
struct Statement {
    text: String,
    tokens: Vec<String>,
}

impl Statement {
    fn after(&self, word: &str) -> Option<&[String]> {
        (self.tokens.first()? == word).then(|| &self.tokens[1..])
    }

    /// Of `set`, and of `with` as one whose targets are all its names.
    fn assignment(&self) -> Option<(&[String], &[String])> {
        let rest = self.after("set").or_else(|| self.after("with"))?;
        let at = rest.iter().position(|t| t == "=")?;
        Some((&rest[..at], &rest[at + 1..]))
    }
}

fn statements(source: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).min() {
        let end = if rest[at..].starts_with("{%") { "%}" } else { "}}" };
        let inside = &rest[at + 2..];
        let (tokens, length) = tokens(inside, end);
        let text = inside[..length]
            .trim_matches(|c: char| c.is_whitespace() || c == '-')
            .to_owned();
        found.push(Statement { text, tokens });
        rest = inside[length..].strip_prefix(end).unwrap_or(&inside[length..]);
    }
    found
}

/// The tokens up to `end`, and where that is.
fn tokens(inside: &str, end: &str) -> (Vec<String>, usize) {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < inside.len() && !inside[at..].starts_with(end) {
        let rest = &inside[at..];
        let c = rest.chars().next().unwrap_or(' ');
        let length = if c == '"' || c == '\'' {
            text_length(rest, c)
        } else if c.is_alphabetic() || c == '_' {
            let word = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            tokens.push(rest[..word].to_owned());
            word
        } else {
            // `==`, `!=` and their kin are no assignments.
            let pair = rest.get(..2).filter(|pair| ["==", "!=", "<=", ">="].contains(pair));
            if pair.is_none() && !c.is_whitespace() && !c.is_numeric() && c != '-' {
                tokens.push(c.to_string());
            }
            pair.map_or(c.len_utf8(), str::len)
        };
        at += length;
    }
    (tokens, at.min(inside.len()))
}

/// The bytes of a text in quotes, with both of them.
fn text_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn names(tokens: &[String]) -> impl Iterator<Item = String> + '_ {
    let is_name = |t: &&String| t.starts_with(|c: char| c.is_alphabetic() || c == '_');
    tokens.iter().filter(is_name).cloned()
}

/// A name as itself, and not for something that it holds.
fn mentions(tokens: &[String], holders: &BTreeSet<String>) -> bool {
    (0..tokens.len()).any(|i| {
        let is_part = i > 0 && tokens[i - 1] == ".";
        let is_looked_into = tokens.get(i + 1).is_some_and(|next| next == "." || next == "[");
        holders.contains(&tokens[i]) && !is_part && !is_looked_into
    })
}

fn is_namespace(tokens: &[String]) -> bool {
    tokens.windows(2).any(|pair| pair[0] == "namespace" && pair[1] == "(")
}

/// A namespace that is made with another one in it.
fn nests(tokens: &[String], holders: &BTreeSet<String>) -> bool {
    let made = tokens
        .windows(2)
        .position(|pair| pair[0] == "namespace" && pair[1] == "(");
    made.is_some_and(|at| is_namespace(&tokens[at + 2..]) || mentions(&tokens[at + 2..], holders))
}

/// Whether a macro is called with one.
fn is_handed_over(tokens: &[String], macros: &BTreeSet<&str>, holders: &BTreeSet<String>) -> bool {
    let call = |at: usize| macros.contains(tokens[at].as_str()) && tokens.get(at + 1).is_some_and(|next| next == "(");
    (0..tokens.len()).any(|at| call(at) && mentions(&tokens[at + 2..], holders))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{% set all.texts = all %}` in a task's template, and a print of it, used the stack up and ended the program.
    #[test]
    fn a_namespace_in_a_namespace_is_found() {
        for nested in [
            "{%- set all = namespace(texts=[]) -%}{%- set all.texts = all%}{{- all.texts -}}",
            "{% set a = namespace() %}{% set b = [a] %}{% set a.x = b %}",
            "{% set a = namespace() %}{% set a.x = namespace() %}{% set a.x.y = a.x %}",
            "{% set a = namespace(x=namespace()) %}",
            "{% set a = namespace() %}{% for b in [a] %}{% set a.x = b %}{% endfor %}",
            "{% set a = namespace() %}{% with b = a %}{% set a.x = b %}{% endwith %}",
            "{% set a = namespace() %}{% set a.x = {'k': a} %}",
            "{% macro m(p, q) %}{% set p.x = q %}{% endmacro %}{% set a = namespace() %}{{ m(a, a) }}",
        ] {
            assert!(nested_namespace(nested).is_some(), "{nested}");
        }
    }

    #[test]
    fn what_templates_keep_is_left_alone() {
        for usual in [
            "{% set ns = namespace(x='ab', n=0) %}{% for m in messages %}{% set ns.x = ns.x ~ m.content %}{% set ns.n = ns.n + 1 %}{% endfor %}",
            "{% set ns = namespace(x=[]) %}{% set ns.x = ns.x + [ns.x | length] %}{% if ns.x == 'ns' %}{{ ns.x }}{% endif %}",
            "{% macro m(t) %}{% set ns2 = namespace(y='') %}{% set ns2.y = t %}{{ ns2.y }}{% endmacro %}{{ m('ns2 = ns2') }}",
            "{% set ns = namespace(tools=[]) %}{% set all = tools %}{% set ns.tools = all %}{{ 'set ns.x = ns' }}",
            "text {# {% set ns.x = ns %} #} {{ x }",
            "{{ \"un",
        ] {
            assert_eq!(nested_namespace(usual), None, "{usual}");
        }
    }
}

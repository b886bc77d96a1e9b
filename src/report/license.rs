//! The licence of a merge: the most restrictive one of its parents, as the Hugging Face hub names licences.
//!
//! A parent's licence is read from the front matter of its `README.md`, else recognised from the text of its `LICENSE`.
//! The order is of what a licence asks of whoever shares the child; it is no legal advice. Where two parents' terms bind
//! at once and neither contains the other, or a parent does not say, the answer is `other`, with a warning.

use super::card::hub_name;

/// What a licence asks, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asks {
    Nothing,
    /// That the notice stays with it.
    Notice,
    /// That changes are stated too.
    Statement,
    /// That changes to its own files are shared alike.
    Changes,
    /// That all made of it is shared alike.
    ShareAlike,
    /// That it is not used for certain things, or by certain people.
    Use,
    NonCommercial,
    NoDerivatives,
    /// Terms that nobody here has read.
    Unknown,
}

/// Licences by what they ask, as the starts of the hub's names for them; the first that fits counts.
const KNOWN: [(Asks, &[&str]); 8] = [
    (
        Asks::NoDerivatives,
        &["cc-by-nd", "cc-by-nc-nd", "apple-amlr", "apple-ascl"],
    ),
    (
        Asks::NonCommercial,
        &["cc-by-nc", "fair-noncommercial", "intel-research"],
    ),
    (
        Asks::Use,
        &[
            "openrail",
            "creativeml-openrail",
            "bigscience-",
            "bigcode-openrail",
            "llama",
            "gemma",
            "deepfloyd-if-license",
            "open-mdw",
        ],
    ),
    (
        Asks::ShareAlike,
        &["gpl", "agpl", "cc-by-sa", "eupl", "osl", "odbl", "gfdl"],
    ),
    (Asks::Changes, &["lgpl", "mpl", "epl", "ms-pl", "cdla-sharing"]),
    (
        Asks::Statement,
        &["apache", "cc-by", "ecl", "odc-by", "afl", "artistic"],
    ),
    (
        Asks::Notice,
        &[
            "mit",
            "bsd",
            "isc",
            "zlib",
            "ncsa",
            "postgresql",
            "cdla-permissive",
            "bsl",
        ],
    ),
    (Asks::Nothing, &["cc0", "unlicense", "wtfpl", "0bsd", "pddl"]),
];

/// Texts of licences, recognised by phrases that all stand in them, in lower case and with single spaces.
const TEXTS: [(&str, &[&str]); 24] = [
    ("agpl-3.0", &["gnu affero general public license", "version 3"]),
    ("lgpl-3.0", &["gnu lesser general public license", "version 3"]),
    ("lgpl-2.1", &["gnu lesser general public license", "version 2.1"]),
    ("gpl-3.0", &["gnu general public license", "version 3, 29 june 2007"]),
    ("gpl-2.0", &["gnu general public license", "version 2, june 1991"]),
    ("mpl-2.0", &["mozilla public license", "2.0"]),
    ("llama4", &["llama 4 community license"]),
    ("llama3.3", &["llama 3.3 community license"]),
    ("llama3.2", &["llama 3.2 community license"]),
    ("llama3.1", &["llama 3.1 community license"]),
    ("llama3", &["llama 3 community license"]),
    ("llama2", &["llama 2 community license"]),
    ("gemma", &["gemma terms of use"]),
    ("cc-by-nc-nd-4.0", &["attribution-noncommercial-noderivatives 4.0"]),
    ("cc-by-nc-sa-4.0", &["attribution-noncommercial-sharealike 4.0"]),
    ("cc-by-nc-4.0", &["attribution-noncommercial 4.0"]),
    ("cc-by-sa-4.0", &["attribution-sharealike 4.0"]),
    ("cc-by-4.0", &["attribution 4.0 international"]),
    ("cc0-1.0", &["cc0 1.0 universal"]),
    ("apache-2.0", &["apache license", "version 2.0"]),
    (
        "mit",
        &["permission is hereby granted, free of charge", "without restriction"],
    ),
    (
        "bsd-3-clause",
        &["redistribution and use in source and binary forms", "neither the name"],
    ),
    ("bsd-2-clause", &["redistribution and use in source and binary forms"]),
    (
        "unlicense",
        &["free and unencumbered software released into the public domain"],
    ),
];

/// A parent and its licence, `None` where it names none that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentLicense {
    /// MODEL or adapter as the user wrote it.
    pub model: String,
    pub license: Option<String>,
}

/// The licence of a child, and what its owner should know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChildLicense {
    /// For the card's front matter; `None` only without parents.
    pub license: Option<String>,
    pub warnings: Vec<String>,
}

/// A licence's name from the front matter of a `README.md`, else from the text of a `LICENSE`.
pub fn read(readme: Option<&str>, license: Option<&str>) -> Option<String> {
    let declared = readme.and_then(declared);
    match declared.as_deref() {
        Some("other" | "unknown") | None => license
            .and_then(recognised)
            .or(declared)
            .filter(|name| name != "unknown"),
        Some(_) => declared,
    }
}

/// `license` of a model card; what a licence is called that the hub has no name for.
fn declared(readme: &str) -> Option<String> {
    let front = readme.strip_prefix("---")?.split("\n---").next()?;
    let front: serde_yaml_ng::Value = serde_yaml_ng::from_str(front).ok()?;
    let text = |key: &str| match front.get(key)? {
        serde_yaml_ng::Value::String(name) => Some(name.trim().to_lowercase()),
        serde_yaml_ng::Value::Sequence(names) => names.first()?.as_str().map(|n| n.trim().to_lowercase()),
        _ => None,
    };
    let name = text("license").filter(|name| !name.is_empty())?;
    match name.as_str() {
        "other" => Some(text("license_name").filter(|name| !name.is_empty()).unwrap_or(name)),
        _ => Some(name),
    }
}

fn recognised(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ").to_lowercase();
    let (name, _) = TEXTS
        .iter()
        .find(|(_, phrases)| phrases.iter().all(|p| text.contains(p)))?;
    Some((*name).to_string())
}

fn asks(license: &str) -> Asks {
    let fits = |(_, starts): &&(Asks, &[&str])| starts.iter().any(|start| license.starts_with(start));
    KNOWN.iter().find(fits).map_or(Asks::Unknown, |(asks, _)| *asks)
}

/// The most restrictive licence of all; `other` where no single one of them says it all.
pub fn of_child(parents: &[ParentLicense]) -> ChildLicense {
    let mut warnings = Vec::new();
    for parent in parents {
        let name = hub_name(&parent.model);
        match parent.license.as_deref() {
            None => warnings.push(format!(
                "{name} names no licence (neither `license:` in its README.md nor a known LICENSE text): ask its authors, and put \
                 the child's licence into its README.md"
            )),
            Some(license) => match asks(license) {
                Asks::Unknown => warnings.push(format!(
                    "{name} is under '{license}', whose terms are not known here: read them before you share the child"
                )),
                Asks::NoDerivatives => {
                    warnings.push(format!("{name} is under {license}, which forbids sharing what is made of it"));
                }
                _ => {}
            },
        }
    }
    let ask = |p: &ParentLicense| p.license.as_deref().map_or(Asks::Unknown, asks);
    let Some(strictest) = parents.iter().max_by_key(|p| ask(p)) else {
        return ChildLicense::default();
    };
    // Whoever keeps the stricter terms keeps those that ask for a notice only; two with terms of their own bind both.
    let mut own: Vec<&str> = Vec::new();
    for license in parents
        .iter()
        .filter(|p| ask(p) > Asks::Statement)
        .filter_map(|p| p.license.as_deref())
    {
        if !own.contains(&license) {
            own.push(license);
        }
    }
    if own.len() > 1 {
        warnings.push(format!(
            "the parents are under {}, which all bind the child: the card says 'other'",
            own.join(" and ")
        ));
    }
    let license = match (ask(strictest), own.len()) {
        (Asks::Unknown, _) | (_, 2..) => "other",
        _ => strictest.license.as_deref().unwrap_or("other"),
    };
    ChildLicense {
        license: Some(license.to_string()),
        warnings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(licenses: &[Option<&str>]) -> ChildLicense {
        let parents = (0..).zip(licenses).map(|(i, license)| ParentLicense {
            model: format!("models/m{i}"),
            license: license.map(str::to_string),
        });
        of_child(&parents.collect::<Vec<_>>())
    }

    #[test]
    fn the_stricter_licence_wins() {
        for (a, b, expected) in [
            ("mit", "apache-2.0", "apache-2.0"),
            ("cc0-1.0", "mit", "mit"),
            ("apache-2.0", "llama3.1", "llama3.1"),
            ("cc-by-4.0", "cc-by-sa-4.0", "cc-by-sa-4.0"),
            ("cc-by-nc-4.0", "apache-2.0", "cc-by-nc-4.0"),
            ("gpl-3.0", "gpl-3.0", "gpl-3.0"),
        ] {
            for pair in [[Some(a), Some(b)], [Some(b), Some(a)]] {
                let child = child(&pair);
                assert_eq!(child.license.as_deref(), Some(expected), "{a} and {b}");
                assert!(child.warnings.is_empty(), "{:?}", child.warnings);
            }
        }
        assert_eq!(child(&[]).license, None);
    }

    #[test]
    fn what_is_not_known_is_other_and_names_the_parent() {
        let silent = child(&[Some("mit"), None]);
        assert_eq!(silent.license.as_deref(), Some("other"));
        assert!(
            silent.warnings[0].starts_with("m1 names no licence"),
            "{:?}",
            silent.warnings
        );
        let own = child(&[Some("qwen-research"), Some("mit")]);
        assert_eq!(own.license.as_deref(), Some("other"));
        assert!(
            own.warnings[0].contains("m0 is under 'qwen-research'"),
            "{:?}",
            own.warnings
        );
        let both = child(&[Some("llama3.1"), Some("gemma")]);
        assert_eq!(both.license.as_deref(), Some("other"));
        assert!(both.warnings[0].contains("llama3.1 and gemma"), "{:?}", both.warnings);
        assert!(child(&[Some("cc-by-nd-4.0")]).warnings[0].contains("forbids"));
    }

    #[test]
    fn the_card_says_it_before_the_text() {
        let card = "---\nlanguage: en\nlicense: Apache-2.0\n---\n# Model\n";
        assert_eq!(
            read(Some(card), Some("GNU GENERAL PUBLIC LICENSE")).unwrap(),
            "apache-2.0"
        );
        let own = "---\nlicense: other\nlicense_name: qwen-research\n---\n";
        assert_eq!(read(Some(own), None).unwrap(), "qwen-research");
        assert_eq!(read(Some("---\nlicense: [mit, gpl]\n---\n"), None).unwrap(), "mit");
        assert_eq!(read(Some("---\nlicense: unknown\n---\n"), None), None);
        assert_eq!(read(Some("# No front matter\nlicense: mit\n"), None), None);
        assert_eq!(read(None, None), None);
    }

    #[test]
    fn texts_are_recognised() {
        let of_crate = include_str!("../../LICENSE");
        assert_eq!(read(None, Some(of_crate)).unwrap(), "apache-2.0");
        let mit = "Permission is hereby granted,\n  free of charge, to any person ... without restriction, including";
        assert_eq!(read(Some("# A readme"), Some(mit)).unwrap(), "mit");
        let nc = "Creative Commons Attribution-NonCommercial 4.0 International Public License";
        assert_eq!(read(None, Some(nc)).unwrap(), "cc-by-nc-4.0");
        assert_eq!(
            read(None, Some("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT")).unwrap(),
            "llama3.1"
        );
        assert_eq!(read(None, Some("All rights reserved.")), None);
    }
}

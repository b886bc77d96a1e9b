//! How a checkpoint's tensor names say where a tensor belongs: a stack of layers, and what stands before and after it.

use std::collections::{BTreeMap, BTreeSet};

/// Where a tensor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    Embeddings,
    Layer(usize),
    Norm,
    Head,
}

/// A tensor name with its first number cut out: `model.layers.` + 7 + `.mlp.up_proj.weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerName<'a> {
    pub prefix: &'a str,
    /// At most `u32::MAX`, so that counting from it cannot overflow.
    pub layer: usize,
    pub suffix: &'a str,
}

/// The parts of the name of a tensor in a layer; `None` for tensors outside of the layers.
pub(crate) fn layer_name(name: &str) -> Option<LayerName<'_>> {
    let mut start = 0;
    for word in name.split('.') {
        let end = start + word.len();
        let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        // A number between two dots; `h.0.attn` has one, a trailing `.0` has none.
        if is_number && start > 0 && end < name.len() {
            return Some(LayerName {
                prefix: &name[..start],
                layer: word.parse::<u32>().ok()? as usize,
                suffix: &name[end..],
            });
        }
        start = end + 1;
    }
    None
}

const EMBEDDINGS: &[&str] = &[
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
];
/// What tokens have in every layer (Gemma 4).
const PER_LAYER_EMBEDDINGS: &str = "embed_tokens_per_layer.weight";
const OTHER_EMBEDDINGS: &[&str] = &[
    PER_LAYER_EMBEDDINGS,
    "wpe.weight",
    "word_embeddings_layernorm",
    "embed_positions.weight",
];
const HEADS: &[&str] = &["lm_head.weight", "lm_head.bias", "embed_out.weight"];

fn ends(name: &str, words: &[&str]) -> bool {
    words.iter().any(|w| name.ends_with(w))
}

/// Where a tensor outside of the layers stands.
pub(crate) fn outer_part(name: &str) -> Part {
    if ends(name, EMBEDDINGS) || OTHER_EMBEDDINGS.iter().any(|w| name.contains(w)) {
        Part::Embeddings
    } else if ends(name, HEADS) {
        Part::Head
    } else {
        Part::Norm
    }
}

/// The stacks of a language model that count as the model's layers, alone and within models with other senses.
const TEXT_STACKS: [&str; 5] = [
    "model.layers.",
    "transformer.h.",
    "model.language_model.layers.",
    "language_model.model.layers.",
    "model.text_model.layers.",
];

/// Whether a tensor is the matrix of the output head.
pub(crate) fn is_head(name: &str) -> bool {
    ends(name, HEADS) && name.ends_with(".weight")
}

/// Whether the first axis of a tensor counts tokens.
pub(crate) fn counts_tokens(name: &str) -> bool {
    layer_name(name).is_none() && (ends(name, EMBEDDINGS) || ends(name, HEADS) || is_per_layer(name))
}

/// Whether a tensor holds what tokens have in every layer.
pub(crate) fn is_per_layer(name: &str) -> bool {
    name.ends_with(PER_LAYER_EMBEDDINGS)
}

/// Buffers that old checkpoints hold and every loader computes anew.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn.masked_bias")
}

/// The token embeddings among a model's tensors.
pub(crate) fn embeddings<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .find(|n| layer_name(n).is_none() && ends(n, EMBEDDINGS))
}

/// A checkpoint's tensors, sorted into layers and the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anatomy {
    /// Prefix of the stack that counts as the model's layers.
    pub prefix: String,
    pub layers: usize,
    /// What each layer is made of (suffixes with their leading dot), over all layers.
    pub suffixes: BTreeSet<String>,
    /// Tensors outside of the stack; those of other stacks too.
    pub outer: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Anatomy {
    /// Sorts a model's tensors by their names.
    ///
    /// # Errors
    /// The number of a layer without any tensor, and the first tensor of a layer after it. A number in a file may claim
    /// billions of layers; those that are counted from here on all hold something.
    pub fn new(names: Vec<String>) -> Result<Self, Gap> {
        let names: BTreeSet<String> = names.into_iter().filter(|n| !is_buffer(n)).collect();
        let mut stacks: BTreeMap<&str, usize> = BTreeMap::new();
        for name in names.iter().filter_map(|n| layer_name(n)) {
            let layers = stacks.entry(name.prefix).or_default();
            *layers = (*layers).max(name.layer + 1);
        }
        // A vision tower has a stack of its own; the text model's has a name of its own, or else is the deepest.
        let rank = |prefix: &str, layers: usize| (TEXT_STACKS.contains(&prefix), layers);
        let main = stacks.iter().max_by_key(|(prefix, layers)| rank(prefix, **layers));
        let (prefix, layers) = main.map_or((String::new(), 0), |(p, l)| (p.to_string(), *l));
        refuse_gaps(&prefix, &names)?;
        let (mut suffixes, mut outer) = (BTreeSet::new(), BTreeSet::new());
        for name in &names {
            match layer_name(name) {
                Some(n) if n.prefix == prefix => {
                    suffixes.insert(n.suffix.to_string());
                }
                _ => {
                    outer.insert(name.clone());
                }
            }
        }
        Ok(Anatomy {
            prefix,
            layers,
            suffixes,
            outer,
            names,
        })
    }

    /// Leaves out the layers beyond those that the config counts: heads that predict several tokens are stored so, and a
    /// loader would take them for layers like the others. Gives the first of them and how many tensors that is.
    pub fn leave_out_beyond(&mut self, layers: usize) -> Option<(usize, usize)> {
        if layers == 0 || layers >= self.layers || !TEXT_STACKS.contains(&self.prefix.as_str()) {
            return None;
        }
        let in_stack = |name: &String| layer_name(name).filter(|n| n.prefix == self.prefix).map(|n| n.layer);
        let (beyond, names): (BTreeSet<String>, BTreeSet<String>) = std::mem::take(&mut self.names)
            .into_iter()
            .partition(|name| in_stack(name).is_some_and(|layer| layer >= layers));
        let suffix = |name: &String| {
            layer_name(name)
                .filter(|n| n.prefix == self.prefix)
                .map(|n| n.suffix.to_string())
        };
        self.suffixes = names.iter().filter_map(suffix).collect();
        self.names = names;
        self.layers = layers;
        Some((layers, beyond.len()))
    }

    /// Whether there are two stacks, of an encoder and of a decoder, whose names differ by nothing else.
    pub fn encodes_and_decodes(&self) -> bool {
        let in_a_stack = |name: &&String| layer_name(name).is_some();
        let of_encoder = self
            .names
            .iter()
            .filter(in_a_stack)
            .filter(|name| name.contains("encoder."));
        let mut counterparts = of_encoder.map(|name| name.replacen("encoder.", "decoder.", 1));
        counterparts.any(|name| self.names.contains(&name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub fn embeddings(&self) -> Option<&str> {
        embeddings(self.outer.iter().map(String::as_str))
    }

    pub fn in_layer(&self, layer: usize, suffix: &str) -> String {
        format!("{}{layer}{suffix}", self.prefix)
    }
}

/// A layer that a stack lacks, though it has a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub layer: usize,
    /// The first tensor after the gap.
    pub tensor: String,
}

fn refuse_gaps(prefix: &str, names: &BTreeSet<String>) -> Result<(), Gap> {
    let in_stack = |n: &&String| layer_name(n).is_some_and(|n| n.prefix == prefix);
    let mut first: BTreeMap<usize, &String> = BTreeMap::new();
    for name in names.iter().filter(in_stack) {
        if let Some(n) = layer_name(name) {
            first.entry(n.layer).or_insert(name);
        }
    }
    match first
        .iter()
        .enumerate()
        .find(|(expected, (layer, _))| *expected != **layer)
    {
        Some((layer, (_, tensor))) => Err(Gap {
            layer,
            tensor: tensor.to_string(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_their_first_number() {
        let n = layer_name("model.layers.12.mlp.experts.3.w1.weight").unwrap();
        assert_eq!(
            (n.prefix, n.layer, n.suffix),
            ("model.layers.", 12, ".mlp.experts.3.w1.weight")
        );
        assert_eq!(layer_name("model.norm.weight"), None);
        assert_eq!(layer_name("0.weight"), None);
        assert_eq!(layer_name("head.0"), None);
    }

    #[test]
    fn parts_by_name() {
        assert_eq!(outer_part("model.embed_tokens.weight"), Part::Embeddings);
        assert_eq!(outer_part("lm_head.weight"), Part::Head);
        assert_eq!(outer_part("model.norm.weight"), Part::Norm);
        assert!(counts_tokens("lm_head.bias") && !counts_tokens("model.norm.weight"));
        let per_layer = "model.embed_tokens_per_layer.weight";
        assert!(
            counts_tokens(per_layer) && outer_part(per_layer) == Part::Embeddings && embeddings([per_layer]).is_none()
        );
    }

    #[test]
    fn the_text_stack_is_the_models_layers() {
        let names = [
            "vision.blocks.30.w",
            "model.layers.0.a",
            "model.layers.1.b",
            "model.norm.weight",
        ];
        let anatomy = Anatomy::new(names.map(String::from).to_vec()).unwrap();
        assert_eq!((anatomy.prefix.as_str(), anatomy.layers), ("model.layers.", 2));
        assert_eq!(anatomy.outer.len(), 2);
    }

    #[test]
    fn an_encoder_and_a_decoder_are_told_by_their_names() {
        let both = |names: &[&str]| {
            let names = names.iter().map(ToString::to_string).collect();
            Anatomy::new(names).unwrap().encodes_and_decodes()
        };
        assert!(both(&[
            "model.encoder.layers.0.fc1.weight",
            "model.decoder.layers.0.fc1.weight"
        ]));
        assert!(both(&["encoder.block.0.layer.0.w", "decoder.block.0.layer.0.w"]));
        assert!(!both(&["vision_tower.encoder.layers.0.w", "model.layers.0.w"]));
        assert!(!both(&["model.decoder.layers.0.w"]));
    }

    /// A tensor of no elements called `model.layers.100000.x` took 2.2 GB, `…10000000.x` all memory.
    #[test]
    fn the_number_in_a_name_does_not_make_layers() {
        let anatomy = |names: &[&str]| Anatomy::new(names.iter().map(ToString::to_string).collect());
        for (far, tensor) in [
            ("model.layers.100000.x", 1),
            ("model.layers.4294967295.x", 1),
            ("model.layers.2.x", 1),
        ] {
            let gap = anatomy(&["model.layers.0.x", far]).unwrap_err();
            assert_eq!((gap.layer, gap.tensor.as_str()), (tensor, far));
        }
        // More than a layer can be numbered by: not a layer at all.
        assert_eq!(
            anatomy(&["model.layers.0.x", "model.layers.18446744073709551615.x"])
                .unwrap()
                .layers,
            1
        );
        assert_eq!(anatomy(&["model.layers.1.x"]).unwrap_err().layer, 0);
        assert_eq!(anatomy(&["model.layers.1.x", "model.layers.0.y"]).unwrap().layers, 2);
        // A stack that is not the model's may begin anywhere.
        assert_eq!(anatomy(&["model.layers.0.x", "mtp.7.x"]).unwrap().layers, 1);
    }
}

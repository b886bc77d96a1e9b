//! `heterosis grams`: what a model's linear maps read, for `merge_method: regmean`.

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Failure, Outcome, environment,
    measuring::{self, Subject},
    print, print_json,
};
use crate::{
    checkpoint::{TensorSpec, Writer},
    cli::GramsArgs,
    isa::DType,
    learn::{
        Error,
        grams::{Inventory, of_layer},
        twin,
    },
    merge::Grams,
    model::{Device, Text, Twin},
};

/// `--json`.
#[derive(Serialize)]
struct Document {
    out: String,
    labels: &'static str,
    texts: usize,
    /// Tokens that were read.
    tokens: usize,
    matrices: usize,
    size_bytes: u64,
    elapsed_ms: u64,
}

pub fn grams(args: GramsArgs) -> Outcome {
    let (clock, with) = (environment::stopwatch(), &args.with);
    let Subject {
        opened,
        runtime,
        texts,
        mut writer,
    } = Subject::new(&args.model, &args.out, with)?;
    let twin = twin(&opened.plan, &opened.parents, Device::Cpu, runtime.dtype).map_err(Failure::work)?;
    let inventory = Inventory::of(&twin).map_err(Failure::work)?;
    writer.declare(&specs(&inventory))?;
    let tokens = write_layers(&writer, &twin, &texts).map_err(Failure::work)?;
    let asked = with.asked.tasks.iter().map(String::as_str);
    let mut provenance = measuring::provenance(with, &args.model, &opened.parents, asked, texts.len());
    provenance["tokens"] = tokens.into();
    writer.json(
        "config.json",
        &config(opened.plan.config(), &inventory.grams, provenance),
    )?;
    writer.finish().map_err(Failure::work)?;
    show(
        &Document {
            out: args.out.display().to_string(),
            labels: with.labels.word(),
            texts: texts.len(),
            tokens,
            matrices: inventory.tensors.len(),
            size_bytes: specs(&inventory).iter().map(|spec| spec.size_bytes() as u64).sum(),
            elapsed_ms: clock().as_millis() as u64,
        },
        with.json,
    );
    Ok(())
}

/// In f32: a sum of matrices that were rounded further can have no inverse.
pub(super) fn specs(inventory: &Inventory) -> Vec<TensorSpec> {
    let spec = |(name, shape): &(String, Vec<usize>)| TensorSpec {
        name: name.clone(),
        dtype: DType::F32,
        shape: shape.clone(),
    };
    inventory.tensors.iter().map(spec).collect()
}

/// Reads the texts, and writes the matrices layer by layer. Gives the tokens that were read.
fn write_layers(writer: &Writer, twin: &Twin, texts: &[Text]) -> anyhow::Result<usize> {
    let mut reading = twin.begin(texts).map_err(Error::from)?;
    let layers = twin.spec().layers.len();
    let bar = environment::progress_bar(layers as u64, "reading");
    for layer in 0..layers {
        for (name, values) in of_layer(twin, layer, &reading)? {
            writer.put_f32(&name, &values)?;
        }
        twin.advance(layer, &mut reading)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(reading.tokens())
}

/// The model's config, with which matrix is whose and where they come from.
pub(super) fn config(of_model: &Value, grams: &Grams, provenance: Value) -> Value {
    let mut config = of_model.clone();
    config[Grams::KEY] = json!({
        "of": grams.of,
        "turned": grams.turned,
        "measured": provenance,
    });
    config
}

fn show(document: &Document, json: bool) {
    if json {
        print_json(document);
        return;
    }
    print(format_args!(
        "{}  ({} matrices, {:.1} MB; {} texts, {} tokens; name it in a recipe with 'grams: {}' beside 'model')",
        document.out,
        document.matrices,
        document.size_bytes as f64 / 1e6,
        document.texts,
        document.tokens,
        document.out
    ));
}

//! Where a model says what its licence is: the model card and the licence's text beside its weights. What they say is not
//! read here.

use std::path::{Path, PathBuf};

use super::{
    Checkpoint, Error,
    files::{TEXT_LIMIT, read_regular},
};

/// Names under which licences lie beside weights.
const LICENSES: [&str; 6] = [
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENCE",
    "LICENCE.txt",
    "COPYING",
];

/// What says under which licence a model is; each is absent where there is no such file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LicenseTexts {
    /// `README.md`; for a GGUF file one that is made up from its metadata.
    pub readme: Option<String>,
    /// `LICENSE` and the like.
    pub license: Option<String>,
}

impl Checkpoint {
    /// Of the model, and then of the adapter that lies over it.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub fn license_texts(&self) -> Result<Vec<LicenseTexts>, Error> {
        let mut texts = vec![match &self.gguf {
            // What lies beside a .gguf file need not belong to it.
            Some(metadata) => LicenseTexts {
                readme: metadata
                    .get("general.license")
                    .and_then(|name| name.text())
                    .map(|name| format!("---\nlicense: {}\n---\n", serde_json::Value::from(name))),
                license: None,
            },
            None => LicenseTexts::beside(&self.path)?,
        }];
        if let Some(adapter) = &self.adapter {
            texts.push(LicenseTexts::beside(adapter.dir())?);
        }
        Ok(texts)
    }
}

impl LicenseTexts {
    fn beside(dir: &Path) -> Result<Self, Error> {
        let license = LICENSES.iter().map(|name| dir.join(name)).find(|file| file.is_file());
        Ok(Self {
            readme: read(dir.join("README.md"))?,
            license: license.map_or(Ok(None), read)?,
        })
    }
}

fn read(file: PathBuf) -> Result<Option<String>, Error> {
    if !file.is_file() {
        return Ok(None);
    }
    let bytes = read_regular(&file, TEXT_LIMIT).map_err(|e| Error::read(&file, e))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

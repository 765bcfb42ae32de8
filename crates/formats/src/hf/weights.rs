//! The weights of an HF folder: one safetensors file, or several with an index.

use std::collections::BTreeMap;
use std::path::Path;

use crate::atomic::is_plain_name;
use crate::document::shown;
use crate::json::{LIST_BYTES_MAX, Object, read_object, required, shown_value};
use crate::safe::SafeFile;
use crate::{DocumentError, Error, Tensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHT_MAP: &str = "weight_map";

/// All tensors of a folder, mapped.
#[derive(Clone, Debug)]
pub struct Weights {
    files: Vec<SafeFile>,
    /// Which file a tensor lies in.
    places: BTreeMap<String, usize>,
}

impl Weights {
    /// Maps the weights in `dir`; `None` if there are none.
    ///
    /// As in transformers, `model.safetensors` counts before an index.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn open(dir: &Path) -> Result<Option<Self>, Error> {
        let single = dir.join(SINGLE);
        if single.is_file() {
            let file = SafeFile::open(&single)?;
            let places = file.tensor_names().map(|name| (name.to_owned(), 0)).collect();
            return Ok(Some(Self { files: vec![file], places }));
        }
        let index_path = dir.join(INDEX);
        let Some(index) = read_object(&index_path, LIST_BYTES_MAX)? else { return Ok(None) };
        let of_index = |reason| Error::document(&index_path, reason);
        let root = Object::root(&index);
        let map = root.object(WEIGHT_MAP).map_err(of_index)?;
        let map = required(map, WEIGHT_MAP, "an object of tensor and file names");
        Self::open_shards(dir, map.map_err(of_index)?, of_index).map(Some)
    }

    fn open_shards(
        dir: &Path,
        map: Object<'_>,
        of_index: impl Fn(DocumentError) -> Error,
    ) -> Result<Self, Error> {
        let mut weights = Self { files: Vec::new(), places: BTreeMap::new() };
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        for (tensor, value) in map.fields() {
            // A name with a path in it could reach any file of the machine.
            let Some(name) = value.as_str().filter(|name| is_plain_name(name)) else {
                let expected = "the name of a file in the same folder";
                let (key, value) = (map.path(tensor), shown_value(value));
                return Err(of_index(DocumentError::out_of_range(key, value, expected)));
            };
            let number = match numbers.get(name) {
                Some(&number) => number,
                None => {
                    weights.files.push(SafeFile::open(&dir.join(name))?);
                    numbers.insert(name, weights.files.len() - 1);
                    weights.files.len() - 1
                }
            };
            if weights.files[number].tensor(tensor).is_none() {
                let expected = format!("a file that holds {}", shown(tensor));
                let (key, value) = (map.path(tensor), shown(name));
                return Err(of_index(DocumentError::out_of_range(key, value, expected)));
            }
            weights.places.insert(tensor.to_owned(), number);
        }
        Ok(weights)
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.files[*self.places.get(name)?].tensor(name)
    }

    /// Size of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(SafeFile::file_bytes).sum()
    }
}

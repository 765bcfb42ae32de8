//! The weights of an HF folder: one safetensors file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::bitsandbytes::{Packed, Packing};
use crate::atomic::is_plain_name;
use crate::document::shown;
use crate::json::{LIST_BYTES_MAX, Object, read_object, required, shown_value};
use crate::safe::{RawTensor, SafeFile};
use crate::{DocumentError, Error, MappedFile, Tensor, TensorError};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHT_MAP: &str = "weight_map";

/// All tensors of a folder, mapped.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    files: Vec<SafeFile>,
    /// Which file a tensor lies in.
    places: BTreeMap<String, usize>,
    /// Weights whose scales lie in other tensors.
    packed: BTreeMap<String, Packed>,
    /// These other tensors, which are no weights of their own.
    companions: BTreeSet<String>,
}

impl Weights {
    /// Maps the weights in `dir`; `None` if there are none.
    ///
    /// As in transformers, `model.safetensors` counts before an index.
    ///
    /// # Errors
    /// [`Error`], naming the file.
    pub fn open(dir: &Path) -> Result<Option<Self>, Error> {
        Self::open_packed(dir, Packing::None)
    }

    /// Maps weights that are packed in the way their config says.
    pub(crate) fn open_packed(dir: &Path, packing: Packing) -> Result<Option<Self>, Error> {
        let Some(mut weights) = Self::open_files(dir, packing)? else { return Ok(None) };
        if packing == Packing::Bitsandbytes {
            weights.find_packed(dir)?;
        }
        Ok(Some(weights))
    }

    fn open_files(dir: &Path, packing: Packing) -> Result<Option<Self>, Error> {
        let open = match packing {
            Packing::None => SafeFile::open,
            Packing::Bitsandbytes => SafeFile::open_with_bytes,
        };
        let single = dir.join(SINGLE);
        if single.is_file() {
            let file = open(&single)?;
            let places = file.tensor_names().map(|name| (name.to_owned(), 0)).collect();
            return Ok(Some(Self { files: vec![file], places, ..Self::default() }));
        }
        let index_path = dir.join(INDEX);
        let Some(index) = read_object(&index_path, LIST_BYTES_MAX)? else { return Ok(None) };
        let of_index = |reason| Error::document(&index_path, reason);
        let root = Object::root(&index);
        let map = root.object(WEIGHT_MAP).map_err(of_index)?;
        let map = required(map, WEIGHT_MAP, "an object of tensor and file names");
        Self::open_shards(dir, map.map_err(of_index)?, open, of_index).map(Some)
    }

    fn open_shards(
        dir: &Path,
        map: Object<'_>,
        open: fn(&Path) -> Result<SafeFile, Error>,
        of_index: impl Fn(DocumentError) -> Error,
    ) -> Result<Self, Error> {
        let mut weights = Self::default();
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
                    weights.files.push(open(&dir.join(name))?);
                    numbers.insert(name, weights.files.len() - 1);
                    weights.files.len() - 1
                }
            };
            if weights.files[number].raw(tensor).is_none() {
                let expected = format!("a file that holds {}", shown(tensor));
                let (key, value) = (map.path(tensor), shown(name));
                return Err(of_index(DocumentError::out_of_range(key, value, expected)));
            }
            weights.places.insert(tensor.to_owned(), number);
        }
        Ok(weights)
    }

    /// Finds the weights that bitsandbytes packed, and checks that they can be unpacked.
    fn find_packed(&mut self, dir: &Path) -> Result<(), Error> {
        let (mut packed, mut companions) = (BTreeMap::new(), BTreeSet::new());
        for (name, file) in &self.places {
            let of_file = |reason| Error::document(self.files[*file].path(), reason);
            let of_tensor = |reason| Error::tensor(dir, reason);
            let Some(found) = Packed::find(self, name, of_file, of_tensor)? else { continue };
            companions.extend(found.companions(name).filter(|name| self.raw(name).is_some()));
            packed.insert(name.clone(), found);
        }
        for name in self.places.keys() {
            let known = packed.contains_key(name) || companions.contains(name);
            if !known && self.plain(name).is_none() {
                let dtype = self.raw(name).map(|raw| format!("{:?}", raw.dtype));
                let (name, found) = (name.clone(), dtype.unwrap_or_default());
                let expected = "a float, or a weight with scales";
                return Err(Error::tensor(dir, TensorError::Dtype { name, expected, found }));
            }
        }
        (self.packed, self.companions) = (packed, companions);
        Ok(())
    }

    /// Names of all weights, sorted. Tensors that hold the scales of others are not among them.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        let names = self.places.keys().filter(|name| !self.companions.contains(*name));
        names.map(String::as_str)
    }

    /// The weight of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match self.packed.get(name) {
            Some(packed) => packed.tensor(self, name),
            None if self.companions.contains(name) => None,
            None => self.plain(name),
        }
    }

    fn plain(&self, name: &str) -> Option<Tensor<'_>> {
        self.files[*self.places.get(name)?].tensor(name)
    }

    /// Any tensor of the files, whatever its dtype.
    pub(super) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        self.files[*self.places.get(name)?].raw(name)
    }

    /// The mapped files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &MappedFile> {
        self.files.iter().map(SafeFile::mapped)
    }

    /// Size of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(SafeFile::file_bytes).sum()
    }
}

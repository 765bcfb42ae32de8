//! Bytes of mapped files, as something the system can be given advice about.

use std::ops::Range;

use crate::MappedFile;

/// Some consecutive bytes of a mapped file.
///
/// What is said here of them is advice: it changes when the system reads them and how long it keeps
/// them, never what they are. On Linux it is heeded; other systems decide by themselves.
#[derive(Clone, Debug)]
pub struct Stretch {
    file: MappedFile,
    range: Range<usize>,
}

impl Stretch {
    /// Their number.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Where in the file they lie.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Asks the system to read some of them soon, and does not wait for it.
    ///
    /// # Panics
    /// When `part` reaches beyond them.
    pub fn will_need(&self, part: Range<usize>) {
        assert!(part.end <= self.len(), "{part:?} of {} bytes", self.len());
        self.file.will_need(self.range.start + part.start..self.range.start + part.end);
    }

    /// Tells the system that they will not be read for a while. Pages that hold anything else as
    /// well stay.
    pub fn let_go(&self) {
        self.file.let_go(self.range());
    }
}

/// The stretches that slices of `files` take, in the order of the files. Slices with less than a
/// page between them are one stretch: what lies between holds no page of its own.
pub(crate) fn stretches(
    files: &[&MappedFile],
    mut slices: Vec<(usize, Range<usize>)>,
) -> Vec<Stretch> {
    const GAP: usize = 4096;
    slices.sort_by_key(|(file, range)| (*file, range.start));
    let mut merged: Vec<(usize, Range<usize>)> = Vec::new();
    for (file, range) in slices {
        match merged.last_mut() {
            Some((last, before)) if *last == file && range.start < before.end + GAP => {
                before.end = before.end.max(range.end);
            }
            _ => merged.push((file, range)),
        }
    }
    let stretch = |(file, range): (usize, _)| Stretch { file: files[file].clone(), range };
    merged.into_iter().map(stretch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: usize) -> (tempfile::TempDir, MappedFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        (dir, file)
    }

    #[test]
    fn slices_near_each_other_are_one_stretch() {
        let (_dir, file) = file(100_000);
        let slices = vec![
            (1, 0..10),
            (0, 50_000..60_000),
            (0, 0..1_000),
            (0, 1_032..9_000),
            (0, 13_096..13_100),
            (0, 14_000..14_010),
        ];
        let ranges: Vec<_> =
            stretches(&[&file, &file], slices).iter().map(Stretch::range).collect();
        assert_eq!(ranges, [0..9_000, 13_096..14_010, 50_000..60_000, 0..10]);
    }

    #[test]
    fn advice_changes_no_byte() {
        let (_dir, file) = file(300_001);
        let before = file.bytes().to_vec();
        let all = stretches(&[&file], vec![(0, 5..300_001)]).remove(0);
        let page = stretches(&[&file], vec![(0, 100..200)]).remove(0);
        for stretch in [&all, &page] {
            stretch.will_need(0..stretch.len());
            stretch.let_go();
            assert_eq!(file.bytes(), before);
            stretch.will_need(3..3);
        }
    }

    #[test]
    fn a_slice_is_found_where_it_lies_and_nowhere_else() {
        let (_dir, one) = file(1_000);
        let (_other_dir, other) = file(1_000);
        assert_eq!(one.range_of(&one.bytes()[10..20]), Some(10..20));
        assert_eq!(one.range_of(other.bytes()), None);
        assert_eq!(one.range_of(&[0_u64; 4]), None);
    }
}

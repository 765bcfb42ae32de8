//! Event files of TensorBoard: scalars over steps, as `tensorboard --logdir` reads them.
//!
//! A file is a row of TFRecords: the length of the data (64 bits, little-endian), a checksum of
//! these eight bytes, the data, a checksum of the data. The data are protocol buffers, of which a
//! scalar needs few fields: `Event { double wall_time = 1; int64 step = 2; string file_version = 3;
//! Summary summary = 5 }`, `Summary { repeated Value value = 1 }`, `Value { string tag = 1; float
//! simple_value = 2 }`. The first event tells the version of the format.

use std::io::{self, Write};

/// What the first event says.
const VERSION: &str = "brain.Event:2";

/// Room for a record of some ten scalars; a longer one takes more.
const RECORD_BYTES: usize = 1024;

/// Writes event files. Each record goes out in one piece, so that whoever reads along sees no half
/// one for long.
#[derive(Debug)]
pub struct EventWriter<W> {
    out: W,
    record: Vec<u8>,
    value: Vec<u8>,
    summary: Vec<u8>,
}

impl<W: Write> EventWriter<W> {
    /// Begins a file, at a time in seconds since the beginning of 1970, UTC.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(out: W, wall_time: f64) -> io::Result<Self> {
        let room = || Vec::with_capacity(RECORD_BYTES);
        let mut writer = Self { out, record: room(), value: room(), summary: room() };
        writer.begin(wall_time);
        text(&mut writer.record, 3, VERSION.as_bytes());
        writer.end()?;
        Ok(writer)
    }

    /// Appends scalars of one step by their tags. They are written as 32-bit floats.
    ///
    /// # Errors
    /// Those of the writer it was made with.
    pub fn scalars<'t>(
        &mut self,
        wall_time: f64,
        step: u64,
        scalars: impl IntoIterator<Item = (&'t str, f64)>,
    ) -> io::Result<()> {
        self.begin(wall_time);
        key(&mut self.record, 2, WireType::Varint);
        varint(&mut self.record, step);
        self.summary.clear();
        for (tag, scalar) in scalars {
            self.value.clear();
            text(&mut self.value, 1, tag.as_bytes());
            key(&mut self.value, 2, WireType::Four);
            self.value.extend_from_slice(&(scalar as f32).to_le_bytes());
            text(&mut self.summary, 1, &self.value);
        }
        text(&mut self.record, 5, &self.summary);
        self.end()
    }

    /// The writer it was made with.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Begins a record with the time of its event.
    fn begin(&mut self, wall_time: f64) {
        self.record.clear();
        // Length and checksum are known at the end.
        self.record.extend_from_slice(&[0; 12]);
        key(&mut self.record, 1, WireType::Eight);
        self.record.extend_from_slice(&wall_time.to_le_bytes());
    }

    fn end(&mut self) -> io::Result<()> {
        let length = (self.record.len() as u64 - 12).to_le_bytes();
        self.record[..8].copy_from_slice(&length);
        self.record[8..12].copy_from_slice(&masked(&length).to_le_bytes());
        let checksum = masked(&self.record[12..]);
        self.record.extend_from_slice(&checksum.to_le_bytes());
        self.out.write_all(&self.record)?;
        self.out.flush()
    }
}

/// How a field's value is laid out.
#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Eight = 1,
    Counted = 2,
    Four = 5,
}

fn key(out: &mut Vec<u8>, field: u8, wire: WireType) {
    out.push(field << 3 | wire as u8);
}

/// Seven bits a byte, the lowest first; all but the last have the top bit set.
fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Bytes with their number before them: a text, or a message inside another.
fn text(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    key(out, field, WireType::Counted);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The checksum of a TFRecord: CRC-32C, turned and shifted so that the checksum of data that hold
/// checksums is no weaker.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bits reflected. Records are a hundred bytes, one an update at most: a
/// table is quick enough.
fn crc32c(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, next)
}

/// The polynomial, reflected.
const CASTAGNOLI: u32 = 0x82f6_3b78;

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ CASTAGNOLI } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&up), 0x46dd_794e);
        let down: Vec<u8> = (0..32).rev().collect();
        assert_eq!(crc32c(&down), 0x113f_db5c);
    }

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        let of = |n| {
            let mut out = Vec::new();
            varint(&mut out, n);
            out
        };
        assert_eq!((of(0), of(127), of(300)), (vec![0], vec![0x7f], vec![0xac, 2]));
        assert_eq!(of(u64::MAX), [vec![0xff; 9], vec![1]].concat());
    }

    #[test]
    fn the_first_record_is_that_of_every_event_file() {
        let file = EventWriter::new(Vec::new(), 1.5).unwrap().into_inner();
        // 24 bytes of data: a double and a text of 13 bytes, each behind its key.
        let mut data = vec![9];
        data.extend(1.5_f64.to_le_bytes());
        data.extend([0x1a, 13]);
        data.extend(b"brain.Event:2");
        assert_eq!((&file[..8], &file[12..36]), (&24_u64.to_le_bytes()[..], &data[..]));
        // The checksum of this length, as it stands at the start of files of other writers.
        assert_eq!(file[8..12], masked(&24_u64.to_le_bytes()).to_le_bytes());
        assert_eq!(file[8..12], [0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(file.len(), 8 + 4 + 24 + 4);
    }
}
